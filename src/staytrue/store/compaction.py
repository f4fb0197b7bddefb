"""Compaction: closed segments become Parquet objects, and one event of the ledger says which segments they stand for.

    read closed segments -> objects, on disk -> event (timeline "traffic") with references -> delete the segments

A kill before the event leaves objects that nothing refers to, for gc; one behind it leaves files that readers pass over and
the next compaction deletes. The key of the event is made of the names of the segments, so a set is recorded once.
It is work for a process of its own, with little right to the CPU, so that a server at rest keeps no Arrow in memory:

    python -m staytrue.store.compaction STORE APP
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import numpy as np

from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.contract import Schema
from staytrue.store import frames
from staytrue.store.durable import disk, sync_directory
from staytrue.store.join import alike, once
from staytrue.store.ledger import Entry, Ref
from staytrue.store.objects import digest
from staytrue.store.records import label_rows, prediction_rows, row_columns
from staytrue.store.segment import (
    Kind,
    Segment,
    closed_segments,
    read_segment,
    remove_if_empty,
    segments,
    traffic_folder,
)
from staytrue.store.store import Store, open_store
from staytrue.store.traffic import COMPACTED, TIMELINE, Kept, compacted, split_by_day

if sys.platform != "win32":
    import fcntl

__all__ = ["Compaction", "compact", "main"]

# A set is in memory as a whole, at about five times the size of its segments (benchmarks/traffic.py).
_SET_BYTES: Final = 32 << 20
_KINDS: Final[tuple[Kind, ...]] = ("predictions", "labels")
_UUID_VERSION: Final = 7


@dataclass(kw_only=True)
class Compaction:
    """What a compaction did. `damaged`: segments left alone, since bytes in their middle changed."""

    segments: int = 0
    rows: int = 0
    objects: int = 0
    torn_bytes: int = 0
    deleted: int = 0
    damaged: tuple[str, ...] = ()
    busy: bool = False
    """Another process compacts this app at this moment: nothing was done."""


def compact(store: Store, app: str, now: datetime, *, set_bytes: int = _SET_BYTES) -> Compaction:
    """Compacts every closed segment of an app. Safe at any time, beside writers, readers and itself; killed, it goes on later.

    Args:
        now: for the events.
        set_bytes: segments of about so many bytes are read, recorded and deleted together.

    Raises:
        Unavailable: ST402, ST403 the disk, ST410 to ST419 the ledger.    Corrupt: ST712, a segment is no traffic.
    """
    done = Compaction()
    with _alone(traffic_folder(store.root, app, "labels").parent) as alone:
        done.busy = not alone
        if alone:
            for kind in _KINDS:
                _compact_kind(store, app, kind, now=now, done=done, set_bytes=set_bytes)
    return done


def _compact_kind(store: Store, app: str, kind: Kind, *, now: datetime, done: Compaction, set_bytes: int) -> None:
    folder = traffic_folder(store.root, app, kind)
    known, _ = compacted(store.ledger, app)
    # Left behind by a compaction that was killed after its event.
    done.deleted += _delete([path for path in segments(folder) if path.stem in known])
    for paths in _sets([path for path in closed_segments(folder) if not remove_if_empty(path)], set_bytes):
        found = [read_segment(path) for path in paths]
        whole = [segment for segment in found if not segment.damaged]
        done.damaged += tuple(segment.path.name for segment in found if segment.damaged)
        if whole:
            kept = list(_predictions(store, whole) if kind == "predictions" else _labels(store, whole))
            store.ledger.append([_entry(app, kind, whole, kept, now)], recorded_at=now)
            # SQLite says nothing when the sync of a directory fails; the names of its files must be on disk before what
            # the event stands for goes.
            with disk("sync the folder of the store"):
                sync_directory(store.root)
            done.segments += len(whole)
            done.rows += sum(one.rows for one in kept)
            done.objects += len(kept)
            done.torn_bytes += sum(segment.torn_bytes for segment in whole)
            done.deleted += _delete([segment.path for segment in whole])


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether nobody else compacts in this folder while the block lasts."""
    if sys.platform == "win32" or not folder.exists():
        yield folder.exists()
        return
    with disk(f"compact {folder}"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _sets(paths: list[Path], set_bytes: int) -> Iterator[list[Path]]:
    held: list[Path] = []
    size = 0
    for path in paths:
        held.append(path)
        size += path.stat().st_size
        if size >= set_bytes:
            yield held
            held, size = [], 0
    if held:
        yield held


def _entry(app: str, kind: Kind, whole: Sequence[Segment], kept: Sequence[Kept], now: datetime) -> Entry:
    names = sorted(segment.name for segment in whole)
    rows = sum(one.rows for one in kept)
    return Entry(
        app=app,
        timeline=TIMELINE,
        key=f"compacted:{digest(canonical_json([kind, *names]))}",
        at=now,
        kind=COMPACTED,
        sentence=f"Compacted {len(names)} segments of {kind}: {rows:,} rows in {len(kept)} objects.",
        body={"segments": names, "objects": [one.document() for one in kept]},
        refs=tuple(Ref(kind="traffic", name=_name(one), digest=one.digest) for one in kept),
    )


def _name(kept: Kept) -> str:
    day = "by key" if kept.day is None else kept.day.isoformat()
    return f"{kept.what} {day}" + (f" {(kept.release or '')[:12]} {kept.arm}" if kept.what == "predictions" else "")


def _predictions(store: Store, whole: Sequence[Segment]) -> Iterator[Kept]:
    """One object for each day, release and arm."""
    groups: dict[tuple[str, str, str | None, Schema], list[frames.Rows]] = defaultdict(list)
    for segment in whole:
        header = segment.header or {}
        for arm, rows in prediction_rows(segment):
            groups[header.get("release") or "", arm, header.get("key"), row_columns(frames.schema(rows))].append(rows)
    for (release, arm, key, columns), parts in groups.items():
        rows = once(frames.concat(alike(parts)))
        for day, of_day in split_by_day(rows, frames.column(rows, "at").values):
            kept = Kept(
                what="predictions",
                digest=store.objects.put(frames.write_parquet(of_day)),
                rows=of_day.num_rows,
                day=day,
                release=release,
                arm=arm,
                key=key,
                columns=columns,
            )
            yield kept


def _labels(store: Store, whole: Sequence[Segment]) -> Iterator[Kept]:
    """One object for each day of the predictions that they are about, and one of those that name no prediction."""
    rows = label_rows(whole)
    hi = frames.column(rows, "id_hi").values.view(np.uint64)
    # The moment in an id of version 7; an id that tells none may belong to any day.
    timed = ~frames.column(rows, "key").valid & ((hi >> np.uint64(12)) & np.uint64(0xF) == _UUID_VERSION)
    made_us = (hi >> np.uint64(16)).astype(np.int64) * 1000
    parts: list[tuple[date | None, frames.Rows]] = [*split_by_day(frames.take(rows, timed), made_us[timed])]
    if not timed.all():
        parts.append((None, frames.take(rows, ~timed)))
    for day, part in parts:
        name = store.objects.put(frames.write_parquet(part))
        yield Kept(what="labels", digest=name, rows=part.num_rows, day=day)


def _delete(paths: Sequence[Path]) -> int:
    with disk("delete segments that were compacted"):
        for path in paths:
            path.unlink(missing_ok=True)
    return len(paths)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m staytrue.store.compaction STORE APP`: prints what was done as one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m staytrue.store.compaction", description=main.__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("app")
    given = parser.parse_args(arguments)
    if sys.platform != "win32":
        os.nice(19)
    store = open_store(given.store, must_exist=True)
    try:
        done = compact(store, given.app, datetime.now(UTC))
    finally:
        store.close()
    sys.stdout.write(json.dumps(asdict(done)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
