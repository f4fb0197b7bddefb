"""Admission: may a retraining begin now? One function says so, and if not why, and from when on.

A policy says that retraining would pay; this says that the app can afford it: however many alarms call and however long the
drift goes on, retrainings stay apart by a cooldown that doubles with each setback, and below a budget for each day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from staytrue.kernel.duration import duration, spell
from staytrue.kernel.policy import Settings

__all__ = ["NEW_ROWS", "Admission", "admission", "cooldown", "not_after"]

NEW_ROWS = 100
"""Fewer labelled rows since the champion's training than this, and there is nothing to compare a challenger on."""
_MOST_DOUBLINGS = 5
"""The cooldown doubles with each setback in a row, up to 32 times: a loop that never tries again would not be one."""
_DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Admission:
    """Whether a retraining may begin, and the sentence that says why not."""

    allowed: bool
    why: str
    again_at: datetime | None = None
    """When refused: the moment from which on the clock no longer forbids it. None: what forbids it is no clock, but a person,
    the run that is under way, or rows that have yet to come."""


def admission(
    *,
    now: datetime,
    settings: Settings,
    spent: Sequence[datetime],
    setbacks: int,
    new_rows: int,
    paused: bool = False,
    busy: bool = False,
    tried: bool = False,
) -> Admission:
    """Whether a retraining may begin at `now`.

    Args:
        spent: when retrainings were begun, oldest first. A time after `now` (the clock was set back) counts as `now`.
        setbacks: retrainings in a row that brought no promotion.
        new_rows: labelled rows since the champion's training.
        paused: a person said so.    busy: a retraining or its trial is under way.
        tried: this recipe was tried before, on the same rows.

    Example:
        >>> now = datetime(2026, 3, 1, 12, tzinfo=UTC)
        >>> admission(now=now, settings=Settings(), spent=[now - timedelta(hours=30)], setbacks=0, new_rows=500).allowed
        True
        >>> said = admission(now=now, settings=Settings(), spent=[now - timedelta(hours=30)], setbacks=1, new_rows=500)
        >>> said.why, said.again_at.isoformat()
        ('the cooldown of 2d (1 setback in a row) is over on 2026-03-02 06:00 UTC', '2026-03-02T06:00:00+00:00')
    """
    for forbidden, why in (
        (paused, "the loop is paused: `staytrue resume` lets it go on"),
        (busy, "a retraining or its trial is under way"),
        (new_rows < NEW_ROWS, f"{new_rows} labelled rows came since the champion's training; {NEW_ROWS} are needed"),
        (tried, "this recipe was tried already, and no rows came since"),
    ):
        if forbidden:
            return Admission(allowed=False, why=why)
    past = not_after(spent, now)
    waits = [wait for wait in (_cooling(past, now, settings, setbacks), _budgeted(past, now, settings)) if wait]
    at, why = max(waits, default=(now, ""))
    return Admission(allowed=at == now, why=why or "nothing forbids it", again_at=None if at == now else at)


def cooldown(settings: Settings, setbacks: int) -> timedelta:
    """The shortest time between two retrainings after so many setbacks in a row.

    Example:
        >>> [spell(cooldown(Settings(cooldown="6h"), setbacks)) for setbacks in (0, 1, 5, 1000)]
        ['6h', '12h', '8d', '8d']
    """
    return duration(settings.cooldown) * (1 << min(setbacks, _MOST_DOUBLINGS))


def not_after(times: Sequence[datetime], now: datetime) -> list[datetime]:
    """The times, those after `now` replaced by `now`.

    Whoever keeps such times and lives by a clock that may be set back keeps these instead: then what was begun "tomorrow"
    holds up the next retraining for one cooldown, and not for a day longer.
    """
    return [min(at, now) for at in times]


def _cooling(
    spent: Sequence[datetime], now: datetime, settings: Settings, setbacks: int
) -> tuple[datetime, str] | None:
    span = cooldown(settings, setbacks)
    if not spent or now - spent[-1] >= span:
        return None
    at = spent[-1] + span
    many = f" ({setbacks} setback{'s' if setbacks > 1 else ''} in a row)" if setbacks else ""
    return at, f"the cooldown of {spell(span)}{many} is over on {_spelled(at)}"


def _budgeted(spent: Sequence[datetime], now: datetime, settings: Settings) -> tuple[datetime, str] | None:
    today = sorted(at for at in spent if at > now - _DAY)
    if len(today) < settings.budget:
        return None
    at = today[len(today) - settings.budget] + _DAY
    return at, f"the budget of {settings.budget} in 24 hours is spent until {_spelled(at)}"


def _spelled(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
