"""Stores as the product makes them, for a browser to look at: each is made once, and copied by who changes it.

lived       a shop after 150 days of replay: losses beside "had we never retrained", incidents, segments
crowd       apps beside each other: 10,000 releases and a year of events; 200 columns, 50 segments and names that mean harm
on trial    a loop that has a challenger in shadow, an alarm and a window in quarantine; its clock stands still
waiting     the same, later: the challenger waits for a person
promoted    the same, later: it is champion
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path

import numpy as np

from staytrue import testing
from staytrue.engines.process import ProcessPool
from staytrue.kernel.release import Digest
from staytrue.kernel.source import SourceSpec
from staytrue.store import frames, tables
from staytrue.store.ledger import Entry, Ref, RoleChange
from staytrue.store.store import Store

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "scenario"))

import living  # noqa: E402
import shops  # noqa: E402
from untrained import release  # noqa: E402

HOSTILE = "<script>document.title='taken'</script>"
HARM = f"{HOSTILE}\"'/&\u202eevil\u202c" + "x" * 300
"""What a column, a segment, a file and a sentence may be called. Names of apps and sources are long and foreign at worst."""
MANY, REAL = 10_000, 400
COLUMNS, SEGMENTS = 200, 50
BUSY, EVIL, BARE = "busy", "evil-" + "x" * 58, "bare"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A store, the app beside it, and the file that says its time, where it has one."""

    folder: Path
    clock: Path | None = None
    store_name: str = ".staytrue"
    app: str = "shop"

    @property
    def store(self) -> Path:
        return self.folder / self.store_name

    @property
    def served(self) -> list[str]:
        """Arguments of `staytrue up` that have its controller run."""
        told = ["--app", str(self.folder / "app.py"), "--no-follow"]
        return [*told, "--clock", str(self.folder / "now")] if self.clock else told

    def copied(self, place: Path) -> Kept:
        """One's own."""
        shutil.copytree(self.folder, place)
        return replace(self, folder=place, clock=place / "now" if self.clock else None)


# ------------------------------------------------------------ a shop that was lived through


def lived(place: Path) -> Kept:
    """150 days of sales, replayed under three policies; prices rise in the middle."""
    folder = place / "shop"
    folder.mkdir(parents=True)
    (folder / "shop_history.py").write_text(shops.HISTORY)
    (folder / "app.py").write_text(shops.SHOP)
    with testing.bench(folder / "app.py", folder) as bench:
        bench.fetch("2026-01-01", "2026-05-31")
        bench.replay(["payback", "never", "every:28d"])
    return Kept(folder=folder, store_name="store")


# ------------------------------------------------------------ a loop in the middle of something

_LOUD = "    rate = 20 + 3 * size"
_TEXT = living.APP.replace(_LOUD, f"    size = size * (100 if number == 14 else 1)\n{_LOUD}")


def stages(place: Path) -> dict[str, Kept]:
    """One life, kept at three moments of it."""
    found = {}
    with ProcessPool(place / "jobs") as pool:
        live = living.Live(place / "shop", pool, text=_TEXT, settings=', approve=True, approve_within="365d"')
        controller = live.controller()
        for kind, name in (("shadow", "on trial"), ("waiting", "waiting"), ("promoted", "promoted")):
            if kind == "promoted":
                live.ask("promote")
                controller.turn()
                assert live.events(kind)
            else:
                live.until(controller, kind)
            folder = place / name.replace(" ", "-")
            shutil.copytree(live.folder, folder)
            found[name] = Kept(folder=folder, clock=folder / "now")
        live.ctx.store.close()
    return found


# ------------------------------------------------------------ many, wide and hostile

_NOW = datetime.now(UTC)


def crowd(kept: Kept) -> Kept:
    """Three apps more: one with very much, one with harmful names, one that was never asked anything."""
    store = Store(kept.store)
    busy(store)
    _evil(store)
    _bare(store)
    store.close()
    return kept


def busy(store: Store) -> None:
    """One in three came to answer. Of all but the newest there is the name only: writing 10,000 objects takes a minute."""
    real = [release(store, BUSY, {"app.py": "x = 1\n"})]
    like = store.release_document(real[0])
    for k in range(1, REAL):
        real.append(store.objects.put_document(replace(like, params={"k": k}, parents=(real[-1],)).document()))
    ids = [Digest(blake2b(f"{k}".encode(), digest_size=32).hexdigest()) for k in range(MANY - REAL)] + real
    entries = []
    for k, id_ in enumerate(ids):
        day = 365 * k / MANY
        became = "promoted" if k % 3 == 0 else "rejected"
        entries += [
            _entry(BUSY, day, "shadow", f"Challenger {id_[:8]} in shadow for 100 rows.", {"release": id_}, release=id_),
            _entry(BUSY, day, became, f"Release {id_[:8]}: {became}.", {"release": id_, "evidence": {}}),
        ]
    champion = RoleChange(role="champion", release=ids[-1], share=1.0, expect_epoch=0)
    entries.append(_entry(BUSY, 365, "noted", "It is there.", roles=(champion,)))
    store.ledger.append(entries, recorded_at=_NOW)


def _evil(store: Store) -> None:
    source, rng = "\u05d0\u05d1" + "w" * 120, np.random.default_rng(0)
    columns = [f"{HARM if k % 2 else 'w' * 300}{k}" for k in range(COLUMNS)]
    spec = SourceSpec(name=source, time="at", key="id", label="y")
    table = tables.empty(spec)
    for week in range(3):
        since = _NOW - timedelta(days=60 - 7 * week)
        rows = [
            {"at": since + timedelta(hours=k), "id": 100 * week + k, "y": float(rng.normal())}
            | {
                name: str(rng.choice([HOSTILE, '"', "\u202eevil"])) if n % 3 else float(rng.normal())
                for n, name in enumerate(columns)
            }
            for k in range(20)
        ]
        made = frames.to_rows(rows, doing="a test")
        like = table.schema or None
        table = tables.append(
            table, tables.make_part(store.objects, made, (since, since + timedelta(days=7)), spec, like=like)
        )
    manifest = tables.save(store.objects, table)
    first = release(store, EVIL, {"app.py": "x = 1\n"}, tables_={source: table.id}, params={HOSTILE: HOSTILE})
    second = release(
        store, EVIL, {"app.py": f"x = '{HOSTILE}'\n", f"{HOSTILE.replace('/', '_')}\u202e": "y" * 300},
        tables_={source: table.id}, parents=(first,), scores={HOSTILE: 1.5},
    )  # fmt: skip
    segments = {f"{HARM}={k}": {"rows": 9, "mean": 0.1 * k, "lo": None, "hi": None} for k in range(SEGMENTS)}
    seen = {"rows": 100, "blocks": 12, "mean": -1.0, "lo": -2.0, "hi": -0.5, "margin": 0.1, "segments": segments}
    fetched = (Ref(kind="source", name=source, digest=manifest), Ref(kind="table", name=table.id, digest=manifest))
    one, two = (
        RoleChange(role="champion", release=id_, share=1.0, expect_epoch=k) for k, id_ in enumerate((first, second))
    )
    alarm = {"alarm": "shift", "what": HOSTILE, "evidence": {HOSTILE: HOSTILE}}
    store.ledger.append(
        [
            _entry(EVIL, 1, "fetched", HOSTILE, refs=fetched, timeline="data"),
            _entry(EVIL, 2, "deployed", HOSTILE, {"release": first}, release=first, roles=(one,)),
            _entry(EVIL, 3, "alarm", f"`{HOSTILE}` {HARM}", alarm),
            _entry(EVIL, 4, "promoted", HOSTILE, {"release": second, "evidence": seen}, release=second, roles=(two,)),
            _entry(EVIL, 5, HOSTILE, HOSTILE),
        ],
        recorded_at=_NOW,
    )


def _bare(store: Store) -> None:
    """A champion, and not one label."""
    id_ = release(store, BARE, {"app.py": "x = 1\n"})
    champion = RoleChange(role="champion", release=id_, share=1.0, expect_epoch=0)
    store.ledger.append(
        [_entry(BARE, 360, "deployed", "It is there.", {"release": id_}, release=id_, roles=(champion,))],
        recorded_at=_NOW,
    )


def _entry(app, day, kind, sentence, body=None, *, release=None, refs=(), roles=(), timeline="live"):
    key = f"{kind}:{day}:{blake2b(sentence.encode(), digest_size=8).hexdigest()}"
    made = (Ref(kind="release", name=release, digest=release),) if release else ()
    return Entry(
        app=app, timeline=timeline, key=key, at=_NOW - timedelta(days=365) + timedelta(days=day), kind=kind,
        sentence=sentence, body=body or {}, refs=(*refs, *made), roles=roles,
    )  # fmt: skip
