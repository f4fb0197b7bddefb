"""Replay's picture: valid, small, the same bytes every time, and it says in words what it shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from staytrue.cli.replay import draw
from staytrue.cli.screen import Screen
from staytrue.dashboard.chart import replay_chart
from staytrue.errors import Unavailable

SVG = "{http://www.w3.org/2000/svg}"
BEGIN = datetime(2016, 7, 4, tzinfo=UTC)


def policy(name, losses, *, begin=BEGIN):
    weekly = [
        [(begin + timedelta(weeks=i)).date().isoformat(), 10, float(x)] for i, x in enumerate(losses) if x is not None
    ]
    mean = float(np.mean([x for _, _, x in weekly])) if weekly else None
    return {"policy": name, "loss": mean, "cost": 1234.5, "retrains": 3, "weekly": weekly}


def event(day, kind, sentence, *, policy="payback"):
    at = (BEGIN + timedelta(days=day)).isoformat()
    return {"at": at, "policy": policy, "kind": kind, "release": None, "sentence": sentence, "evidence": {}}


def document(policies, timeline=(), *, days=None, app="rates"):
    days = days or 7 * max(len(p["weekly"]) for p in policies)
    until = (BEGIN + timedelta(days=days)).isoformat()
    spans = {"since": BEGIN.isoformat(), "until": until}
    return {"app": app, **spans, "rows": 10 * days, "policies": policies, "timeline": list(timeline)}


def parsed(svg):
    return ET.fromstring(svg)  # noqa: S314 - our own text


def lines(svg):
    return [
        path
        for path in parsed(svg).iter(f"{SVG}path")
        if path.find(f"{SVG}title") is not None and "line" in path.get("class")
    ]


def titles(svg, style):
    paths = parsed(svg).iter(f"{SVG}path")
    return [path.findtext(f"{SVG}title") for path in paths if path.get("class") == style]


def test_every_policy_has_a_line_and_the_first_one_lies_on_top():
    found = document([policy("payback", [3, 2, 1]), policy("never", [3, 4, 5]), policy("every:7d", [2, 2, 2])])

    drawn = lines(replay_chart(found))

    assert [path.findtext(f"{SVG}title") for path in drawn] == ["every:7d", "never", "payback"]
    assert [path.get("class") for path in drawn] == ["line p1", "line never", "line p0"]


def test_each_mark_says_its_sentence_and_only_the_first_policy_has_marks():
    events = [
        event(3, "promoted", "Release ab is champion."),
        event(5, "shadow", "Challenger in shadow."),
        event(9, "rejected", "Challenger cd rejected."),
        event(12, "rejected", "Somebody else's.", policy="never"),
    ]
    svg = replay_chart(document([policy("payback", [3, 2, 1]), policy("never", [3, 4, 5])], events))

    assert titles(svg, "good") == ["2016-07-07 Release ab is champion."]
    assert titles(svg, "warn") == ["2016-07-13 Challenger cd rejected."]
    assert "shadow" not in svg


def test_marks_that_would_cover_each_other_become_one_that_says_so():
    events = [event(day, "retrain", f"Retrain {day}.") for day in (0, 1, 2, 200)]
    svg = replay_chart(document([policy("payback", np.ones(60))], events))

    assert titles(svg, "tick") == ["2016-07-04 Retrain 0. (and 2 more)", "2017-01-20 Retrain 200."]
    assert "4 retrains" in svg


def test_commits_and_those_that_were_refused_have_marks():
    story = [event(1, "pushed", "Commit 1234abcd: round."), event(1, "refused", "A test failed.")]

    svg = replay_chart(document([policy("as lived", [1.0, 2.0])], [{**e, "policy": "as lived"} for e in story]))

    assert "1 commit<" in svg
    assert "1 refused<" in svg
    assert "Commit 1234abcd: round." in svg


def test_a_week_without_labels_breaks_the_line():
    svg = replay_chart(document([policy("payback", [1, 1, None, 1])], days=28))

    (line,) = lines(svg)
    assert line.get("d").count("M") == 2


def test_names_and_sentences_are_escaped():
    nasty = 'a<b & "c" \x00'
    svg = replay_chart(document([policy(nasty, [1, 2])], [event(1, "alarm", nasty, policy=nasty)], app=nasty))

    assert titles(svg, "bad") == ['2016-07-05 a<b & "c" \ufffd']
    assert parsed(svg).findtext(f"{SVG}title").startswith('a<b & "c"')


def test_equal_documents_give_equal_bytes():
    found = document([policy("payback", [3, 2, 1])], [event(3, "promoted", "Yes.")])

    assert replay_chart(found) == replay_chart(found)


def test_ten_years_with_a_retraining_every_day_stay_small():
    rng = np.random.default_rng(0)
    policies = [policy(f"every:{n}d", rng.normal(10, 1, 520)) for n in range(1, 5)]
    kinds = ("retrain", "promoted", "rejected", "alarm")
    events = [event(day, kind, f"{kind}: " + "words " * 40, policy="every:1d") for day in range(3640) for kind in kinds]

    svg = replay_chart(document(policies, events))

    assert len(svg.encode()) < 40_000
    assert parsed(svg).tag == f"{SVG}svg"


@pytest.mark.parametrize("days", [1, 10, 45, 100, 425, 3000, 20_000])
def test_the_axis_names_a_readable_number_of_moments(days):
    svg = replay_chart(document([policy("payback", [5.0, 6.0])], days=days))

    at = [float(text.get("x")) for text in parsed(svg).iter(f"{SVG}text") if text.get("class") == "muted middle"]
    assert 1 <= len(at) <= 17
    assert min(np.diff(at), default=99) > 40


@pytest.mark.parametrize(
    ("losses", "shown"),
    [
        ([0.0, 0.0], ["0", "1"]),
        ([3.1, 39.2], ["0", "40"]),
        ([0.011, 0.012], ["0.011", "0.012"]),
        ([-2.0, 2.0], ["-2", "2"]),
        ([1200.0, 260_000.0], ["0", "300,000"]),
    ],
)
def test_the_loss_axis_has_few_round_numbers_around_all_losses(losses, shown):
    svg = replay_chart(document([policy("payback", losses)]))

    ticks = [t.text for t in parsed(svg).iter(f"{SVG}text") if t.get("class") == "muted end"]
    assert [ticks[0], ticks[-1]] == shown
    assert 2 <= len(ticks) <= 8


def test_a_policy_without_a_label_has_no_line_and_says_so():
    svg = replay_chart(document([policy("payback", [])], days=30))

    assert lines(svg) == []
    assert "no labels" in svg


def test_it_loads_nothing_and_runs_nothing():
    svg = replay_chart(document([policy("payback", [1, 2])]))

    assert "prefers-color-scheme:dark" in svg
    assert not any(word in svg for word in ("<script", "@import", "url(", "href"))


def test_the_chart_is_written_where_it_is_wanted(tmp_path):
    found = document([policy("payback", [1, 2])])

    draw(Screen(as_json=True), found, str(tmp_path / "replay.svg"))
    draw(Screen(as_json=True), found, None)

    assert [file.read_text(encoding="utf-8") for file in tmp_path.iterdir()] == [replay_chart(found)]


def test_a_chart_that_cant_be_written_is_our_error(tmp_path):
    with pytest.raises(Unavailable, match="ST403"):
        draw(Screen(as_json=True), document([policy("payback", [1])]), str(tmp_path / "no" / "folder.svg"))
