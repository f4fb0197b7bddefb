"""Pictures of the pages: valid, with names for who can't see them, and nothing in them that a name could break."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pytest

from staytrue.dashboard.drawing import days, round_numbers, text
from staytrue.dashboard.loss_picture import loss_picture
from staytrue.dashboard.small_pictures import column_picture, lineage_picture, policies_picture, race_picture

BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
HOSTILE = '<script>alert("x")</script>\x00\ud800\u202e\'&'


def parsed(svg):
    return ET.fromstring(svg)  # noqa: S314 - our own text


def weeks(*losses, never=None, fresh=None):
    ends = [BEGIN + timedelta(weeks=k + 1) for k in range(len(losses))]
    return {
        "every": "week",
        "sentence": f"Lost. {HOSTILE}",
        "fresh": fresh,
        "points": [
            {"since": (end - timedelta(weeks=1)).isoformat(), "until": end.isoformat(), "rows": 10, "loss": loss}
            for end, loss in zip(ends, losses, strict=True)
        ],
        "line": [
            {"at": end.isoformat(), "loss": loss, "low": loss - 1, "high": loss + 1, "rows": 10}
            for end, loss in zip(ends, losses, strict=True)
        ],
        "never": [{"at": end.isoformat(), "loss": loss} for end, loss in zip(ends, never, strict=True)]
        if never
        else None,
    }


def event(seq, day, lane, sentence="It happened.", release=None):
    at = (BEGIN + timedelta(days=day)).isoformat()
    return {"seq": seq, "at": at, "lane": lane, "sentence": sentence, "release": release}


@pytest.mark.parametrize("width", [940, 360])
def test_the_loss_is_drawn_with_its_band_and_with_what_no_retraining_would_have_lost(width):
    svg = loss_picture(weeks(3, 4, 5, never=[3, 5, 7], fresh=3.0), [event(7, 9, "promoted")], width=width, href="/log")

    classes = [path.get("class") for path in parsed(svg).iter("path")]
    assert {"band", "live", "never", "fresh", "good"} <= set(classes)
    assert [link.get("href") for link in parsed(svg).iter("a")] == ["/log?before=8#e7"]


def test_what_is_not_known_is_not_drawn():
    classes = {path.get("class") for path in parsed(loss_picture(weeks(3, 4), [], width=940, href="")).iter("path")}

    assert "never" not in classes
    assert "fresh" not in classes
    assert loss_picture({"points": [], "line": [], "never": None, "fresh": None}, [], width=940, href="") == ""


def test_no_name_breaks_a_picture():
    svgs = [
        loss_picture(
            weeks(1, 2),
            [event(1, 3, "alarms", HOSTILE), event(2, 4, "trials", HOSTILE, "ab")],
            width=940,
            href=f"/{HOSTILE}",
        ),
        race_picture(
            {
                "looks": [],
                "margin": 0.1,
                "sentence": HOSTILE,
                "steps": [{"kind": HOSTILE, "rows": 9, "mean": 1.0, "low": None, "high": None}],
            },
            width=940,
        ),
        column_picture({"kind": "text", "months": [{"shares": {HOSTILE: 0.5}}, {"shares": {HOSTILE: 0.4}}]}, HOSTILE),
        policies_picture(
            [{"policy": HOSTILE, "weekly": [["2026-01-05", 10, 1.0], ["2026-01-12", 10, 2.0]]}], width=360
        ),
        lineage_picture(
            {
                "chain": [{"id": HOSTILE, "differs": [HOSTILE]}],
                "made_of": [{"kind": "table", "name": HOSTILE, "id": None}],
                "model": None,
            },
            base="/apps/x",
        ),
    ]

    for svg in svgs:
        assert parsed(svg).get("aria-label")
        assert "<script" not in svg


def test_every_picture_has_a_name_and_no_style_of_its_own():
    svg = loss_picture(weeks(3, 4, 5), [], width=940, href="")
    linked = loss_picture(weeks(3, 4, 5), [event(1, 2, "alarms")], width=940, href="")

    assert (parsed(svg).get("role"), parsed(linked).get("role")) == ("img", "group")
    assert all(link.findtext("title") for link in parsed(linked).iter("a"))
    assert not [one for one in parsed(svg).iter() if one.get("style") or one.tag == "style"]


@pytest.mark.parametrize("values", [[], [0.0], [-3.0], [1e-12, 2e-12], [5.0, 5.0], [float("nan")], [-1e9, 1e9]])
def test_round_numbers_lie_around_whatever_came(values):
    ticks = round_numbers(values)

    assert len(ticks) >= 2
    assert list(ticks) == sorted(set(ticks))
    known = [value for value in values if value == value]  # noqa: PLR0124 - NaN
    assert all(ticks[0] <= value <= ticks[-1] for value in known)


@pytest.mark.parametrize("length", [0.1, 1, 9, 40, 400, 9000])
def test_a_time_axis_has_few_names(length):
    named = days(BEGIN, BEGIN + timedelta(days=length), most=8)

    assert len(named) <= 10


def test_text_holds_nothing_that_xml_can_not():
    assert parsed(f"<a>{text(HOSTILE)}</a>").text.startswith("<script>")
