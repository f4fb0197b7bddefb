"""A schedule against a walk over every minute of the wall clock, nights on which clocks change included."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from staytrue.errors import InvalidInput
from staytrue.kernel.schedule import cron

MINUTE = timedelta(minutes=1)
SPANS = [
    # Half an hour, a whole day, midnight, an hour; both ways; a leap day; nothing at all.
    ("Australia/Lord_Howe", datetime(2026, 4, 1, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 1, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 27, tzinfo=UTC)),
    ("Asia/Beirut", datetime(2026, 3, 26, tzinfo=UTC)),
    ("Asia/Beirut", datetime(2026, 10, 22, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 3, 26, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 22, tzinfo=UTC)),
    ("America/New_York", datetime(2024, 2, 26, tzinfo=UTC)),
    ("America/St_Johns", datetime(2010, 11, 4, tzinfo=UTC)),
    ("UTC", datetime(2023, 12, 29, tzinfo=UTC)),
]
DAYS = 6


def field(low: int, high: int) -> st.SearchStrategy[tuple[str, frozenset[int]]]:
    """A field's text, and the numbers that it means."""
    number = st.integers(low, high)
    pair = st.tuples(number, number).map(sorted)
    return st.one_of(
        st.just(("*", frozenset(range(low, high + 1)))),
        st.lists(number, min_size=1, max_size=3).map(lambda found: (",".join(map(str, found)), frozenset(found))),
        pair.map(lambda ends: (f"{ends[0]}-{ends[1]}", frozenset(range(ends[0], ends[1] + 1)))),
        st.integers(1, high - low).map(lambda step: (f"*/{step}", frozenset(range(low, high + 1, step)))),
        st.tuples(pair, st.integers(1, 60))
        .filter(lambda found: found[1] <= found[0][1] - found[0][0])
        .map(
            lambda found: (
                f"{found[0][0]}-{found[0][1]}/{found[1]}",
                frozenset(range(found[0][0], found[0][1] + 1, found[1])),
            )
        ),
    )


def exists(fields: tuple[tuple[str, frozenset[int]], ...]) -> bool:
    """Not a 31st of months that have none."""
    try:
        cron(" ".join(text for text, _ in fields))
    except InvalidInput:
        return False
    return True


FIELDS = st.tuples(field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6)).filter(exists)


@cache
def shown(zone: str, since: datetime) -> list[tuple[datetime, list[datetime]]]:
    """Each minute, and the times of the wall clock that come due at it: none in a repeated hour, all of a gap after it."""
    place, found = ZoneInfo(zone), []
    before = (since - MINUTE).astimezone(place).replace(tzinfo=None)
    for n in range(DAYS * 24 * 60):
        at = since + n * MINUTE
        wall = at.astimezone(place).replace(tzinfo=None)
        found.append((at, [before + k * MINUTE for k in range(1, (wall - before) // MINUTE + 1)]))
        before = max(before, wall)
    return found


@settings(max_examples=100)
@given(st.sampled_from(SPANS), FIELDS, st.lists(st.integers(0, DAYS * 86_400), min_size=1, max_size=8))
def test_a_schedule_is_due_exactly_when_a_walk_over_every_minute_says_so(span, fields, seconds):
    # given
    zone, since = span
    (minutes, hours, days, months, weekdays) = [numbers for _, numbers in fields]
    texts = [text for text, _ in fields]
    either = not texts[2].startswith("*") and not texts[4].startswith("*")

    def fits(wall: datetime) -> bool:
        of_month, of_week = wall.day in days, wall.isoweekday() % 7 in weekdays
        day = of_month or of_week if either else of_month and of_week
        return wall.minute in minutes and wall.hour in hours and wall.month in months and day

    expected = [at for at, walls in shown(zone, since) if any(map(fits, walls))]
    schedule = cron(" ".join(texts), zone)
    until = since + timedelta(days=DAYS) - MINUTE
    # then
    for second in seconds:
        now = min(since + timedelta(seconds=second), until)
        passed = bisect_right(expected, now)
        last, coming = schedule.last(now), schedule.next(now)
        assert (last if last and last >= since else None) == (expected[passed - 1] if passed else None)
        assert (coming if coming and coming <= until else None) == (
            expected[passed] if passed < len(expected) else None
        )


@given(st.sampled_from(SPANS), FIELDS)
def test_going_forth_and_back_visits_the_same_moments(span, fields):
    zone, since = span
    schedule = cron(" ".join(text for text, _ in fields), zone)
    at = schedule.next(since)
    for _ in range(5):
        if at is None:
            return
        following = schedule.next(at)
        assert schedule.last(at) == at
        assert following is None or (at < following and schedule.last(following - timedelta(microseconds=1)) == at)
        at = following
