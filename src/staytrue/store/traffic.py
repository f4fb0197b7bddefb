"""Traffic: every prediction that was made, once, joined to the label known by then. What `store.traffic()` gives.

It is read day by day from two kinds of places: segments (`store/segment.py`), to which predictions and labels are
appended, and the Parquet objects that `store/compaction.py` makes of closed ones. Which of them hold is for the ledger to
say: a segment that a compaction event names is passed over, whether its file is still there or not. So it is safe to
read while a segment grows or is compacted: a file that vanishes under the reader is in an event by then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import Unavailable
from staytrue.kernel.contract import Column, Schema, micros
from staytrue.kernel.metric import UserMetric
from staytrue.kernel.metric import metric as read_metric
from staytrue.kernel.release import Digest
from staytrue.kernel.traffic import Ints, Tallies, merge, tally
from staytrue.store import frames
from staytrue.store.join import Chunk, alike, as_text, joined, label_of_keys, no_predictions, union
from staytrue.store.ledger import Ledger
from staytrue.store.objects import LocalObjects
from staytrue.store.records import LABEL_SCHEMA, label_rows, moments, prediction_rows
from staytrue.store.segment import Kind, read_segment, segments, traffic_folder, written_since

__all__ = ["COMPACTED", "TIMELINE", "Kept", "Traffic", "compacted", "day_of", "plain", "posted_labels", "split_by_day"]

TIMELINE: Final = "traffic"
"""Where compactions are told."""

COMPACTED: Final = "compacted"

_ATTEMPTS: Final = 20
_DAY_US: Final = 86_400_000_000


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One compacted object, as its event describes it.

    Fields:
        what: predictions or labels. day: of predictions the UTC day on which they were made; of labels the day of the
            predictions that they name by id, None for those by key.
        release, arm, key, columns: of predictions, None and empty for labels.
    """

    what: Kind
    digest: Digest
    rows: int
    day: date | None
    release: str | None = None
    arm: str | None = None
    key: str | None = None
    columns: Schema = ()

    def document(self) -> dict[str, Any]:
        """As it stands in the body of an event."""
        return {
            **{name: getattr(self, name) for name in ("what", "digest", "rows", "release", "arm", "key")},
            "day": None if self.day is None else self.day.isoformat(),
            "columns": [list(one) for one in self.columns],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """What `document()` wrote."""
        day, columns = document["day"], document["columns"]
        named = {name: document[name] for name in ("what", "digest", "rows", "release", "arm", "key")}
        return cls(
            **named,
            day=None if day is None else date.fromisoformat(day),
            columns=tuple((name, kind) for name, kind in columns),
        )


def compacted(ledger: Ledger, app: str) -> tuple[frozenset[str], list[Kept]]:
    """The names of the segments that were compacted, and the objects that hold their rows."""
    names: set[str] = set()
    kept: list[Kept] = []
    for event in ledger.events(app, TIMELINE, kinds=[COMPACTED]):
        names.update(event.body["segments"])
        kept += [Kept.from_document(one) for one in event.body["objects"]]
    return frozenset(names), kept


# -- the public face --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Predictions of an app, `since <= at < until`, each once, with the label that was known by `known_by`.

    One row for each prediction, release and arm, ordered by time. Columns: `id`, `at` (when the request was admitted),
    `release`, `arm`, `weight` (1 / the probability of being logged), then what the request gave under its own names,
    `answer`, `label`, `label_at` (when it became true), `label_got_at` (when it arrived), `flags`. Answers, and labels,
    are float64 when all of them are numbers, else JSON text. A column that has one of our names becomes `row.NAME`.
    Columns are the union over the releases; a column that two releases know under different types is float64 if both are
    numbers, else text.

    A label without a value (JSON null) takes an earlier one back. Nothing is read before it is asked for; what is read
    twice is read anew.
    """

    objects: LocalObjects
    ledger: Ledger
    app: str
    since: datetime | None = None
    until: datetime | None = None
    known_by: datetime | None = None
    recent: bool = False
    """Pass over segments that were last written before `since`: for times that this machine's servers gave, not for any."""

    @property
    def root(self) -> Path:
        """The store's folder."""
        return self.objects.root

    def batches(self) -> Iterator[frames.Rows]:
        """The rows, one UTC day after the other; memory is that of the largest day.

        All have the same columns, but answers (and labels) are numbers on a day on which all of them are.

        Raises:
            Corrupt: ST712 a segment, ST209 or ST406 an object.    Unavailable: ST714, the disk refuses or the files
            change faster than they can be read.
        """
        reading = self._began()
        while reading.days:
            day, *rest = reading.days
            try:
                rows = reading.day(day)
            except FileNotFoundError:
                reading = self._again(reading)
                continue
            reading = replace(reading, days=rest)
            if rows.num_rows:
                yield rows

    def to_arrow(self) -> frames.Rows:
        """The rows, as an Arrow table that pyarrow, polars, pandas and DuckDB take without a copy. Raises as `batches`."""
        days = list(self.batches())
        if not days:
            return no_predictions(self._began().columns)
        return frames.concat(alike(days))

    def to_pandas(self) -> Any:
        """The rows, as a pandas DataFrame."""
        return frames.to_frame(self.to_arrow(), "pandas")

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def tallies(self, metric: str | UserMetric, *, segments: Sequence[str] = ()) -> Tallies:
        """Exact sums of rows, weights and losses by release, arm, day, and the values of these columns.

        A row has a loss when it has a label and an answer. Sums of different days, or of different stores, add up with
        `kernel.traffic.merge`.

        Args:
            metric: as for `@app.predict`; a function of the user's own gets the whole rows as a pandas DataFrame.
            segments: columns of the rows, by whose values (as text) to split.

        Raises:
            InvalidInput: ST206 no such column, ST520 to ST528 the metric. As `batches` otherwise.
        """
        by = ("release", "arm", "day", *segments)
        shards = [_tallied(rows, metric, segments) for rows in self.batches()]
        return merge(*shards) if shards else Tallies(by=by)

    def __repr__(self) -> str:
        reading = self._began()
        span = " .. ".join("" if t is None else f"{t:%Y-%m-%d %H:%M}" for t in (self.since, self.until)).strip()
        known = "" if self.known_by is None else f", labels known by {self.known_by:%Y-%m-%d %H:%M}"
        rows = sum(one.rows for one in reading.objects if one.what == "predictions" and one.day in reading.days)
        raw = [path for path, days in reading.raw.items() if days]
        size = sum(path.stat().st_size for path in raw if path.exists())
        where = f"{rows:,} rows compacted, {size / 1e6:,.1f} MB in {len(raw)} segments"
        return f"<traffic of {self.app}, {span if span != '..' else 'all'}{known}: {where}>"

    def _began(self) -> _Reading:
        for _ in range(_ATTEMPTS):
            try:
                return _reading(self)
            except FileNotFoundError:
                continue
        raise self._restless()

    def _again(self, reading: _Reading) -> _Reading:
        """A new look at where predictions are; the labels stay those that were known at the first one."""
        if reading.attempts >= _ATTEMPTS:
            raise self._restless()
        fresh = self._began()
        return replace(
            fresh, days=reading.days, labels=reading.labels, columns=reading.columns, attempts=reading.attempts + 1
        )

    def _restless(self) -> Unavailable:
        message = f"Can't read the traffic of {self.app}: its files changed {_ATTEMPTS} times meanwhile. Try again."
        return Unavailable("ST714", message, app=self.app, attempts=_ATTEMPTS)


def posted_labels(objects: LocalObjects, ledger: Ledger, app: str, keys: Column) -> Column:
    """For each of these keys of rows the label that callers gave under it, if any did, whoever was asked about the row.

    Numbers where all labels are, else JSON texts.

    Raises:
        Corrupt: ST712 a segment, ST209 or ST406 an object.    Unavailable: ST714, the files change faster than they are read.
    """
    # Limit: labels by key are read whole.
    for _ in range(_ATTEMPTS):
        paths = segments(traffic_folder(objects.root, app, "labels"))
        names, kept = compacted(ledger, app)
        try:
            raw = label_rows([read_segment(path) for path in paths if path.stem not in names])
        except FileNotFoundError:  # compacted meanwhile: it is in the ledger by now
            continue
        by_key = [_read(objects, one, None) for one in kept if one.what == "labels" and one.day is None]
        return label_of_keys(keys, frames.concat([raw, *by_key]))
    message = f"Can't read the labels of {app}: its files changed {_ATTEMPTS} times meanwhile. Try again."
    raise Unavailable("ST714", message, app=app, attempts=_ATTEMPTS)


# -- one reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """The labels known at the beginning: those in segments, by now in memory, and the objects with the others.

    `lasting`: rows that any day may need (by key, and what segments hold).
    """

    # Limit: labels by key are read whole, whatever the days asked for, since a key does not say when it was used.

    objects: LocalObjects
    known_by: datetime | None
    kept: list[Kept]
    lasting: frames.Rows

    def near(self, day: date) -> frames.Rows:
        """All that the predictions of a day may have."""
        # An id tells when it was made; around midnight that may be the day before or after.
        days = {day + timedelta(days=shift) for shift in (-1, 0, 1)}
        found = [_read(self.objects, one, self.known_by) for one in self.kept if one.day in days]
        return frames.concat([self.lasting, *found])


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """What is where, at one moment."""

    traffic: Traffic
    objects: list[Kept]
    raw: dict[Path, frozenset[date]]
    labels: _Labels
    columns: Schema
    days: list[date]
    attempts: int = 0

    def day(self, day: date) -> frames.Rows:
        """The joined rows of one day.

        Raises:
            FileNotFoundError: a segment was compacted meanwhile.
        """
        chunks = [chunk for chunk in self._chunks(day) if chunk.rows.num_rows]
        if not chunks:
            return no_predictions(self.columns)
        return joined(chunks, self.columns, self.labels.near(day))

    def _chunks(self, day: date) -> Iterator[Chunk]:
        for kept in self.objects:
            if kept.what == "predictions" and kept.day == day:
                rows = _within(frames.read_parquet(self.traffic.objects.get(kept.digest)), self._span(day))
                yield Chunk(release=kept.release or "", arm=kept.arm or "", key=kept.key, rows=rows)
        for path, days in self.raw.items():
            if day in days:
                segment = read_segment(path)
                header = segment.header or {}
                for arm, rows in prediction_rows(segment):
                    of_day = _within(rows, self._span(day))
                    yield Chunk(release=header.get("release") or "", arm=arm, key=header.get("key"), rows=of_day)

    def _span(self, day: date) -> tuple[int, int]:
        start = micros(datetime(day.year, day.month, day.day, tzinfo=UTC))
        since, until = self.traffic.since, self.traffic.until
        return (
            start if since is None else max(start, micros(since)),
            start + _DAY_US if until is None else min(start + _DAY_US, micros(until)),
        )


def _reading(traffic: Traffic) -> _Reading:
    # Files first, then the ledger: what was compacted in between is in the ledger.
    paths = {kind: segments(traffic_folder(traffic.root, traffic.app, kind)) for kind in ("predictions", "labels")}
    names, kept = compacted(traffic.ledger, traffic.app)
    raw: dict[Path, frozenset[date]] = {}
    days: set[date] = set()
    columns: set[Schema] = set()
    for one in kept:
        if one.what == "predictions" and one.day is not None and _touches(one.day, traffic):
            days.add(one.day)
            columns.add(one.columns)
    since = traffic.since if traffic.recent else None
    for path in paths["predictions"]:
        if path.stem not in names and (since is None or written_since(path, since)):
            segment = read_segment(path)
            raw[path] = frozenset(day for day in map(day_of, moments(segment)) if _touches(day, traffic))
            if raw[path]:
                days |= raw[path]
                columns.add(tuple((name, kind) for name, kind in (segment.header or {})["columns"]))
    segments_of_labels = [read_segment(path) for path in paths["labels"] if path.stem not in names]
    lasting = [_known(label_rows(segments_of_labels), traffic.known_by)]
    lasting += [_read(traffic.objects, one, traffic.known_by) for one in kept if one.what == "labels" and not one.day]
    return _Reading(
        traffic=traffic,
        objects=kept,
        raw=raw,
        labels=_Labels(
            objects=traffic.objects,
            known_by=traffic.known_by,
            kept=[one for one in kept if one.what == "labels"],
            lasting=frames.concat(lasting),
        ),
        # In an order that does not depend on what lies where.
        columns=union(sorted(columns)),
        days=sorted(days),
    )


def day_of(at_us: int) -> date:
    """The UTC day of this moment.

    Example:
        >>> day_of(86_400_000_000)
        datetime.date(1970, 1, 2)
    """
    return date(1970, 1, 1) + timedelta(days=at_us // _DAY_US)


def _touches(day: date, traffic: Traffic) -> bool:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    before = traffic.until is not None and start >= traffic.until
    return not before and (traffic.since is None or start + timedelta(days=1) > traffic.since)


def _read(objects: LocalObjects, kept: Kept, known_by: datetime | None) -> frames.Rows:
    return _known(frames.conform(frames.read_parquet(objects.get(kept.digest)), LABEL_SCHEMA), known_by)


def _known(labels: frames.Rows, known_by: datetime | None) -> frames.Rows:
    return labels if known_by is None else frames.take(labels, _values(labels, "got") < micros(known_by))


def _within(rows: frames.Rows, span: tuple[int, int]) -> frames.Rows:
    at = _values(rows, "at")
    inside = (at >= span[0]) & (at < span[1])
    return rows if bool(inside.all()) else frames.take(rows, inside)


def split_by_day(rows: frames.Rows, moments_us: Ints) -> Iterator[tuple[date, frames.Rows]]:
    """The rows of each UTC day."""
    numbers = moments_us // _DAY_US
    days = np.unique(numbers).tolist()
    for number in days:
        yield day_of(number * _DAY_US), rows if len(days) == 1 else frames.take(rows, numbers == number)


def _values(rows: frames.Rows, name: str) -> NDArray[Any]:
    values: NDArray[Any] = frames.column(rows, name).values
    return values


# -- sums -------------------------------------------------------------------------------------------------------------


def _tallied(rows: frames.Rows, metric: str | UserMetric, by: Sequence[str]) -> Tallies:
    # A row without an answer has no loss either: it counts as one without a label.
    judged = frames.column(rows, "label").valid & frames.column(rows, "answer").valid
    losses = np.full(rows.num_rows, np.nan)
    if judged.any():
        some = frames.take(rows, judged)
        losses[judged] = read_metric(metric).losses(
            plain(frames.column(some, "answer")),
            plain(frames.column(some, "label")),
            frames.to_frame(some, "pandas") if callable(metric) else None,
        )
    groups: dict[str, Any] = {name: frames.column(rows, name).values for name in ("release", "arm")}
    numbers, days = np.unique(_values(rows, "at") // _DAY_US, return_inverse=True)
    groups["day"] = np.array([day_of(number * _DAY_US).isoformat() for number in numbers.tolist()], object)[days]
    for name in by:
        texts = as_text(frames.column(rows, name))
        groups[name] = np.where(texts.valid, texts.values, "")
    return tally(groups, weight=_values(rows, "weight"), losses=losses)


def plain(column: Column) -> Any:
    """Answers or labels as Python and numpy know them: a float array with NaN where there is none, or a list."""
    values: Any = column.values
    if column.type == "string":
        return [json.loads(text) if there else None for text, there in zip(values, column.valid, strict=True)]
    return np.where(column.valid, values, np.nan)
