"""Site: from a store and a path to a page, or to the same page as JSON. No HTTP: who serves it is `dashboard/process.py`.

Each page is a document, made by a function of this package or of the loop; the page and its twin under `/api` say the same. A
document is read from the ledger and from sketches: no code of an app runs here, and no row is read but golden ones.
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from staytrue.dashboard import words
from staytrue.dashboard.card import markdown, sections
from staytrue.dashboard.confirm_page import confirm_document
from staytrue.dashboard.data_page import data_document, source_page_document
from staytrue.dashboard.health_page import apps_document, health_document
from staytrue.dashboard.log_page import (
    incident_document,
    incidents_document,
    log_document,
    replays_document,
)
from staytrue.dashboard.loss_picture import loss_picture
from staytrue.dashboard.release_page import card_document, release_page_document, releases_document
from staytrue.dashboard.small_pictures import (
    column_picture,
    key_picture,
    lineage_picture,
    policies_picture,
    race_picture,
    rows_picture,
)
from staytrue.errors import Conflict, Corrupt, InvalidInput, NotFound, Refused, StaytrueError, Unavailable
from staytrue.loop.data import kept_sources
from staytrue.loop.job_list import job_document, jobs_document
from staytrue.loop.orders import paused
from staytrue.store.ledger import LIVE
from staytrue.store.store import Store

__all__ = ["Answer", "fragments", "respond", "slow_paths"]

_HTML: Final = "text/html; charset=utf-8"
_JSON: Final = "application/json"
_WIDE, _NARROW = 940, 360
_SERVER: Final = {
    "requests": "requests",
    "latency": "latency",
    "errors": "errors",
    "queue": "queue",
    "disk": "disk",
    "ledger": "ledger",
    "worker": "worker",
    "clock": "clock",
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a path has: for a browser, or for a program."""

    status: int
    body: bytes
    content_type: str


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A request, as far as a page looks at it."""

    store: Store
    app: str
    rest: str
    """Of the path, below the app's pages."""
    query: Mapping[str, str]
    now: datetime
    live: Mapping[str, Any] | None

    def number(self, name: str) -> int | None:
        """A whole number of the query, if it is one."""
        text = self.query.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None

    @property
    def page(self) -> int:
        return self.number("page") or 1


@dataclass(frozen=True, kw_only=True)
class _View:
    """A page: its document, its template, and what the template needs beside the document."""

    template: str
    document: dict[str, Any]
    tab: str = ""
    command: str = ""
    more: Mapping[str, Any] | None = None


def respond(
    store: Store, path: str, query: Mapping[str, str], *, now: datetime, live: Mapping[str, Any] | None = None
) -> Answer:
    """The page at a path, the document at a path below `/api`, or a file below `/static`.

    Args:
        path: decoded. query: decoded, one value each.
        live: what only the running server knows (`dashboard/process.py`); None: nobody serves.

    Raises:
        Nothing that is a `StaytrueError`: it becomes a page that says it.
    """
    if path.startswith("/static/"):
        return _static(path.removeprefix("/static/"))
    is_api = path == "/api" or path.startswith("/api/")
    where = (path.removeprefix("/api") or "/") if is_api else path
    app = ""
    try:
        app, rest = _app_of(store, where)
        asked = _Asked(store=store, app=app, rest=rest, query=query, now=now, live=live)
        if rest.endswith("/card.md") and not is_api:
            return Answer(
                status=200, body=markdown(_card(asked).document).encode(), content_type="text/markdown; charset=utf-8"
            )
        view = _view(asked, where)
        if is_api:
            return Answer(status=200, body=_as_json(view.document), content_type=_JSON)
        return Answer(status=200, body=_drawn(view, asked, where), content_type=_HTML)
    except StaytrueError as exc:
        return _problem(exc, app, now=now, live=live, is_api=is_api)


def slow_paths(store: Store) -> Iterator[str]:
    """Pages that take longer the first time, since they read what later ones remember: incidents, and sources."""
    for app in store.apps():
        yield f"/apps/{app}"
        yield f"/apps/{app}/incidents"
        yield from (f"/apps/{app}/data/{spec.name}" for spec in kept_sources(store, app))


def fragments(path: str) -> tuple[str, ...]:
    """The ids of the elements of a page that change when something happens."""
    parts = [part for part in path.split("/") if part]
    if not parts:
        return ("apps", *_FRAGMENTS[""])
    if parts[0] != "apps" or len(parts) < 2:
        return ()
    page = parts[2] if len(parts) > 2 else ""
    if len(parts) > 4:
        return ()
    if len(parts) > 3:
        return {
            "releases": ("actions", "trial"),
            "incidents": ("incident",),
            "data": ("quarantine",),
            "jobs": ("job",),
        }.get(page, ())
    return _FRAGMENTS.get(page, ())


_FRAGMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("alerts", "now", "incidents", "loss", "story", "segments", "system"),
    "releases": ("releases",),
    "data": ("sources",),
    "incidents": ("incidents",),
    "replays": ("replays",),
    "log": ("events",),
    "jobs": ("jobs",),
}


# ------------------------------------------------------------ which page


def _app_of(store: Store, path: str) -> tuple[str, str]:
    """The app that a path is about (none: all of them), and what of the path is below its pages.

    A name may hold anything, a slash too: the longest known name counts.
    """
    if not path.startswith("/apps/"):
        return "", ""
    below = path.removeprefix("/apps/")
    fitting = [name for name in store.apps() if below == name or below.startswith(f"{name}/")]
    if not fitting:
        store.app(below.partition("/")[0] or "-")
    app = max(fitting, key=len)
    return app, below.removeprefix(app).strip("/")


def _view(asked: _Asked, path: str) -> _View:
    if not asked.app:
        if path != "/":
            raise _nothing(path)
        apps = asked.store.apps()
        if len(apps) == 1:
            return _health(_Asked(**{**vars(asked), "app": apps[0]}))
        return _View(
            template="apps.html",
            document=apps_document(asked.store, now=asked.now, served=asked.live is not None),
            command="staytrue status",
        )
    first, _, below = asked.rest.partition("/")
    page = (_BELOW if below else _PAGES).get(first)
    if page is None:
        raise _nothing(path)
    return page(asked)


def _nothing(path: str) -> NotFound:
    return NotFound(
        "ST1000", f"There is no page {path[:120]!r}. The page of all apps leads to every other.", path=path[:120]
    )


def _health(asked: _Asked) -> _View:
    document = health_document(asked.store, asked.app, now=asked.now, live=asked.live)
    href = f"{_base(asked.app)}/log"
    lost, events = document["losses"], document["events"]
    more = {
        "loss_wide": _safe(loss_picture(lost, events, width=_WIDE, href=href)),
        "loss_narrow": _safe(loss_picture(lost, events, width=_NARROW, href=href)),
        "server": _server(document["server"]),
        "paused": paused(asked.store.ledger, asked.app),
        "past": document["status"]["at"] if asked.now - _moment(document["status"]["at"]) > _OLD else None,
    }
    return _View(template="health.html", document=document, tab="Health", command="staytrue status", more=more)


_OLD: Final = timedelta(days=2)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _server(server: Mapping[str, Any] | None) -> list[dict[str, Any]] | None:
    """What the server says of itself, as lines: as its vitals put it, or else a number with its name."""
    if server is None:
        return None
    lines = []
    for name, value in server.items():
        if isinstance(value, Mapping) and "sentence" in value:
            bad = bool(value.get("is_bad"))
            said = value["sentence"] or _evidence(value.get("evidence") or {})
            lines.append({"name": _SERVER.get(name, name), "state": "bad" if bad else "well", "said": said})
        elif isinstance(value, Mapping):
            lines.append({"name": _SERVER.get(name, name), "state": "", "said": _evidence(value)})
        elif value is not None:
            lines.append({"name": name.replace("_", " "), "state": "", "said": _with_unit(name, value)})
    return lines


def _evidence(evidence: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name.removesuffix('_bytes').removesuffix('_s').replace('_', ' ')} {_with_unit(name, value)}"
        for name, value in evidence.items()
        if value is not None and not isinstance(value, Mapping | list | bool | str)
    )


def _with_unit(name: str, value: Any) -> str:
    """The unit lives in the name."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if name.endswith("_bytes"):
            return words.size(value)
        if name.endswith("_ms"):
            return f"{words.number(value)} ms"
        if name.endswith("_s"):
            return f"{1000 * value:.3g} ms" if 0 < value < 1 else f"{words.number(value)} s"
        if name.endswith(("_share", "_rate")):
            return words.percent(value)
    if isinstance(value, str) and _TIME.match(value):
        return words.moment(value)
    return words.plain_value(value)


_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")


def _releases(asked: _Asked) -> _View:
    document = releases_document(asked.store, asked.app, page=asked.page, begins=asked.query.get("q", "")[:64])
    return _View(template="releases.html", document=document, tab="Releases", command="staytrue log")


def _release(asked: _Asked) -> _View:
    which, _, below = asked.rest.removeprefix("releases/").partition("/")
    if below in {"card", "card.md"}:
        return _card(asked)
    if below:
        raise _nothing(asked.rest)
    document = release_page_document(asked.store, asked.app, which, now=asked.now)
    trial = document["trial"]
    more = {
        "lineage": _safe(lineage_picture(document["lineage"], base=_base(asked.app))),
        "race_wide": _safe(race_picture(trial, width=_WIDE)) if trial else "",
        "bounded": any(one["low"] is not None or one["high"] is not None for one in [*trial["looks"], *trial["steps"]])
        if trial
        else False,
        "race_narrow": _safe(race_picture(trial, width=_NARROW)) if trial else "",
    }
    command = f"staytrue show {which[:8]}"
    return _View(template="release.html", document=document, tab="Releases", command=command, more=more)


def _card(asked: _Asked) -> _View:
    which = asked.rest.removeprefix("releases/").partition("/")[0]
    document = card_document(asked.store, asked.app, which, now=asked.now)
    more = {"card": sections(document)}
    return _View(
        template="card.html", document=document, tab="Releases", command=f"staytrue show {which[:8]}", more=more
    )


def _data(asked: _Asked) -> _View:
    document = data_document(asked.store, asked.app, now=asked.now)
    return _View(template="data.html", document=document, tab="Data", command="staytrue data")


def _source(asked: _Asked) -> _View:
    source = asked.rest.removeprefix("data/")
    query = asked.query
    document = source_page_document(
        asked.store, asked.app, source, now=asked.now, a=query.get("a", ""), b=query.get("b", ""), page=asked.page
    )
    moved = {one["column"]: one["moved"] for one in document["compared"]["columns"]}
    # Time and key move with every new row: that says nothing.
    roles = {document["key"]: "key", document["time"]: "time"}
    columns = [
        {
            "name": name,
            "kind": column["kind"],
            "nulls": column["nulls"] / column["rows"] if column["rows"] else None,
            "holds": _holds(column),
            "picture": _safe(column_picture(column, name)),
            "role": roles.get(name),
            "moved": moved.get(name) if not document["compared"]["same"] else None,
        }
        for name, column in document["over_time"].items()
    ]
    more = {"columns": columns, "rows_picture": _safe(rows_picture(document["rows_by_month"]))}
    return _View(
        template="source.html", document=document, tab="Data", command=f"staytrue data {source[:60]}", more=more
    )


def _holds(column: Mapping[str, Any]) -> str:
    if "top" in column:
        return ", ".join(f"{words.cut(name, 30)} ({n:,})" for name, n in column["top"].items())
    if "true" in column:
        return f"{column['true']:,} true"
    if column.get("min") is None:
        return "-"
    low, high = column["min"], column["max"]
    if column["kind"] == "time":
        return f"{_day(low)} .. {_day(high)}"
    median = column.get("median")
    return f"{words.number(low)} .. {words.number(high)}" + (
        f", median {words.number(median)}" if median is not None else ""
    )


def _day(micros: float) -> str:
    return f"{datetime.fromtimestamp(micros / 1e6, tz=UTC):%Y-%m-%d}"


def _incidents(asked: _Asked) -> _View:
    document = incidents_document(asked.store, asked.app, page=asked.page)
    return _View(template="incidents.html", document=document, tab="Incidents", command="staytrue log --kind alarm")


def _incident(asked: _Asked) -> _View:
    which = asked.rest.removeprefix("incidents/")
    document = incident_document(asked.store, asked.app, which, now=asked.now)
    before = asked.store.ledger.role(asked.app, LIVE, "previous")
    opened = document["opened"]
    seen = (opened["body"].get("evidence") or opened["body"]) if opened else {}
    evidence = [
        (_EVIDENCE.get(name, name.replace("_", " ")), words.cut(_with_unit(name, value), 300))
        for name, value in (seen.items() if isinstance(seen, Mapping) else ())
    ]
    return _View(
        template="incident.html",
        document=document,
        tab="Incidents",
        command="staytrue log --kind alarm",
        more={"evidence": evidence, "has_before": bool(before and before.release)},
    )


_EVIDENCE: Final = {"evidence": "evidence (e-value)", "loss": "loss a row", "fresh_loss": "loss a row when fresh"}


def _replays(asked: _Asked) -> _View:
    document = replays_document(asked.store, asked.app, price=_price(asked.query.get("price", "")))
    pictures = [
        {
            "group": group,
            "wide": _safe(policies_picture(group["policies"], width=_WIDE)),
            "narrow": _safe(policies_picture(group["policies"], width=_NARROW)),
            "marks": [_safe(key_picture(one["policy"], at)) for at, one in enumerate(group["policies"])],
        }
        for group in document["replays"][:8]
    ]
    return _View(
        template="replays.html",
        document=document,
        tab="Replays",
        command="staytrue replay",
        more={"pictures": pictures},
    )


def _price(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if 0 <= found <= 100 else None


def _log(asked: _Asked) -> _View:
    query = asked.query
    text, kind, timeline = (query.get(name, "")[:200] for name in ("q", "kind", "timeline"))
    document = log_document(
        asked.store, asked.app, text=text, kind=kind, timeline=timeline, before=asked.number("before")
    )
    kept = "&".join(
        f"{name}={words.url_part(value)}"
        for name, value in (("q", text), ("kind", kind), ("timeline", timeline))
        if value
    )
    more = {
        "newest_href": f"?{kept}",
        "older_href": f"?{kept}{'&' if kept else ''}before={document['older']}",
    }
    return _View(template="log.html", document=document, tab="Log", command="staytrue log", more=more)


def _jobs(asked: _Asked) -> _View:
    document = jobs_document(asked.store, asked.app, now=asked.now)
    return _View(template="jobs.html", document=document, tab="Jobs", command="staytrue jobs")


def _job(asked: _Asked) -> _View:
    which = asked.rest.removeprefix("jobs/")
    document = job_document(asked.store, asked.app, which, now=asked.now)
    return _View(template="job.html", document=document, tab="Jobs", command=f"staytrue jobs {document['id']}")


def _confirm(asked: _Asked) -> _View:
    document = confirm_document(asked.store, asked.app, asked.rest.removeprefix("confirm/"), asked.query)
    return _View(template="confirm.html", document=document, command=document["command"])


_PAGES: Final[Mapping[str, Callable[[_Asked], _View]]] = {
    "": _health,
    "releases": _releases,
    "data": _data,
    "incidents": _incidents,
    "replays": _replays,
    "log": _log,
    "jobs": _jobs,
}
_BELOW: Final[Mapping[str, Callable[[_Asked], _View]]] = {
    "releases": _release,
    "data": _source,
    "incidents": _incident,
    "jobs": _job,
    "confirm": _confirm,
}
_TABS: Final = (("Health", ""), *((name.capitalize(), f"/{name}") for name in _PAGES if name))


# ------------------------------------------------------------ drawing


def _drawn(view: _View, asked: _Asked, path: str) -> bytes:
    app = asked.app or view.document.get("app", "")
    base = _base(app) if app else ""
    live = asked.live
    query = "&".join(f"{name}={words.url_part(value)}" for name, value in asked.query.items() if name != "asked")
    said = {
        **_always(asked.now, live),
        "doc": view.document,
        "app": app,
        "base": base,
        "tab": view.tab,
        "tabs": [(name, f"{base}{below}") for name, below in _TABS],
        "json_path": "/api"
        + "/".join(words.url_part(part) for part in path.rstrip("/").split("/"))
        + (f"?{query}" if query else ""),
        "command": view.command,
        **(view.more or {}),
    }
    return _pages().get_template(view.template).render(said).encode("utf-8", "replace")


def _always(now: datetime, live: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "now": now,
        "live": {"csrf": "", "signed_in": False, "who": "", **live} if live is not None else None,
        "may_operate": live is not None and "operate" in live.get("may", ()),
        "asked": (live or {}).get("asked"),
    }


def _base(app: str) -> str:
    return f"/apps/{words.url_part(app)}"


def _problem(exc: StaytrueError, app: str, *, now: datetime, live: Mapping[str, Any] | None, is_api: bool) -> Answer:
    status = next((code for kind, code in _STATUS if isinstance(exc, kind)), 500)
    if is_api:
        return Answer(status=status, body=_as_json(exc.document()), content_type=_JSON)
    said = {
        **_always(now, live),
        "doc": exc.document(),
        "title": _TITLES[status],
        "app": app,
        "base": _base(app) if app else "",
        "tab": "",
        "tabs": [(name, f"{_base(app)}{below}") for name, below in _TABS] if app else [],
        "json_path": "",
        "command": "",
    }
    return Answer(
        status=status,
        body=_pages().get_template("problem.html").render(said).encode("utf-8", "replace"),
        content_type=_HTML,
    )


_STATUS: Final = (
    (NotFound, 404),
    (InvalidInput, 400),
    (Refused, 403),
    (Conflict, 409),
    (Unavailable, 503),
    (Corrupt, 500),
)
_TITLES: Final = {
    404: "Not found",
    400: "That can't be asked",
    403: "Refused",
    409: "Something else came first",
    503: "Not available now",
    500: "Something is broken",
}


def _as_json(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, default=str).encode("utf-8", "replace")


@cache
def _pages() -> Environment:
    made = Environment(
        loader=PackageLoader("staytrue.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        auto_reload=False,
    )
    made.filters |= dict(words.FILTERS) | {
        "upper_first": lambda said: said[:1].upper() + said[1:],
        "signed": lambda value: (
            words.number(value) if not isinstance(value, int | float) or value <= 0 else f"+{words.number(value)}"
        ),
        "json": lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str),
        "diff": _coloured,
        "plain_items": lambda values: [(name, words.plain_value(value)) for name, value in sorted(values.items())],
        "score_items": lambda values: [
            (name.replace("_", " "), f"{words.number(value)} a row") for name, value in values.items()
        ],
    }
    made.globals |= {"static": _static_href}
    return made


def _safe(picture: str) -> Markup:
    """A picture of ours, in which every text is escaped already (`drawing.text`)."""
    return Markup(picture)  # noqa: S704 - made by `dashboard/drawing.py`, which escapes; tests draw hostile names


def _coloured(diff: str) -> Markup:
    """A unified diff with its lines marked."""
    lines = []
    for line in diff.splitlines():
        style = "hunk" if line.startswith("@@") else {"+": "add", "-": "del"}.get(line[:1], "")
        body = escape(line)
        lines.append(Markup('<span class="{}">{}</span>').format(style, body) if style else body)
    return Markup("\n").join(lines)


# ------------------------------------------------------------ files


@cache
def _files() -> Mapping[str, tuple[bytes, str]]:
    """The files of the pages: name -> bytes and digest."""
    folder = files("staytrue.dashboard") / "static"
    read = {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(("_", "."))}
    return {name: (data, hashlib.blake2b(data, digest_size=4).hexdigest()) for name, data in read.items()}


def _static_href(name: str) -> str:
    """Where a file lies, under a name that changes with it: so it may be kept for ever."""
    stem, _, ending = name.rpartition(".")
    return f"/static/{stem}-{_files()[name][1]}.{ending}"


def _static(name: str) -> Answer:
    known = {
        **{name: name for name in _files()},
        **{_static_href(name).removeprefix("/static/"): name for name in _files()},
    }
    found = known.get(name)
    if found is None:
        return Answer(status=404, body=b"There is no such file.\n", content_type="text/plain; charset=utf-8")
    kind = mimetypes.guess_type(found)[0] or "application/octet-stream"
    return Answer(
        status=200, body=_files()[found][0], content_type=kind if "image" in kind else f"{kind}; charset=utf-8"
    )
