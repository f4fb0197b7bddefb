"""Quarantine: windows that broke their contract, kept apart from the table, and what people decided about each.

A held window is a document (window, breaches, digests) beside its rows as Parquet; one reference of kind `quarantine` keeps
both. What people decide is an event on the timeline of fetches. Nothing else is stored: what is held, released, dropped or
repaired is read from these, whoever asks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from staytrue.errors import InvalidInput
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.contract import Breach, SourceSpec
from staytrue.kernel.release import Digest
from staytrue.kernel.repair import Repair, repaired
from staytrue.store import frames
from staytrue.store.frames import Rows
from staytrue.store.ledger import Entry, Event, Ledger, Ref
from staytrue.store.objects import LocalObjects, digest
from staytrue.store.tables import Part, Table

__all__ = ["DATA", "HeldWindow", "State", "breach_document", "dropped", "hold", "mended", "quarantine", "quarantined"]

DATA: Final = "data"
"""The timeline of fetches: what was fetched, and what was said about it, holds for every replay."""

State: TypeAlias = Literal["held", "released", "dropped", "repaired", "mended", "replaced"]
"""`mended`: the source gave rows since that hold. `replaced`: it gave others since that don't."""

Window = tuple[datetime, datetime]
_KIND: Final = "quarantine"
_DECISIONS: Final[tuple[State, ...]] = ("released", "dropped", "repaired", "held")
"""The kinds of a person's decisions; `held`: one that let a window in was taken back."""
_TOLD: Final = 100


@dataclass(frozen=True, kw_only=True)
class HeldWindow:
    """A window that was refused, with its rows as they came.

    `content` names the rows, `like` the rows without the labels (with them, where the label is what is wrong): rows that come
    again with more labels are the same case. `before` is the content of the part that the table had for this window, `contract`
    the version that the rows were held against.
    """

    id: Digest
    source: str
    since: datetime
    until: datetime
    rows: int
    content: str
    like: str
    object: Digest
    breaches: tuple[Breach, ...]
    before: str | None
    contract: int
    at: datetime
    state: State = "held"
    decision: Event | None = None

    @property
    def window(self) -> Window:
        """Since and until."""
        return self.since, self.until

    @property
    def worst(self) -> Breach:
        """The first breach that refused it."""
        return next(breach for breach in self.breaches if breach.severity == "refuse")

    @property
    def part(self) -> str | None:
        """The content of the part that a person's decision made of it."""
        return str(self.decision.body["part"]) if self.decision and self.decision.body.get("part") else None

    def is_case_of(self, rows: Rows, spec: SourceSpec) -> bool:
        """Whether rows that came again are what was decided about here, perhaps with more labels."""
        return self.content == _content(rows, spec) or self.like == _content(_unlabelled(rows, spec), spec)

    def repair(self) -> Repair | None:
        """What a person had repaired."""
        document = self.decision.body.get("repair") if self.decision else None
        return Repair.from_document(document) if document else None

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        decision = self.decision
        return {
            "id": self.id,
            "source": self.source,
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "rows": self.rows,
            "state": self.state,
            "at": self.at.isoformat(),
            "contract": self.contract,
            "breaches": [breach_document(breach) for breach in self.breaches],
            "decision": None
            if decision is None
            else {"at": decision.at.isoformat(), "sentence": decision.sentence, **decision.body},
        }


def breach_document(breach: Breach) -> dict[str, Any]:
    """A breach as JSON, without its facts."""
    return {
        "code": breach.code,
        "column": breach.column,
        "sentence": breach.sentence,
        "likely": breach.likely,
        "severity": breach.severity,
    }


def hold(
    objects: LocalObjects,
    rows: Rows,
    window: Window,
    spec: SourceSpec,
    *,
    breaches: Sequence[Breach],
    before: Part | None,
    contract: int,
    at: datetime,
) -> HeldWindow:
    """Keep the rows of a refused window; nothing refers to them until `quarantined` is in the ledger."""
    content = _content(rows, spec)
    about_label = any(b.column == spec.label and b.severity == "refuse" for b in breaches)
    return HeldWindow(
        id=digest(canonical_json([spec.name, window[0].isoformat(), window[1].isoformat(), content])),
        source=spec.name,
        since=window[0],
        until=window[1],
        rows=rows.num_rows,
        content=content,
        like=content if about_label else _content(_unlabelled(rows, spec), spec),
        object=objects.put(frames.write_parquet(rows)),
        breaches=tuple(breaches),
        before=f"rows:{before.content}" if before else None,
        contract=contract,
        at=at,
    )


def quarantined(objects: LocalObjects, app: str, source: str, windows: Sequence[HeldWindow], *, now: datetime) -> Entry:
    """The event that keeps these windows, one or more, in quarantine."""
    first = windows[0]
    worst = first.worst
    likely = f" (likely: {worst.likely})" if worst.likely else ""
    many = f"{len(windows)} windows of {source} are" if len(windows) > 1 else f"The window {_day(first)} of {source} is"
    return Entry(
        app=app,
        timeline=DATA,
        key=f"quarantined:{source}:{digest(canonical_json([one.id for one in windows]))}",
        at=now,
        kind="quarantined",
        sentence=f"{many} in quarantine: {worst.code} {worst.sentence}{likely} The champion stays. "
        f"`staytrue data {source} --part {first.id[:8]}` shows it.",
        body={
            "source": source,
            "windows": len(windows),
            "breaches": [breach_document(b) for one in windows for b in one.breaches][:_TOLD],
            # The rest is in the references: a year of broken hours must not make an event of megabytes.
            "held": [[one.id, one.since.isoformat(), one.rows, one.worst.code] for one in windows[:_TOLD]],
            "contract": first.contract,
        },
        refs=tuple(Ref(kind=_KIND, name=source, digest=objects.put_document(_stored(one))) for one in windows),
    )


def quarantine(objects: LocalObjects, ledger: Ledger, app: str, source: str, table: Table | None) -> list[HeldWindow]:
    """Every window of the source that was ever refused, by time of the window, with what became of it."""
    found: dict[str, HeldWindow] = {}
    for ref in ledger.refs(app=app, kind=_KIND, name=source):
        one = _loaded(objects, ref.digest, ref.at)
        if one is not None:
            found[one.id] = one
    for event in ledger.events(app, DATA, kinds=_DECISIONS):
        if event.body.get("held") in found:
            one = found[event.body["held"]]
            state = _state(event.kind)
            found[one.id] = replace(one, state=state, decision=None if state == "held" else event)
    newest = {one.window: one.id for one in found.values()}
    parts = {(part.since, part.until): f"rows:{part.content}" for part in (table.parts if table else ())}
    return sorted((_settled(one, newest, parts) for one in found.values()), key=lambda one: (one.since, one.at))


def mended(rows: Rows, repair: Repair, spec: SourceSpec, table: Table) -> Rows:
    """The rows of a window, repaired; those given stay as they are.

    Raises:
        InvalidInput: ST933, the repair does not fit them.
    """
    columns = {name: frames.column(rows, name) for name in rows.column_names}
    made, stay = repaired(columns, repair, key=spec.key, schema=table.schema)
    return frames.take(frames.from_columns(made), stay)


def dropped(windows: Sequence[HeldWindow]) -> set[Window]:
    """The windows that a person never wants to see in the table."""
    return {one.window for one in windows if one.state == "dropped"}


def _settled(one: HeldWindow, newest: dict[Window, Digest], parts: dict[Window, str]) -> HeldWindow:
    if one.state != "held":
        return one
    part = parts.get(one.window)
    if part is not None and part != one.before:
        return replace(one, state="mended")
    return one if newest[one.window] == one.id else replace(one, state="replaced")


def _state(kind: str) -> State:
    return next(state for state in _DECISIONS if state == kind)


# A 64-digit digest in a document is a reference that gc follows: logical digests, users' names and what their rows hold are
# written so that they can't look like one.


def _stored(one: HeldWindow) -> dict[str, Any]:
    breaches = [breach_document(b) | {"facts": dict(b.facts)} for b in one.breaches]
    return {
        "kind": _KIND,
        "format": 1,
        "source": f"={one.source}",
        "since": one.since.isoformat(),
        "until": one.until.isoformat(),
        "rows": one.rows,
        "content": one.content,
        "like": one.like,
        "object": one.object,
        "before": one.before,
        "contract": one.contract,
        "breaches": canonical_json(breaches).decode(),
    }


def _loaded(objects: LocalObjects, name: Digest, at: datetime) -> HeldWindow | None:
    try:
        document = objects.get_document(name)
    except InvalidInput:
        return None  # rows without a word about them, as they were kept at first
    since, until = (datetime.fromisoformat(document[which]) for which in ("since", "until"))
    source = document["source"][1:]
    return HeldWindow(
        id=digest(canonical_json([source, since.isoformat(), until.isoformat(), document["content"]])),
        source=source,
        since=since,
        until=until,
        rows=document["rows"],
        content=document["content"],
        like=document["like"],
        object=Digest(document["object"]),
        breaches=tuple(Breach(**breach) for breach in json.loads(document["breaches"])),
        before=document["before"],
        contract=document["contract"],
        at=at,
    )


def _content(rows: Rows, spec: SourceSpec) -> str:
    by = [name for name in (spec.time, spec.key) if name in rows.column_names]
    return f"rows:{frames.content_digest(rows, by or rows.column_names[:1])}"


def _unlabelled(rows: Rows, spec: SourceSpec) -> Rows:
    return frames.drop(rows, [spec.label] if spec.label else [])


def _day(one: HeldWindow) -> str:
    return f"{one.since:%Y-%m-%d}" if one.since.hour == one.since.minute == 0 else f"{one.since:%Y-%m-%d %H:%M}"
