"""Schedules: when something is due, by the clock on the wall of a named place. Five cron fields, and hours of quiet.

A schedule is read as crontab(5) reads it: minute, hour, day of month, month, day of week. Where both day fields are
restricted (do not begin with `*`), a day fits when either does; else both have to.

**Nights on which clocks change.** A schedule names times of the wall clock. One that is skipped is due at the first moment
after the gap, together with all others of that gap; one that comes twice is due the first time only. So a daily schedule
is due once on every day of the year, and an hourly one pauses for the hour that is repeated (`every:1h` does not).

When a zone changes its clocks is what the platform's time zone database says: the one input that is no argument.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from staytrue.errors import InvalidInput

__all__ = ["Quiet", "Schedule", "cron", "quiet", "zone_named"]

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_MOST_DAYS = 400 * 366
"""How far a date is looked for: after 400 years the calendar repeats."""
_LONGEST_MONTHS = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}
_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True)
class _Field:
    """One of the five: its name, the least and the largest number, and what the numbers are called."""

    name: str
    low: int
    high: int
    words: tuple[str, ...] = ()


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    _Field("day of week", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
_ITEM = re.compile(r"(?:(?P<all>\*)|(?P<first>\w{1,9})(?:-(?P<last>\w{1,9}))?)(?:/(?P<step>[0-9]{1,2}))?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Moments of a wall clock. `cron` makes one."""

    text: str
    zone: tzinfo
    times: tuple[time, ...]
    """Of a day on which it is due, sorted."""
    months: frozenset[int]
    days: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    either: bool
    """A day fits when day of month or day of week does; else both have to."""

    def last(self, now: datetime) -> datetime | None:
        """The newest moment at or before `now` at which it was due, in UTC; None: never since the year 1.

        Example:
            >>> cron("0 3 * * mon", "Europe/Berlin").last(datetime(2026, 3, 4, tzinfo=UTC)).isoformat()
            '2026-03-02T02:00:00+00:00'
        """
        # A day's moments may lie before the wall clock shows that day: where midnight comes twice.
        for day in self._dates(_shown(now, self.zone) + _DAY, -_DAY):
            count = self._until(day, now)
            if count:
                return self._moment(day, count - 1)
        return None

    def next(self, now: datetime) -> datetime | None:
        """The first moment after `now` at which it is due, in UTC; None: never before the year 9999.

        Example:
            >>> cron("@daily", "UTC").next(datetime(2026, 3, 4, tzinfo=UTC)).isoformat()
            '2026-03-05T00:00:00+00:00'
        """
        for day in self._dates(_shown(now, self.zone) - _DAY, _DAY):
            count = self._until(day, now)
            if count < len(self.times):
                return self._moment(day, count)
        return None

    def _dates(self, start: date, step: timedelta) -> Iterator[date]:
        """The days on which it is due, from `start` on."""
        # Room for a zone's offset at both ends of what a datetime can say.
        first, until = date.min + 2 * _DAY, date.max - 2 * _DAY
        day = min(max(start, first), until)
        for _ in range(_MOST_DAYS):
            if self._fits(day):
                yield day
            day += step
            if not first <= day <= until:
                return

    def _fits(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return of_month or of_week if self.either else of_month and of_week

    def _until(self, day: date, now: datetime) -> int:
        """How many of the day's times are not after `now`. Their moments never go back, though the wall clock may."""
        return bisect_right(range(len(self.times)), now, key=lambda at: self._moment(day, at))

    def _moment(self, day: date, at: int) -> datetime:
        return _when(datetime.combine(day, self.times[at]), self.zone)


def cron(text: str, zone: str = "UTC") -> Schedule:
    """The schedule that `text` writes down, by the clocks of `zone`.

    Args:
        text: `minute hour day-of-month month day-of-week`, each `*`, a number, a range `1-5`, a step `*/15` or `1-30/2`, or a
            list of these with commas; months and weekdays also by their English names (`jan`, `mon`; 0 and 7 are Sunday). Or
            `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually`.
        zone: a name of the time zone database, such as `Europe/Berlin`.

    Raises:
        InvalidInput: ST850, the text can't be read, or names a date that does not exist; ST851, no such zone.

    Example:
        >>> cron("*/30 9-10 * * *").times[:3]
        (datetime.time(9, 0), datetime.time(9, 30), datetime.time(10, 0))
    """
    place = zone_named(zone)
    parts = _MACROS.get(text.strip().lower(), text).lower().split()
    if len(parts) != len(_FIELDS):
        expected = "expected five fields (minute, hour, day of month, month, day of week), or one of " + ", ".join(
            _MACROS
        )
        raise _unreadable(text, f"{expected}; got {len(parts)}")
    minutes, hours, days, months, weekdays = (
        _numbers(part, field, text) for part, field in zip(parts, _FIELDS, strict=True)
    )
    made = Schedule(
        text=" ".join(text.split()),
        zone=place,
        times=tuple(time(hour, minute) for hour in sorted(hours) for minute in sorted(minutes)),
        months=months,
        days=days,
        weekdays=frozenset(day % 7 for day in weekdays),
        either=not parts[2].startswith("*") and not parts[4].startswith("*"),
    )
    if not made.either and min(days) > max(_LONGEST_MONTHS.get(month, 31) for month in months):
        raise _unreadable(text, f"no month {parts[3]} has a day {parts[2]}, so it would never be due")
    return made


def zone_named(name: str) -> tzinfo:
    """The zone of that name.

    Raises:
        InvalidInput: ST851.

    Example:
        >>> zone_named("UTC")
        datetime.timezone.utc
    """
    if name == "UTC":  # needs no database
        return UTC
    try:
        return ZoneInfo(name)
    # No such name; a path; the folder of several zones; a database that can't be read.
    except (KeyError, ValueError, OSError) as exc:
        raise InvalidInput(
            "ST851",
            f"There is no time zone {name!r}: expected UTC or a name such as Europe/Berlin. Where this machine has no time "
            "zone database, `pip install tzdata` brings one.",
            zone=name,
        ) from exc


# ---------------------------------------------------------------- hours of quiet


@dataclass(frozen=True, kw_only=True)
class Quiet:
    """Hours of each day, from one time of a wall clock to another. `quiet` makes one."""

    begins: Schedule
    ends: Schedule

    def until(self, now: datetime) -> datetime | None:
        """When the quiet hours end that `now` lies in, in UTC; None: it is not quiet.

        Example:
            >>> hours = quiet("22:00-06:00")
            >>> hours.until(datetime(2026, 3, 4, 23, tzinfo=UTC)).isoformat(), hours.until(datetime(2026, 3, 4, 6, tzinfo=UTC))
            ('2026-03-05T06:00:00+00:00', None)
        """
        begun, ended = self.begins.last(now), self.ends.last(now)
        if begun is None or (ended is not None and begun <= ended):
            return None
        return self.ends.next(now)


_HOURS = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])-([01]?[0-9]|2[0-3]):([0-5][0-9])(?:@(.+))?")


def quiet(text: str) -> Quiet:
    """The hours that `text` names: `22:00-06:00` in UTC, or `22:00-06:00@Europe/Berlin`. The end is not among them.

    Raises:
        InvalidInput: ST852, not such a text, or begin and end are equal; ST851, no such zone.
    """
    found = _HOURS.fullmatch(text.strip())
    if found is None or (int(found[1]), found[2]) == (int(found[3]), found[4]):
        raise InvalidInput(
            "ST852",
            f"Can't read the quiet hours {text!r}: expected two different times, such as '22:00-06:00@Europe/Berlin'.",
            got=text,
        )
    zone = found[5] or "UTC"
    return Quiet(
        begins=cron(f"{int(found[2])} {int(found[1])} * * *", zone),
        ends=cron(f"{int(found[4])} {int(found[3])} * * *", zone),
    )


# ---------------------------------------------------------------- reading fields


def _numbers(part: str, field: _Field, text: str) -> frozenset[int]:
    found: set[int] = set()
    for item in part.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise _unreadable(
                text, f"{item!r} is no {field.name}: expected *, {field.low}, {field.low}-{field.high} or */2"
            )
        found.update(_range(match, field, text))
    return frozenset(found)


def _range(match: re.Match[str], field: _Field, text: str) -> Sequence[int]:
    if match["all"]:
        first, last = field.low, field.high if field.name != "day of week" else field.high - 1
    else:
        first = _number(match["first"], field, text)
        last = _number(match["last"], field, text) if match["last"] else first
    if match["last"] == "sun":  # as the end of a range it is 7
        last = field.high
    if first > last:
        raise _unreadable(text, f"the {field.name} {match[0]!r} runs backwards: write it as a list, such as 22-23,0-6")
    if match["step"] is None:
        return range(first, last + 1)
    step = int(match["step"])
    if first == last or not 1 <= step <= last - first:
        expected = f"a range, and a step from 1 to its length: {field.low}-{field.high}/2"
        raise _unreadable(text, f"the {field.name} {match[0]!r} repeats nothing: expected {expected}")
    return range(first, last + 1, step)


def _number(word: str, field: _Field, text: str) -> int:
    if word in field.words:
        return field.words.index(word) + field.low
    number = int(word) if word.isdigit() else -1
    if not field.low <= number <= field.high:
        names = f" or {field.words[0]} to {field.words[-1]}" if field.words else ""
        raise _unreadable(text, f"{word!r} is no {field.name}: expected {field.low} to {field.high}{names}")
    return number


def _unreadable(text: str, why: str) -> InvalidInput:
    return InvalidInput("ST850", f"Can't read the schedule {text[:80]!r}: {why}.", got=text[:80])


# ---------------------------------------------------------------- wall clocks


def _shown(now: datetime, zone: tzinfo) -> date:
    """The date that the zone's wall clocks show, kept two days away from the ends of time."""
    low, high = datetime.min.replace(tzinfo=UTC) + 4 * _DAY, datetime.max.replace(tzinfo=UTC) - 4 * _DAY
    return min(max(now, low), high).astimezone(zone).date()


def _when(wall: datetime, zone: tzinfo) -> datetime:
    """The first moment at which the zone's clocks show `wall`, or the first one after they skipped it, in UTC."""
    moment = wall.replace(tzinfo=zone).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == wall:
        return moment
    # Skipped. With the offset from before the gap we came out after it, with the one from after it we come out before.
    before, after = wall.replace(tzinfo=zone, fold=1).astimezone(UTC), moment
    offset = after.astimezone(zone).utcoffset()
    while after - before > _SECOND:
        middle = before + timedelta(seconds=(after - before) // _SECOND // 2)
        before, after = (before, middle) if middle.astimezone(zone).utcoffset() == offset else (middle, after)
    return after
