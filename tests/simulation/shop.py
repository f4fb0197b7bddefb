"""The app of the simulation, and the world that its source tells of: every day's rows, when their labels come, what goes wrong.

Nothing here needs a library beyond those that staytrue needs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from staytrue.store import frames

__all__ = ["APP", "EACH", "HISTORY", "LABEL_AFTER", "START", "Rows", "day_of", "give_rows", "write_app"]

APP, EACH, HISTORY = "shop", 30, 12
"""The app's name, rows a day, and days that were fetched before the simulation begins."""
START = datetime(2026, 1, 1, tzinfo=UTC)
LABEL_AFTER = 2
_DAY = timedelta(days=1)

_TEXT = """
import numpy as np

from staytrue import App

app = App("shop")
app.policy({policy})


@app.data(time="at", key="id", label="rate", every="1d", label_after="2d", features=["size", "city"])
def sales(since, until):
    return __import__("simulated_rows").asked(since, until)


@app.train
def fit(sales: list):
    return np.polyfit([row["size"] for row in sales], [row["rate"] for row in sales], 1).tolist()


@app.predict(metric="mae"{segments})
def quote(model, rows):
    return np.polyval(model, [row["size"] for row in rows])
"""
_SHARED = 'alpha=0.5, holdout=240, watch_rows=240, trial_days=20, cooldown="1d"'
_KINDS: tuple[tuple[str, str], ...] = (
    (f'{_SHARED}, retrain="every:3d", trial="backtest, shadow:30, canary:50%", window="20d"', ""),
    (f'{_SHARED}, retrain="rows:90", trial="canary:20%:60%", margin=0.1', ', segments=["city"]'),
    (f'{_SHARED}, retrain="payback", retrain_cost=5, trial="backtest, canary:40%", margin=0.1, window="20d"', ""),
    (f'{_SHARED}, retrain="every:4d", trial="shadow:60", window="auto"', ""),
)


def write_app(folder: Path, data: int) -> Path:
    """The app's file. Which policy it has depends on the data."""
    policy, segments = _KINDS[data % len(_KINDS)]
    folder.mkdir(parents=True)
    file = folder / "app.py"
    file.write_text(_TEXT.format(policy=policy, segments=segments))
    return file


def day_of(moment: datetime) -> int:
    """Days since the beginning."""
    return (moment - START) // _DAY


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What the source knows. Depends on the seed `data` alone, so several simulations share one.

    Args:
        rough: labels come late, some are corrected, and some windows come broken first and whole later.
    """

    data: int
    days: int
    rough: bool = False

    @cached_property
    def levels(self) -> list[float]:
        """What a sale costs more on each day: it jumps at times, and some jumps are taken back a few days later.

        Never by so much that the contract takes it for another unit.
        """
        rng, found, level = np.random.default_rng([self.data, 1]), [], 0.0
        while len(found) < self.days:
            found += [level] * int(rng.integers(6, 16))
            before, level = level, float(rng.choice([other for other in (0.0, 3.5, 7.0) if other != level]))
            if rng.random() < 0.4:
                found += [level] * int(rng.integers(6, 12))
                level = before
        return found

    def asked(self, since: datetime, until: datetime, now: datetime) -> Any:
        """The rows between two moments, as they are known at `now`."""
        first, stop = max(day_of(since), 0), min(day_of(until), self.days)
        # What happened up to now: an open window holds what came so far.
        found = [self._part(day, now) for day in range(first, stop)]
        return frames.concat(found) if found else _empty()

    def is_broken(self, day: int) -> bool:
        """Whether the day's rows come broken first: they go into quarantine."""
        return self._roughness(day)[2] > 0

    def is_closed(self, day: int) -> bool:
        """Whether the shop is closed on that day."""
        return _is_closed(self.data, day)

    def _part(self, day: int, now: datetime) -> Any:
        age = (now - START) / _DAY - day
        if age <= 0:
            return _empty()
        lag, fixed, broken = self._roughness(day)
        labelled = 0 if age < 1 + LABEL_AFTER else EACH if age >= 1 + LABEL_AFTER + lag else EACH // 2
        whole = EACH if age >= 1 else int(EACH * age)
        extra = 0.5 if age >= fixed > 0 else 0.0
        return _day(self.data, day, self.levels[day] + extra, min(labelled, whole), whole, broken=age < broken)

    def _roughness(self, day: int) -> tuple[int, int, int]:
        """By how many days half of the labels are late; at which age (0: never) values are corrected; until which age broken."""
        if not self.rough:
            return 0, 0, 0
        rng = np.random.default_rng([self.data, 2, day])
        late, fixed, broken = (rng.random(3) < (0.15, 0.1, 0.06)) * rng.integers(1, 6, 3)
        return int(late), int(fixed) + LABEL_AFTER + 1 if fixed else 0, int(broken) + 1 if broken else 0


@cache
def _day(data: int, day: int, level: float, labelled: int, whole: int, *, broken: bool) -> Any:
    if _is_closed(data, day):
        return _empty()
    rng = np.random.default_rng([data, 3, day])
    size, noise = rng.uniform(1, 5, EACH).round(3), rng.normal(0, 1, EACH)
    city = rng.choice(["lisbon", "porto"], EACH).tolist()
    rate = (20 + 3 * size + level + noise).round(3).tolist()
    key = [day * 1000 + n // (2 if broken else 1) for n in range(EACH)]
    at = [START + timedelta(days=day, minutes=40 * n) for n in range(EACH)]
    known = [*rate[:labelled], *[None] * (EACH - labelled)]
    columns = {"at": at, "id": key, "size": size.tolist(), "city": city, "rate": known}
    if not labelled:
        # A column of nulls has no type yet; the table's own is kept by its first window.
        columns["rate"] = [None] * EACH
    return frames.to_rows({name: values[:whole] for name, values in columns.items()}, doing="make rows")


def _is_closed(data: int, day: int) -> bool:
    # Four days in a row: on the last of them the source is asked for nothing but empty days, and gives no columns.
    return any(np.random.default_rng([data, 4, max(day - n, 0)]).random() < 0.015 for n in range(4))


@cache
def _empty() -> Any:
    return frames.to_rows({}, doing="make rows")


def give_rows(asked: Callable[[datetime, datetime], Any]) -> None:
    """Let the app's source answer by this function from now on."""
    module = ModuleType("simulated_rows")
    module.asked = asked  # type: ignore[attr-defined]
    sys.modules["simulated_rows"] = module
