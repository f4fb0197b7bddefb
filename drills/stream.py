"""Stream: the rows that a drill plays, as the world brings them: each on its day, and its label some days later."""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from staytrue.cli.feeder import DAY

__all__ = ["DAY", "Database", "Stream", "elec2", "elec2_file", "hotel", "shop"]

HERE = Path(__file__).parent
_AFTER_THE_BOOKING = [
    "rate", "assigned_room_type", "booking_changes", "days_in_waiting_list", "country", "required_car_parking_spaces",
    "total_of_special_requests", "arrival_date_num",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Real rows in their order.

    Attributes:
        app: the folder with the app's first commit.
        rows: by time; the column `time` is UTC.
        asked: the columns that a caller sends.
        begin, first: the history goes from the one to the other; `first` is the first day that is played.
        label_after: how long after the end of a row's day its label is known.
        unit: of the loss.
        promotes: whether a challenger is promoted in the days before the commits. On Elec2 none is: what is better by a tenth, on
            rows as alike as the half-hours of a day, takes longer to show.
    """

    name: str
    app: Path
    rows: pd.DataFrame
    time: str
    key: str
    label: str
    asked: Sequence[str]
    begin: datetime
    first: datetime
    label_after: timedelta
    unit: str
    promotes: bool = True

    @cached_property
    def row(self) -> dict[str, Any]:
        """What somebody asks who books nothing: no key, so nobody ever learns what it would have cost."""
        (row,) = self.requests(self.rows[self.rows[self.time] < self.first].tail(1))
        return {name: value for name, value in row.items() if name != self.key}

    @cached_property
    def _days(self) -> dict[Any, pd.DataFrame]:
        return dict(iter(self.rows.groupby(self.rows[self.time].dt.floor("D"))))

    def day(self, at: datetime) -> pd.DataFrame:
        """The rows of one day; its beginning is given."""
        return self._days.get(pd.Timestamp(at), self.rows.iloc[:0])

    def known(self, at: datetime) -> pd.DataFrame:
        """The rows whose labels become known when that day begins."""
        return self.day(at - DAY - self.label_after)

    def requests(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        """Each row as a caller sends it: what is known then, and the key."""
        sent = rows[[self.key, *self.asked]].to_dict("records")
        return [{name: _plain(value) for name, value in row.items()} for row in sent]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    return value.isoformat() if isinstance(value, datetime) else value


class Database:
    """What the app's source reads: one SQLite table, `stream`. Times stand in it as text, as RFC 3339 has them.

    For a feeder it is the world.
    """

    def __init__(self, file: Path, stream: Stream) -> None:
        self.file, self._stream = file, stream
        # Made in one thread and used in another, one after the other.
        self._connection = sqlite3.connect(file, check_same_thread=False)
        known = stream.rows[stream.time] < stream.first - stream.label_after
        past = stream.rows[stream.rows[stream.time] < stream.first]
        self._written(past.assign(**{stream.label: past[stream.label].where(known[past.index])}), "replace")
        self._connection.execute("pragma journal_mode = wal")  # who reads never waits for who writes
        self._connection.execute(f"create index by_time on stream ({stream.time})")
        self._connection.execute(f"create unique index by_key on stream ({stream.key})")
        self._connection.commit()

    @property
    def key(self) -> str:
        """The column that tells rows apart."""
        return self._stream.key

    @property
    def row(self) -> dict[str, Any]:
        """A row that belongs to nobody."""
        return self._stream.row

    def came(self, day: datetime) -> list[dict[str, Any]]:
        """The rows of that day: nobody knows their labels."""
        rows = self._stream.day(day)
        self._written(rows.assign(**{self._stream.label: None}), "append")
        return self._stream.requests(rows)

    def became_known(self, now: datetime) -> dict[Any, Any]:
        """The labels that are known when that day begins."""
        rows = self._stream.known(now)
        found = dict(zip(rows[self._stream.key].tolist(), rows[self._stream.label].tolist(), strict=True))
        self._connection.executemany(
            f"update stream set {self._stream.label} = ? where {self._stream.key} = ?",  # noqa: S608 - names of ours
            [(label, key) for key, label in found.items()],
        )
        self._connection.commit()
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _written(self, rows: pd.DataFrame, how: Any) -> None:
        text = rows[self._stream.time].map(lambda at: at.isoformat())
        rows.assign(**{self._stream.time: text}).to_sql("stream", self._connection, index=False, if_exists=how)


# ---------------------------------------------------------------- those that there are


def hotel() -> Stream:
    """Bookings of a resort hotel, from examples/pricing: what should the room cost?"""
    rows = pd.read_csv(HERE.parent / "examples" / "pricing" / "hotel_rates.csv.gz")
    rows["booked_at"] = pd.to_datetime(rows["booked_at"], utc=True)
    known = [name for name in rows.columns if name not in {*_AFTER_THE_BOOKING, "booked_at", "booking_id"}]
    return Stream(
        name="hotel",
        app=HERE / "hotel",
        rows=rows,
        time="booked_at",
        key="booking_id",
        label="rate",
        asked=known,
        begin=datetime(2015, 4, 1, tzinfo=UTC),
        first=datetime(2016, 7, 1, tzinfo=UTC),
        label_after=timedelta(days=3),
        unit="euros",
    )


def elec2_file() -> Path:
    """Where Elec2 is, if it is there: it states no licence, so it is not shipped."""
    return Path(os.environ.get("ELEC2") or HERE.parents[1] / "shared" / "data" / "elec2.parquet").resolve()


def elec2() -> Stream:
    """Half-hours of an electricity market: will the price rise above its daily mean?"""
    import arro3.io

    table = arro3.io.read_parquet(str(elec2_file())).read_all()
    asked = ["period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]
    rows = pd.DataFrame(
        {n: table.column(n).to_pylist() for n in ("row", "at", "class", "repeated_day", *asked)},
    )
    rows = rows[~rows["repeated_day"]].drop(columns="repeated_day").rename(columns={"class": "rises"})
    rows["at"] = pd.to_datetime(rows["at"], utc=True)
    return Stream(
        name="elec2",
        app=HERE / "elec2",
        rows=rows.reset_index(drop=True),
        time="at",
        key="row",
        label="rises",
        asked=asked,
        begin=datetime(1996, 5, 7, tzinfo=UTC),
        first=datetime(1996, 7, 1, tzinfo=UTC),
        label_after=DAY,
        unit="wrong",
        promotes=False,
    )


def shop(each: int = 60, days: int = 90) -> Stream:
    """Made-up nights, `each` a day: from the fourth day on they cost 6 more, and for a week in the first month 9 more again."""
    begin, first = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 2, 1, tzinfo=UTC)
    rng, n = np.random.default_rng(7), each * (days + 31)
    day = np.arange(n) // each - 31
    size, terrace = rng.uniform(1, 5, n).round(3), rng.integers(0, 2, n)
    dear = 6.0 * (day >= 3) + 9.0 * ((day >= 25) & (day < 32))
    rate = 20 + 3 * size + 4 * terrace + dear + rng.normal(0, 1, n)
    at = pd.Timestamp(begin) + pd.to_timedelta(np.arange(n) * (86_400 // each), unit="s")
    city = rng.choice(["lisbon", "porto"], n)
    rows = {"at": at, "id": np.arange(n), "size": size, "terrace": terrace, "city": city}
    return Stream(
        name="shop",
        app=HERE / "shop",
        rows=pd.DataFrame({**rows, "rate": rate.round(3)}),
        time="at",
        key="id",
        label="rate",
        asked=["size", "terrace", "city"],
        begin=begin,
        first=first,
        label_after=DAY,
        unit="euros",
    )
