"""The pages on real stores: every one draws, says what the command line says, and lets nothing through that a name holds."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import numpy as np
import pytest
from untrained import release

from staytrue import testing
from staytrue.dashboard.site import fragments, respond, slow_paths
from staytrue.kernel.release import Digest, Release
from staytrue.kernel.source import SourceSpec
from staytrue.store import frames, tables
from staytrue.store.ledger import Entry, Fence, Ref, RoleChange
from staytrue.store.store import Store

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PAGES = ("", "/releases", "/data", "/incidents", "/replays", "/log", "/jobs")
HOSTILE = "<script>alert(1)</script>"
NAME = f"{HOSTILE}\"'/&\u202eevil\u202c" + "x" * 300


class _Seen(HTMLParser):
    """What a browser would run or load, the ids, and the headings in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts, self.handlers, self.styles, self.loaded, self.links = 0, [], 0, [], []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.unnamed: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        self.scripts += tag == "script" and "src" not in told
        self.styles += tag == "style" or "style" in told
        self.handlers += [name for name in told if name.startswith("on")]
        self.loaded += [told[name] for name in ("src",) if name in told]
        self.loaded += [told["href"]] if tag == "link" else []
        self.links += [told["href"]] if tag == "a" and "href" in told else []
        self.ids += [told["id"]] if "id" in told else []
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "svg" and "aria-label" not in told and told.get("aria-hidden") != "true":
            self.unnamed.append(tag)


def page(store, path, query=None, *, live=None, status=200):
    answer = respond(store, path, query or {}, now=NOW, live=live)
    assert answer.status == status, answer.body[:2000]
    return answer.body.decode()


def sound(text):
    """A page that is safe, and that a screen reader can walk through."""
    seen = _Seen(text)
    assert seen.scripts == seen.styles == 0
    assert seen.handlers == []
    assert all(address.startswith("/static/") for address in seen.loaded)
    assert seen.headings[:1] == [1]
    assert all(b - a <= 1 for a, b in zip(seen.headings, seen.headings[1:], strict=False))
    assert seen.unnamed == []
    assert len(set(seen.ids)) == len(seen.ids)
    assert HOSTILE not in text
    return seen


@pytest.fixture
def empty(tmp_path):
    with_nothing = Store(tmp_path / "store")
    yield with_nothing
    with_nothing.close()


def entry(app, day, kind, sentence, body=None, *, refs=(), roles=(), timeline="live"):
    key = f"{kind}:{day}:{hashlib.blake2b(sentence.encode(), digest_size=8).hexdigest()}"
    at = NOW - timedelta(days=60) + timedelta(days=day)
    return Entry(
        app=app,
        timeline=timeline,
        key=key,
        at=at,
        kind=kind,
        sentence=sentence,
        body=body or {},
        refs=refs,
        roles=roles,
    )


def as_release(id_):
    return (Ref(kind="release", name=id_, digest=id_),)


# ------------------------------------------------------------ a store in which nothing is


def test_an_empty_store_says_how_to_begin(empty):
    text = page(empty, "/")

    sound(text)
    assert "staytrue train" in text
    assert json.loads(page(empty, "/api/"))["apps"] == []


def test_what_is_not_there_is_said_and_never_a_traceback(empty):
    for path in (
        "/nothing",
        "/apps/nobody",
        "/apps/",
        "/apps/nobody/releases/ab",
        "/api/apps/nobody",
        "/static/../site.py",
    ):
        answer = respond(empty, path, {}, now=NOW)
        assert answer.status == 404
        assert b"Traceback" not in answer.body
    assert json.loads(page(empty, "/api/apps/nobody", status=404))["code"] == "ST471"


def test_a_source_of_which_nothing_was_fetched_is_there_and_says_why(empty):
    spec = SourceSpec(name="sales", time="at", key="id", label="rate", every=timedelta(hours=1))
    failed = {"source": "bookings", "code": "ST621"}
    told = entry("shop", 59, "fetch_failed", f"Fetching bookings for 2026 failed: {HOSTILE}.", failed, timeline="data")
    epoch = empty.ledger.take("shop", owner="me", expect_epoch=0, at=NOW).epoch
    state = {"looked_at": NOW.isoformat(), "sources": [spec.document()]}
    empty.ledger.append([told], recorded_at=NOW, fence=Fence(app="shop", epoch=epoch, state=state))

    listed = sound(page(empty, "/apps/shop/data"))
    document = json.loads(page(empty, "/api/apps/shop/data"))
    silent, bad = (page(empty, f"/apps/shop/data/{name}") for name in ("sales", "bookings"))

    assert {"/apps/shop/data/sales", "/apps/shop/data/bookings"} <= set(listed.links)
    assert [one["source"] for one in document["sources"]] == ["sales", "bookings"]
    assert document["sources"][0]["every_s"] == 3600
    assert [bool(one["failed"]) for one in document["sources"]] == [False, True]
    assert "sales: nothing was fetched yet." in silent
    assert "Fetching bookings for 2026 failed" in bad
    for text in (silent, bad):
        sound(text)
    page(empty, "/apps/shop/data/nobody", status=404)


# ------------------------------------------------------------ an app that was lived through


@pytest.fixture
def lived(tmp_path, _kept_sales):
    """The shop after a replay that is its live story, and one in which nobody retrained."""
    shutil.copytree(_kept_sales, tmp_path / "store")
    with testing.bench(_kept_sales.parent / "shop" / "app.py", tmp_path) as bench:
        bench.replay(["every:28d", "never"])
    store = Store(tmp_path / "store")
    yield store
    store.close()


def test_every_page_of_an_app_draws(lived):
    champion = lived.champion("shop").id
    more = (f"/releases/{champion}", f"/releases/{champion}/card", "/data/sales", "/confirm/pause")

    for below in (*PAGES, *more):
        seen = sound(page(lived, f"/apps/shop{below}"))
        assert set(fragments(f"/apps/shop{below}")) - {"incident"} <= set(seen.ids), below
        json.loads(page(lived, f"/api/apps/shop{below}"))


def test_all_that_was_decided_stands_on_the_time_axis_however_much_else_happened(lived):
    live = [event for event in lived.ledger.events("shop", "live") if event.kind == "deployed"][-1].at
    told = {
        "retrain": "retrains", "backtest": "trials", "promoted": "promoted", "rejected": "rejected", "alarm": "alarms",
        "pushed": "commits", "quarantined": "quarantine", "reverted": "taken back", "repaired": "repaired", "blamed": "blame",
        "withdrawn": "rejected", "serve_failed": "alarms",
    }  # fmt: skip
    about = {"release": "ab" * 32, "bad": "ab" * 32, "good": "cd" * 32, "outcome": "nobody"}
    entries = [
        replace(entry("shop", 1, kind, f"It was {kind}.", about, timeline=line), at=live)
        for kind in told
        for line in ["data" if kind == "quarantined" else "live"]
    ]
    steps = [
        replace(entry("shop", 1, "canary", f"Step {k}.", {"release": "cd" * 32}), at=live + timedelta(hours=k))
        for k in range(400)
    ]
    lived.ledger.append([*entries, *steps], recorded_at=NOW)

    document, text = json.loads(page(lived, "/api/apps/shop")), page(lived, "/apps/shop")

    shown = {one["kind"]: one["lane"] for one in document["events"]}
    assert {kind: shown.get(kind) for kind in told if kind != "backtest"} == {
        kind: lane for kind, lane in told.items() if kind != "backtest"
    }
    assert shown["canary"] == "trials"
    for lane in told.values():
        assert f">{lane}</text>" in text


def test_what_is_drawn_before_anybody_asks_is_there(lived):
    paths = list(slow_paths(lived))

    assert {"/apps/shop/incidents", "/apps/shop/data/sales"} <= set(paths)
    for path in paths:
        page(lived, path)


def test_a_release_of_which_objects_are_gone_shows_what_is_known(lived):
    kept = lived.champion("shop")
    release, table = kept.release, lived.table_manifest(kept.release.tables["sales"])

    for name, told in (
        (release.recipe, "what it learned from"),
        (table, "table sales"),
        (release.env, "its environment"),
    ):
        lived.objects.delete(name)
        lived.objects.destroy(name)
        text = page(lived, f"/apps/shop/releases/{kept.id}")
        sound(text)
        assert f"Nothing more is known of {told}" in text
        assert told in " ".join(json.loads(page(lived, f"/api/apps/shop/releases/{kept.id}"))["release"]["gone"])
        assert told in page(lived, f"/apps/shop/releases/{kept.id}/card")


def test_a_release_that_is_gone_itself_does_not_hide_the_others(empty):
    there, gone = release(empty, "shop", {"app.py": "x = 1\n"}), Digest("ab" * 32)
    told = [entry("shop", k, "shadow", f"Of {id_}.", refs=as_release(id_)) for k, id_ in enumerate((there, gone))]
    empty.ledger.append(told, recorded_at=NOW)

    text = page(empty, "/apps/shop/releases")

    assert "it is not in the store any more" in text
    assert there[:8] in text


def test_links_on_a_page_lead_somewhere(lived):
    champion = lived.champion("shop").id

    for below in (*PAGES, f"/releases/{champion}", "/data/sales"):
        for href in set(_Seen(page(lived, f"/apps/shop{below}")).links):
            path = href.partition("?")[0].partition("#")[0]
            if path:
                assert respond(lived, path, {}, now=NOW).status in {200, 400, 404, 409}
                assert "confirm" in path or respond(lived, path, {}, now=NOW).status == 200, href


def test_the_first_page_is_small(lived):
    body = page(lived, "/apps/shop", live={"may": ["operate"], "server": {}})
    loaded = {address: respond(lived, address, {}, now=NOW) for address in _Seen(body).loaded}

    assert all(answer.status == 200 for answer in loaded.values())
    scripts = sum(len(answer.body) for address, answer in loaded.items() if address.endswith(".js"))
    assert scripts <= 60_000
    assert len(body.encode()) + sum(len(answer.body) for answer in loaded.values()) < 100_000
    replays = _Seen(page(lived, "/apps/shop/replays", live={"may": []})).loaded
    assert sum(len(respond(lived, one, {}, now=NOW).body) for one in replays if one.endswith(".js")) <= 60_000


def test_the_loss_stands_beside_that_of_never_retraining(lived):
    document = json.loads(page(lived, "/api/apps/shop"))

    assert document["losses"]["never"]
    assert document["losses"]["never_why"] == ""
    assert "had we never retrained" in page(lived, "/apps/shop")


def test_a_price_that_is_higher_makes_the_policy_that_retrains_dearer(lived):
    def cost(price):
        policies = json.loads(page(lived, "/api/apps/shop/replays", {"price": price}))["replays"][0]["policies"]
        return {one["policy"]: one["cost"] for one in policies}

    assert cost("5")["every:28d"] > cost("1")["every:28d"] > cost("0")["every:28d"]
    assert cost("5")["never"] == cost("0")["never"]


def test_the_card_is_markdown_too(lived):
    answer = respond(lived, f"/apps/shop/releases/{lived.champion('shop').id}/card.md", {}, now=NOW)

    assert answer.content_type.startswith("text/markdown")
    assert answer.body.startswith(b"# Model card: shop")


def test_the_log_is_searched_and_turned_page_by_page(lived):
    every = json.loads(page(lived, "/api/apps/shop/log"))["events"]
    kind = every[0]["kind"]
    some = json.loads(page(lived, "/api/apps/shop/log", {"kind": kind}))["events"]
    before = json.loads(page(lived, "/api/apps/shop/log", {"before": str(every[0]["seq"])}))["events"]

    assert {one["kind"] for one in some} == {kind}
    assert [one["seq"] for one in before] == [one["seq"] for one in every[1:]]


# ------------------------------------------------------------ the same words as the command line


def test_the_page_and_the_command_line_say_the_same(lived, shop):
    store = lived
    assert shop.store_path == store.root
    champion = store.champion("shop").id

    assert json.loads(page(store, "/api/apps/shop"))["status"] == shop.run("status").document
    shown = json.loads(page(store, f"/api/apps/shop/releases/{champion}"))["release"]
    assert shown == shop.run("show", champion).document
    told = {one["id"]: one for one in json.loads(page(store, "/api/apps/shop/log"))["events"]}
    logged = {one["id"]: one for one in shop.run("log").document["events"]}
    assert told == {id_: logged[id_] for id_ in told}
    ours, theirs = json.loads(page(store, "/api/apps/shop/data")), shop.run("data").document
    for document in (ours, theirs):
        document.pop("at")
        for source in document["sources"]:
            # These count from now on.
            source.pop("behind")
            source.pop("sentence")
    assert ours == theirs


# ------------------------------------------------------------ names that mean harm


@pytest.fixture
def hostile(tmp_path):
    store = Store(tmp_path / "store")
    source = f"{HOSTILE}/\u05d0\u05d1"
    columns = [f"{HOSTILE if k % 2 else 'w' * 300}{k}" for k in range(60)]
    spec = SourceSpec(name=source, time="at", key="id", label="y")
    table, rng = tables.empty(spec), np.random.default_rng(0)
    for week in range(3):
        since = NOW - timedelta(days=60 - 7 * week)
        rows = {
            "at": [since + timedelta(hours=k) for k in range(20)],
            "id": [100 * week + k for k in range(20)],
            "y": rng.normal(size=20),
        }
        rows |= {
            name: rng.choice([HOSTILE, '"'], 20).tolist() if k % 3 else rng.normal(size=20)
            for k, name in enumerate(columns)
        }
        listed = [{name: value[k] for name, value in rows.items()} for k in range(20)]
        made = frames.to_rows(
            [{n: v.item() if isinstance(v, np.generic) else v for n, v in row.items()} for row in listed],
            doing="a test",
        )
        part = tables.make_part(
            store.objects, made, (since, since + timedelta(days=7)), spec, like=table.schema or None
        )
        table = tables.append(table, part)
    manifest = tables.save(store.objects, table)
    first = release(store, NAME, {"app.py": "x = 1\n"}, tables_={source: table.id}, params={HOSTILE: HOSTILE})
    second = release(
        store,
        NAME,
        {"app.py": f"x = '{HOSTILE}'\n"},
        tables_={source: table.id},
        parents=(first,),
        scores={HOSTILE: 1.5},
    )
    segments = {f"{HOSTILE}={k}": {"rows": 9, "mean": 0.1 * k, "lo": None, "hi": None} for k in range(50)}
    seen = {"rows": 100, "blocks": 12, "mean": -1.0, "lo": -2.0, "hi": -0.5, "margin": 0.1, "segments": segments}
    fetched = (Ref(kind="source", name=source, digest=manifest), Ref(kind="table", name=table.id, digest=manifest))
    one, two = (
        RoleChange(role="champion", release=id_, share=1.0, expect_epoch=k) for k, id_ in enumerate((first, second))
    )
    store.ledger.append(
        [
            entry(NAME, 1, "fetched", HOSTILE, refs=fetched, timeline="data"),
            entry(NAME, 2, "deployed", HOSTILE, {"release": first}, refs=as_release(first), roles=(one,)),
            entry(NAME, 3, "alarm", f"`{HOSTILE}`", {"alarm": "shift", "what": HOSTILE, "evidence": {HOSTILE: HOSTILE}}),
            entry(NAME, 4, "promoted", HOSTILE, {"release": second, "evidence": seen}, refs=as_release(second), roles=(two,)),
            entry(NAME, 5, HOSTILE, HOSTILE),
        ],
        recorded_at=NOW,
    )  # fmt: skip
    yield store
    store.close()


def test_no_name_gets_through(hostile):
    champion = hostile.champion(NAME).id
    number = json.loads(page(hostile, f"/api/apps/{NAME}/incidents"))["incidents"][0]["number"]
    more = (
        f"/releases/{champion}",
        f"/releases/{champion}/card",
        f"/data/{HOSTILE}/\u05d0\u05d1",
        f"/incidents/{number}",
        f"/{HOSTILE}",
    )

    for below in (*PAGES, *more):
        answer = respond(hostile, f"/apps/{NAME}{below}", {"q": HOSTILE, "kind": "", "price": HOSTILE}, now=NOW)
        assert answer.status in {200, 404}
        sound(answer.body.decode())
    for live in (
        {"asked": {"state": "refused", "what": HOSTILE, "sentence": HOSTILE, "code": HOSTILE}},
        {"who": HOSTILE, "signed_in": True},
    ):
        sound(page(hostile, "/", live=live))
    card = respond(hostile, f"/apps/{NAME}/releases/{champion}/card.md", {}, now=NOW).body.decode()
    assert HOSTILE not in card


# ------------------------------------------------------------ what is not known is not green


def test_an_app_without_labels_is_unknown_and_never_green(hostile):
    document = json.loads(page(hostile, f"/api/apps/{NAME}"))
    text = page(hostile, f"/apps/{NAME}")

    assert document["status"]["right"]["state"] == "unknown"
    assert "is-unknown" in text
    assert "is-right" not in text
    assert document["losses"]["never"] is None
    assert document["losses"]["line"] == []
    assert "had we never retrained" not in text


def test_of_a_server_that_is_not_there_nothing_is_said(hostile):
    served = {"server": {"disk": {"is_bad": True, "sentence": "The disk is full.", "evidence": {}}, "queue_rows": 3}}

    assert "Not served" in page(hostile, f"/apps/{NAME}")
    assert "has not looked at itself yet" in page(hostile, f"/apps/{NAME}", live={"server": {}})
    text = page(hostile, f"/apps/{NAME}", live=served)
    assert "The disk is full." in text
    assert "Not served" not in text


def test_only_who_may_operate_gets_a_button_that_acts(hostile):
    path = f"/apps/{NAME}/confirm/pause"

    assert "<form" not in page(hostile, path)
    assert "<form" not in page(hostile, path, live={"may": ["read"]})
    assert 'action="/actions/pause"' in page(hostile, path, live={"may": ["operate"], "csrf": "abc"})


def test_a_controller_that_is_dead_is_said_first(hostile):
    lease = hostile.ledger.take(NAME, owner="it", expect_epoch=0, at=NOW)
    state = {"looked_at": NOW.isoformat(), "life": {"look": {}}}
    hostile.ledger.append([], recorded_at=NOW, fence=Fence(app=NAME, epoch=lease.epoch, state=state))

    assert "Nobody watches" in page(hostile, f"/apps/{NAME}")


# ------------------------------------------------------------ ten thousand releases


MANY = 10_000


@pytest.fixture
def many(tmp_path):
    """Ten thousand releases and what became of them; objects are there of the newest, the others are names."""
    store = Store(tmp_path / "store")
    first = release(store, "busy", {"app.py": "x = 1\n"})
    like = store.release_document(first)
    real, parents = [], (first,)
    for k in range(60):
        document = Release(**{**vars(like), "params": {"k": k}, "parents": parents}).document()
        real.append(store.objects.put_document(document))
        parents = (real[-1],)
    ids = [Digest(hashlib.blake2b(f"{k}".encode(), digest_size=32).hexdigest()) for k in range(MANY - 60)] + real
    entries = []
    for k, id_ in enumerate(ids):
        day = 60 * k / MANY
        entries.append(
            entry("busy", day, "shadow", f"Challenger {id_[:8]} in shadow.", {"release": id_}, refs=as_release(id_))
        )
        entries.append(
            entry(
                "busy",
                day,
                "promoted" if k % 3 == 0 else "rejected",
                f"Of {id_[:8]}.",
                {"release": id_, "evidence": {}},
            )
        )
    champion = (RoleChange(role="champion", release=ids[-1], share=1.0, expect_epoch=0),)
    entries.append(entry("busy", 60, "noted", "It is there.", roles=champion))
    store.ledger.append(entries, recorded_at=NOW)
    yield store
    store.close()


def quickest(function, times=5):
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return min(taken)


def test_pages_stay_quick_with_ten_thousand_releases(many):
    plain = quickest(lambda: many.ledger.refs(app="busy", kind="release"))
    sound(page(many, "/apps/busy"))

    # What the page of all releases would cost alone to read, were they all read.
    assert quickest(lambda: page(many, "/apps/busy/releases")) < plain
    assert quickest(lambda: page(many, "/apps/busy")) < plain
    assert quickest(lambda: page(many, "/apps/busy/log")) < plain
    document = json.loads(page(many, "/api/apps/busy/releases"))
    assert (document["total"], document["pages"], len(document["releases"])) == (MANY, MANY // 50, 50)
    newest = document["releases"][0]["id"]
    found = json.loads(page(many, "/api/apps/busy/releases", {"q": newest[:12]}))
    assert [one["id"] for one in found["releases"]] == [newest]
    assert quickest(lambda: page(many, f"/apps/busy/releases/{newest}")) < plain
    back = {"code": "1", "to": document["releases"][1]["id"]}
    for below in ("/data", "/incidents", "/confirm/revert"):
        assert quickest(lambda below=below: page(many, f"/apps/busy{below}", back)) < plain, below


def test_that_a_replay_ended_well_is_no_word_on_who_answers_now(lived):
    offline = json.loads(page(lived, "/api/apps/shop"))["status"]
    far = NOW + timedelta(days=700)
    served = respond(lived, "/api/apps/shop", {}, now=far, live={"may": []})

    assert offline["replayed"]
    assert json.loads(served.body)["status"]["right"]["state"] == "unknown"
    assert b"is-right" not in respond(lived, "/", {}, now=far, live={"may": []}).body


def test_a_revert_is_foretold_for_one_of_several_apps(empty):
    for app, codes in {"shop": ("x = 1\n", "x = 2\n"), "till": ("x = 3\n",)}.items():
        parents = ()
        for k, text in enumerate(codes):
            id_ = release(empty, app, {"app.py": text}, parents=parents)
            roles = [RoleChange(role="champion", release=id_, share=1.0, expect_epoch=k)]
            if parents:
                roles.append(RoleChange(role="previous", release=parents[0], share=0.0, expect_epoch=0))
            told = entry(app, k, "deployed", f"{k}.", {"release": id_}, refs=as_release(id_), roles=tuple(roles))
            empty.ledger.append([told], recorded_at=NOW)
            parents = (id_,)

    assert "would answer again" in page(empty, "/apps/shop/confirm/revert", {"code": "1"})
    assert "ST136" in page(empty, "/apps/till/confirm/revert", {"code": "1"}, status=404)
