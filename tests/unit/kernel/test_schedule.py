"""When a schedule is due, and which texts are none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.schedule import cron, quiet

BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def due(text: str, zone: str, since: str, until: str) -> list[str]:
    """Every moment of (since, until], found by going from one to the next."""
    schedule, at, found = cron(text, zone), utc(since), []
    while (at := schedule.next(at)) <= utc(until):
        found.append(at.strftime("%m-%d %H:%M"))
    return found


def test_a_schedule_is_due_at_the_times_that_its_fields_name():
    assert due("0 3 * * 1", "UTC", "2026-03-01", "2026-03-16") == ["03-02 03:00", "03-09 03:00"]
    assert due("*/20 9-10 1 * *", "UTC", "2026-03-01", "2026-03-02") == [
        f"03-01 {hour}:{minute}" for hour in ("09", "10") for minute in ("00", "20", "40")
    ]
    assert due("30 6 * jan,MAR Sun", "UTC", "2026-02-20", "2026-03-09") == ["03-01 06:30", "03-08 06:30"]


@pytest.mark.parametrize(
    ("macro", "fields"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@weekly", "0 0 * * sun"),
        ("@monthly", "0 0 1 * *"),
        ("@YEARLY", "0 0 1 1 *"),
    ],
)
def test_a_word_stands_for_its_fields(macro, fields):
    moments = [utc("2026-03-04T05:06:07"), utc("2025-12-31T23:59:59")]
    assert [cron(macro).next(at) for at in moments] == [cron(fields).next(at) for at in moments]


def test_a_moment_at_which_it_is_due_is_the_last_one_and_not_the_next_one():
    at = utc("2026-03-02T03:00")
    schedule = cron("0 3 * * 1")
    assert schedule.last(at) == at
    assert schedule.next(at) == at + timedelta(days=7)
    assert schedule.last(at - timedelta(microseconds=1)) == at - timedelta(days=7)


def test_two_restricted_day_fields_are_an_or_and_a_star_makes_them_an_and():
    # The 13th, and every Friday; against every other day, if it is a Friday.
    assert due("0 0 13 3 fri", "UTC", "2025-03-01T12:00", "2025-03-20") == ["03-07 00:00", "03-13 00:00", "03-14 00:00"]
    assert due("0 0 */2 3 fri", "UTC", "2025-03-01T12:00", "2025-03-30") == ["03-07 00:00", "03-21 00:00"]


def test_both_numbers_of_sunday_and_a_week_that_ends_with_it_are_read():
    assert cron("0 0 * * 0").weekdays == cron("0 0 * * 7").weekdays == {0}
    assert cron("0 0 * * fri-sun").weekdays == {5, 6, 0}
    assert cron("0 0 * * sun-tue").weekdays == {0, 1, 2}


def test_a_time_that_does_not_exist_runs_at_the_first_moment_after_and_only_once():
    # On March 29, 2026, clocks in Berlin go from 02:00 to 03:00, at 01:00 UTC.
    assert due("30 2 * * *", BERLIN, "2026-03-28", "2026-03-31") == ["03-28 01:30", "03-29 01:00", "03-30 00:30"]
    assert due("*/15 2 * * *", BERLIN, "2026-03-29", "2026-03-29T12:00") == ["03-29 01:00"]
    assert due("0 2,3 * * *", BERLIN, "2026-03-29", "2026-03-29T12:00") == ["03-29 01:00"]


def test_a_time_that_exists_twice_runs_the_first_time():
    # On October 25, 2026, clocks in Berlin go from 03:00 back to 02:00, at 01:00 UTC.
    assert due("30 2 * * *", BERLIN, "2026-10-24T12:00", "2026-10-26T12:00") == ["10-25 00:30", "10-26 01:30"]
    assert due("0 * * * *", BERLIN, "2026-10-24T23:30", "2026-10-25T03:30") == [
        "10-25 00:00",
        "10-25 02:00",
        "10-25 03:00",
    ]
    # Asked in the repeated hour, what was due before it is the last.
    assert cron("45 2 * * *", BERLIN).last(utc("2026-10-25T01:10")) == utc("2026-10-25T00:45")


def test_a_midnight_that_does_not_exist_and_one_that_comes_twice():
    # Clocks in Beirut go from 00:00 to 01:00 at the end of March, and from 00:00 back to 23:00 at the end of October.
    assert due("@daily", "Asia/Beirut", "2026-03-27T23:00", "2026-03-30T12:00") == ["03-28 22:00", "03-29 21:00"]
    assert due("30 23 * * *", "Asia/Beirut", "2026-10-24T00:00", "2026-10-25T12:00") == ["10-24 20:30"]
    # In Newfoundland they went back from 00:01 to 23:01 of the day before: the next day had begun already.
    assert cron("@daily", "America/St_Johns").last(utc("2010-11-07T03:00")) == utc("2010-11-07T02:30")


def test_a_day_that_a_country_skipped_is_due_when_the_next_one_begins():
    # Samoa had no December 30, 2011.
    assert due("0 3 30 12 *", "Pacific/Apia", "2011-12-01", "2012-01-31") == ["12-30 10:00"]


def test_leap_days_come_when_they_come():
    leap = cron("0 0 29 2 *")
    assert leap.next(utc("2096-03-01")) == utc("2104-02-29")
    assert leap.last(utc("2104-02-28")) == utc("2096-02-29")
    # Both have to fit, since the last field begins with a star: a leap day that is a Sunday or a Saturday.
    assert cron("0 0 29 2 */6").next(utc("2080-03-01")) == utc("2088-02-29")


def test_the_ends_of_time_are_no_error():
    for text in ("@yearly", "0 0 29 2 *", "* * * * *"):
        for zone in ("UTC", "Pacific/Apia", "America/New_York"):
            assert cron(text, zone).next(datetime.max.replace(tzinfo=UTC)) is None
            assert cron(text, zone).last(datetime.min.replace(tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 0 31 2 *", "no month 2 has a day 31"),
        ("0 0 30 feb *", "would never be due"),
        ("0 0 31 4,6,9,11 */2", "would never be due"),
        ("0 3 * *", "got 4"),
        ("0 3 * * 1 2026", "got 6"),
        ("", "five fields"),
        ("@reboot", "five fields"),
        ("60 * * * *", "'60' is no minute: expected 0 to 59"),
        ("* 24 * * *", "no hour"),
        ("* * 0 * *", "no day of month"),
        ("* * * 13 *", "1 to 12 or jan to dec"),
        ("* * * * 8", "0 to 7 or sun to sat"),
        ("* * * * L", "'l' is no day of week"),
        ("* * * * mon#1", "no day of week"),
        ("*/0 * * * *", "repeats nothing"),
        ("*/60 * * * *", "repeats nothing"),
        ("5/15 * * * *", "repeats nothing"),
        ("* 22-2 * * *", "runs backwards"),
        ("1,,2 * * * *", "'' is no minute"),
        ("-1 * * * *", "no minute"),
        ("\u0663 * * * *", "no minute"),
        ("9" * 9999 + " * * * *", "no minute"),
    ],
)
def test_a_text_that_is_no_schedule_is_refused_with_the_reason(text, says):
    with pytest.raises(InvalidInput, match="ST850") as refused:
        cron(text)
    assert says in refused.value.message


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "Europe", "", "/etc/passwd", "../UTC", "a\0b", "x" * 5000])
def test_a_zone_that_does_not_exist_is_refused(zone):
    with pytest.raises(InvalidInput, match="ST851"):
        cron("@daily", zone)


@pytest.mark.parametrize(
    ("hours", "now", "until"),
    [
        ("22:00-06:00", "2026-03-04T21:59:59", None),
        ("22:00-06:00", "2026-03-04T22:00", "2026-03-05T06:00"),
        ("22:00-06:00", "2026-03-05T05:59:59", "2026-03-05T06:00"),
        ("22:00-06:00", "2026-03-05T06:00", None),
        ("9:00-17:30", "2026-03-05T17:29", "2026-03-05T17:30"),
        ("22:00-06:00@Europe/Berlin", "2026-03-04T21:00", "2026-03-05T05:00"),
        # Begin and end lie in the hour that Berlin skips: no quiet that night.
        ("02:10-02:40@Europe/Berlin", "2026-03-29T01:00", None),
        ("02:10-02:40@Europe/Berlin", "2026-03-30T00:10", "2026-03-30T00:40"),
    ],
)
def test_quiet_hours_say_when_they_end(hours, now, until):
    assert quiet(hours).until(utc(now)) == (utc(until) if until else None)


@pytest.mark.parametrize("text", ["22-6", "22:00-22:00", "24:00-06:00", "22:00-06:60", "22:00-06:00@", "night"])
def test_hours_that_can_not_be_read_are_refused(text):
    with pytest.raises(InvalidInput, match="ST852"):
        quiet(text)


def test_quiet_hours_in_a_zone_that_does_not_exist_are_refused():
    with pytest.raises(InvalidInput, match="ST851"):
        quiet("22:00-06:00@Mars")
