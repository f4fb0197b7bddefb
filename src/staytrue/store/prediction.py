"""Prediction: a single one found in the log again, by its id or by the key of its row; and its neighbours in time with a label.

An id is a UUIDv7, which tells when it was made: so the log of one minute is read, and not all of it. A key says nothing of
when it was asked about: the whole log is looked through, day by day.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import InvalidInput, NotFound
from staytrue.kernel.contract import Column, micros
from staytrue.store import frames
from staytrue.store.join import alike, as_text, own_name
from staytrue.store.records import moments
from staytrue.store.segment import read_segment, segments, traffic_folder
from staytrue.store.store import Store
from staytrue.store.traffic import compacted, day_of

__all__ = ["ARMS", "OURS", "Prediction", "labelled_near", "prediction_by_id", "prediction_by_key"]

OURS: Final = frozenset(
    {"id", "at", "release", "arm", "weight", "answer", "label", "label_at", "label_got_at", "flags"}
)
"""The columns of `store.traffic()` that are not the request's."""
ARMS: Final = {"champion": "champion", "canary": "challenger", "shadow": "shadow"}
"""What people call an arm -> as the log has it."""

_SLACK: Final = timedelta(minutes=1)
_FEWEST_DIGITS: Final = 8
"""Of an id's beginning: these tell when it was made to 65 seconds."""
_ID_DIGITS: Final = 32
_TIME_DIGITS: Final = 12
_LISTED: Final = 10
_NEAR_DAYS: Final = (1, 7, 60, None)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One answer of one release.

    Attributes:
        arm: as the log has it: `champion`, `challenger` (people say canary), `shadow`.
        row: what the request gave, under its own names, in Python's values.
        answer, label: in Python's values, None where there is none. `label_at`: when it became true.
        logged: the same as a row of `store.traffic()`.
        others: the newest other predictions that were asked for by the same words, as dicts of id, at, arm and release; of the
            same id other arms. `more`: how many there are in all.
    """

    id: str
    at: datetime
    release: str
    arm: str
    row: Mapping[str, Any]
    answer: Any
    label: Any
    label_at: datetime | None
    flags: str | None
    logged: frames.Rows
    others: Sequence[Mapping[str, Any]] = ()
    more: int = 0

    @property
    def role(self) -> str:
        """The arm as people call it."""
        return next((word for word, arm in ARMS.items() if arm == self.arm), self.arm)


def prediction_by_id(store: Store, app: str, id_: str, *, arm: str | None = None) -> Prediction:
    """The prediction whose id is this, or begins so.

    Where a champion's or a canary's answer and a shadow's have the same id, the one that somebody got is meant.

    Args:
        id_: all of it, or at least its first 8 digits; with or without dashes.
        arm: only this one, as the log has it.

    Raises:
        InvalidInput: ST971, no id and no beginning of one; ST972, several begin so.
        NotFound: ST973, there is no such prediction in the log.
        As `Traffic.batches` otherwise.
    """
    digits = _digits(id_)
    if digits is None:
        raise InvalidInput(
            "ST971",
            f"{id_!r:.80} is no id of a prediction, nor the beginning of one: expected at least {_FEWEST_DIGITS} of its 32 "
            "hexadecimal digits, as in 01a21519-ca9d-72d7-b7ef-bd842192118f. It stands in the answer's `ids`; a row's key goes "
            "behind --key.",
            got=id_[:80],
        )
    since, until = _span(digits)
    found = [
        frames.take(rows, _begin_with(rows, digits) & _of_arm(rows, arm))
        for rows in store.traffic(since - _SLACK, until + _SLACK, app=app, known_by=_ALL).batches()
    ]
    rows = [one for one in found if one.num_rows]
    if not rows:
        raise _unknown(store, app, id_, since, arm)
    ids = sorted({text for one in rows for text in frames.column(one, "id").values.tolist()})
    if len(ids) > 1:
        raise InvalidInput(
            "ST972",
            f"{len(ids)} predictions of {app} begin with {id_!r}: {', '.join(ids[:_LISTED])}"
            f"{', ...' if len(ids) > _LISTED else ''}. Give more of the id.",
            ids=ids[:_LISTED],
            count=len(ids),
        )
    return _chosen(rows)


def prediction_by_key(
    store: Store,
    app: str,
    columns: Collection[str],
    value: str,
    *,
    since: datetime | None = None,
    arm: str | None = None,
) -> Prediction:
    """The newest prediction about the row with this key; the others are named.

    Args:
        columns: those that may hold the key. value: compared as text: 7, "7" and 7.0 are one.
        since: older predictions are not looked at. arm: only this one, as the log has it.

    Raises:
        InvalidInput: ST974, rows of this app have no key.
        NotFound: ST973, there is no such prediction in the log.
        As `Traffic.batches` otherwise.
    """
    if not columns:
        raise InvalidInput(
            "ST974",
            f"Rows of {app} have no key: none of its sources names one. Give the id of the prediction.",
            app=app,
        )
    # Limit: the log of the app is read whole, a day at a time.
    found = []
    for rows in store.traffic(since, app=app, known_by=_ALL).batches():
        hits = np.zeros(rows.num_rows, np.bool_)
        for name in columns:
            if own_name(name) in rows.column_names:
                hits |= _equal(frames.column(rows, own_name(name)), value)
        hits &= _of_arm(rows, arm)
        if hits.any():
            found.append(frames.take(rows, hits))
    if not found:
        which = " or ".join(sorted(columns))
        span = f" since {since:%Y-%m-%d}" if since else ""
        raise NotFound(
            "ST973",
            f"No prediction of {app}{span} is about a row with {which} = {value!r:.80}{_in_arm(arm)}. {_kept(store, app)} "
            "Requests that leave the key out are found by the id in their answer.",
            key=value[:80],
            columns=sorted(columns),
        )
    return _chosen(found)


_ALL: Final = datetime(9999, 1, 1, tzinfo=UTC)
"""Labels that came until then count: all of them."""


def labelled_near(store: Store, app: str, prediction: Prediction, *, most: int) -> frames.Rows | None:
    """Other labelled and answered rows of the same release, as in `store.traffic()`, the nearest in time: oldest first.

    A day around is looked at, then a week, 60 days and all, until there are enough. None: there is not one.
    """
    at = prediction.at
    found: list[frames.Rows] = []
    for days in _NEAR_DAYS:
        span = (None, None) if days is None else (at - timedelta(days=days), at + timedelta(days=days))
        found = []
        for rows in store.traffic(*span, app=app, known_by=_ALL).batches():
            judged = frames.column(rows, "label").valid & frames.column(rows, "answer").valid
            mine = judged & (frames.column(rows, "release").values == prediction.release)
            mine &= frames.column(rows, "id").values != prediction.id
            if mine.any():
                found.append(frames.take(rows, mine))
        if sum(rows.num_rows for rows in found) >= most:
            break
    if not found:
        return None
    whole = frames.concat(alike(found))
    apart = np.abs(frames.column(whole, "at").values - micros(at))
    return frames.take(whole, np.sort(np.argsort(apart, kind="stable")[:most]))


# -- ids --------------------------------------------------------------------------------------------------------------


def _digits(text: str) -> str | None:
    """The digits of an id or of its beginning; None for anything else."""
    digits = text.strip().lower().replace("-", "")
    fits = re.fullmatch(f"[0-9a-f]{{{_FEWEST_DIGITS},{_ID_DIGITS}}}", digits)
    # Dashes stand where a UUID has them, or nowhere.
    whole = _dashed(digits) if fits else ""
    return digits if fits and text.strip().lower() in {digits, whole[: len(text.strip())]} else None


def _dashed(digits: str) -> str:
    return str(UUID(hex=digits.ljust(_ID_DIGITS, "0")))


def _span(digits: str) -> tuple[datetime, datetime]:
    """When an id that begins so was made: a UUIDv7 begins with the milliseconds since 1970."""
    head = digits[:_TIME_DIGITS]
    ends = (int(head.ljust(_TIME_DIGITS, fill), 16) for fill in "0f")
    start, end = (min(ms, _LAST_MS) for ms in ends)
    return _EPOCH + timedelta(milliseconds=start), _EPOCH + timedelta(milliseconds=end + 1)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS: Final = int((datetime(9998, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds()) * 1000
"""What is no UUIDv7 may tell any time."""


def _begin_with(rows: frames.Rows, digits: str) -> NDArray[np.bool_]:
    begin = _dashed(digits)[: len(digits) + sum(len(digits) > place for place in (8, 12, 16, 20))]
    ids = frames.column(rows, "id").values.tolist()
    return np.fromiter((text.startswith(begin) for text in ids), np.bool_, len(ids))


def _of_arm(rows: frames.Rows, arm: str | None) -> NDArray[np.bool_]:
    arms: NDArray[Any] = frames.column(rows, "arm").values
    return np.ones(len(arms), np.bool_) if arm is None else np.asarray(arms == arm, np.bool_)


def _unknown(store: Store, app: str, id_: str, made: datetime, arm: str | None) -> NotFound:
    when = (
        f" It would have been made on {made:%Y-%m-%d %H:%M} UTC."
        if made <= datetime.now(UTC) + timedelta(days=1)
        else ""
    )
    return NotFound(
        "ST973",
        f"No prediction of {app} has the id {id_!r:.80}{_in_arm(arm)}.{when} {_kept(store, app)} An id stands in the answer's "
        "`ids`; an answer that said `staytrue-logged: false` is not in the log. A row's key finds it too: --key.",
        id=id_[:80],
    )


def _in_arm(arm: str | None) -> str:
    word = next((word for word, known in ARMS.items() if known == arm), arm)
    return f" with the arm {word}" if arm else ""


def _kept(store: Store, app: str) -> str:
    """What the log holds, in a sentence. Nothing is taken out of it: what was logged is kept."""
    _, kept = compacted(store.ledger, app)
    days = {one.day for one in kept if one.what == "predictions" and one.day is not None}
    for path in segments(traffic_folder(store.root, app, "predictions")):
        with suppress(FileNotFoundError):  # compacted meanwhile
            days |= {day_of(at) for at in moments(read_segment(path))}
    if not days:
        return "The log holds no prediction yet: `staytrue up` makes them."
    return f"The log holds predictions of {min(days)} to {max(days)}, and none is ever taken out of it."


# -- keys -------------------------------------------------------------------------------------------------------------


def _equal(column: Column, value: str) -> NDArray[np.bool_]:
    """(n,) which values are this one, as text."""
    if column.values.dtype.kind in "iuf" and not column.type.startswith(("date", "timestamp")):
        try:
            number: float | int = int(value)
        except ValueError:
            try:
                number = float(value)
            except ValueError:
                return np.zeros(len(column.valid), np.bool_)
        return np.asarray(column.values == number, np.bool_) & column.valid
    texts = as_text(column)
    return np.asarray(texts.values == value, np.bool_) & texts.valid


# -- what was found ---------------------------------------------------------------------------------------------------


def _chosen(found: Sequence[frames.Rows]) -> Prediction:
    """The newest that somebody got, else the newest; at least one row."""
    rows = frames.concat(alike(list(found)))
    columns = {name: frames.column(rows, name).values.tolist() for name in ("id", "at", "release", "arm")}
    order = sorted(
        range(rows.num_rows),
        key=lambda i: (columns["at"][i], columns["arm"][i] != "shadow", columns["id"][i]),
        reverse=True,
    )
    best = next((i for i in order if columns["arm"][i] != "shadow"), order[0])
    others = [
        {
            "id": columns["id"][i],
            "at": (_EPOCH + timedelta(microseconds=columns["at"][i])).isoformat(),
            "arm": next((word for word, arm in ARMS.items() if arm == columns["arm"][i]), columns["arm"][i]),
            "release": columns["release"][i],
        }
        for i in order
        if i != best
    ]
    return _read(frames.take(rows, np.array([best])), others[:_LISTED], len(others))


def _read(logged: frames.Rows, others: Sequence[Mapping[str, Any]], more: int) -> Prediction:
    values = {name: column[0] for name, column in frames.to_pydict(logged).items()}
    row = {_given_name(name): value for name, value in values.items() if name not in OURS}
    return Prediction(
        id=values["id"],
        at=values["at"],
        release=values["release"],
        arm=values["arm"],
        row=row,
        answer=_plain(frames.column(logged, "answer")),
        label=_plain(frames.column(logged, "label")),
        label_at=values["label_at"],
        flags=values["flags"],
        logged=logged,
        others=others,
        more=more,
    )


def _given_name(name: str) -> str:
    """A logged column as the request called it: the way back from `own_name`."""
    bare = name.removeprefix("row.")
    return bare if own_name(bare) == name else name


def _plain(column: Column) -> Any:
    """The one value of answers or labels."""
    if not column.valid[0]:
        return None
    return json.loads(column.values[0]) if column.type == "string" else column.values[0].item()
