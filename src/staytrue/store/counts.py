"""Counts: how many rows each release has answered since a moment, read without the rows.

A trial of a plain service asks this again and again, so it must not cost what reading the traffic does. Of a segment only
the frame around each batch is decoded; one that nobody wrote to since then is not opened; of a compacted object its event
tells the number of rows, and only the objects of the first day are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from staytrue.errors import Unavailable
from staytrue.kernel.contract import micros
from staytrue.store import frames
from staytrue.store.records import answered
from staytrue.store.segment import read_segment, segments, traffic_folder, written_since
from staytrue.store.traffic import Kept, compacted

if TYPE_CHECKING:
    from staytrue.store.store import Store

__all__ = ["answered_rows"]

_ATTEMPTS: Final = 20


def answered_rows(store: Store, app: str, since: datetime) -> Mapping[tuple[str, str], int]:
    """(release, arm) -> rows that it has answered, of requests admitted from `since` on.

    Raises:
        Corrupt: ST712 a segment, ST209 or ST406 an object.    Unavailable: ST714, files change faster than they are read.
    """
    # Limit: a batch that was sent again, since the process that answered it died, may count twice.
    for _ in range(_ATTEMPTS):
        try:
            # Files first, then the ledger: what was compacted in between is in the ledger.
            paths = segments(traffic_folder(store.root, app, "predictions"))
            names, kept = compacted(store.ledger, app)
            raw = [path for path in paths if path.stem not in names and written_since(path, since)]
            counts: Counter[tuple[str, str]] = Counter()
            for release, arm, rows in (*_of_segments(raw, since), *_of_objects(store, kept, since)):
                counts[release, arm] += rows
        except FileNotFoundError:  # compacted meanwhile
            continue
        return counts
    raise Unavailable(
        "ST714", f"Can't count the traffic of {app}: its files changed {_ATTEMPTS} times meanwhile.", app=app
    )


def _of_segments(paths: list[Path], since: datetime) -> Iterator[tuple[str, str, int]]:
    since_us = micros(since)
    for path in paths:
        segment = read_segment(path)
        release = (segment.header or {}).get("release") or ""
        yield from ((release, arm, rows) for at_us, arm, rows in answered(segment) if at_us >= since_us)


def _of_objects(store: Store, kept: list[Kept], since: datetime) -> Iterator[tuple[str, str, int]]:
    first = since.astimezone(UTC).date()
    for one in kept:
        if one.what != "predictions" or one.day is None or one.day < first:
            continue
        rows = one.rows
        if one.day == first:
            at = frames.column(frames.read_parquet(store.objects.get(one.digest)), "at").values
            rows = int((at >= micros(since)).sum())
        yield one.release or "", one.arm or "", rows
