"""The words for a single answer: each fact in its sentence, and nothing said that is not known."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from staytrue.kernel.account import account, shown

ASKED: dict[str, Any] = {
    "id": "01a21519-ca9d-72d7-b7ef-bd842192118f",
    "at": "2026-03-01T12:00:00.123456+00:00",
    "arm": "champion",
    "release": "ab" * 32,
    "row": {"size": 2.0, "city": None},
    "answer": 9.5,
    "label": None,
    "flags": None,
    "others": [],
    "other_count": 0,
    "metric": None,
    "loss": None,
    "loss_error": None,
    "standing": None,
}
MOVED: dict[str, Any] = {
    "error": None,
    "again": "same",
    "answer": 9.5,
    "answer_error": None,
    "unsteady": [],
    "why_not": None,
    "draws": 64,
    "drawn_from": "rows of its training",
    "seed": 0,
    "in_company": None,
    "class": None,
    "columns": 3,
    "effects": [],
    "still": 3,
    "failing": 0,
    "failure": None,
    "left_out": 0,
}
OTHER: dict[str, Any] = {
    "release": "cd" * 32, "error": None, "answer": 8.0, "same": False, "difference": -1.5, "loss": 0.25,
}  # fmt: skip


def said(section: str, **changes: Any) -> str:
    facts: dict[str, Any] = {"asked": ASKED, "release": None, "training": None, "moved": None, "instead": None}
    return "\n".join(account(facts | changes)[section])


def test_an_answer_without_a_label_is_told_without_a_loss():
    text = said("asked")

    assert "2026-03-01 12:00:00 UTC, answered 9.5 by release abababab as champion" in text
    assert "asked: size 2, city null" in text
    assert "no label is known yet" in text
    assert "loss" not in text


def test_a_loss_is_told_with_how_usual_it_is():
    judged = ASKED | {"label": 7.0, "loss": 2.5, "metric": "mae"}

    usual = said("asked", asked=judged | {"standing": {"rows": 1200, "more": 0.123, "as_much": 0.0}})
    tied = said("asked", asked=judged | {"standing": {"rows": 10, "more": 0.0, "as_much": 0.4}})
    alone = said("asked", asked=judged)
    unknown = said("asked", asked=judged | {"loss": None, "loss_error": "it raised."})

    assert "a loss of 2.5 (mae). Of the 1,200 nearest labelled rows of this release 12 % lost more" in usual
    assert "0 % lost more, 40 % as much" in tied
    assert "no other labelled row" in alone
    assert "its loss is unknown: it raised." in unknown


def test_who_else_answered_is_named_and_the_rest_counted():
    others = [{"id": f"{n}", "at": "2026-03-01T11:00:00+00:00", "arm": "shadow", "release": "x"} for n in range(9)]

    text = said("asked", asked=ASKED | {"others": others, "other_count": 40})

    assert "2026-03-01 11:00 shadow 4 and 35 more" in text


def test_effects_say_which_way_and_how_far():
    def effect(column: str, **more: Any) -> dict[str, Any]:
        return {"column": column, "draws": 64, "changed": 60, "mean": 3.25, "size": 3.25, "direction": "raises", **more}

    effects = [
        effect("size"),
        effect("city", mean=-1.0, direction="lowers"),
        effect("kind", mean=0.1, direction="either"),
        effect("note", mean=None, size=None, direction=None),
    ]
    text = said("moved", moved=MOVED | {"effects": effects, "columns": 9, "still": 2})

    assert "size 2 raises the answer by 3.25 on average (60 of 64 draws gave another answer)" in text
    assert "city null lowers the answer by 1 on average" in text
    assert "kind null moves the answer by 3.25 on average, up or down" in text
    assert "note null: 60 of 64 draws gave another answer" in text
    assert "3 more columns moved it less, 2 moved nothing" in text


def test_what_nothing_moved_is_said_and_what_could_not_be_asked_too():
    assert "none of its 3 columns moved the answer" in said("moved", moved=MOVED)
    assert "is unknown: no rows" in said("moved", moved=MOVED | {"why_not": "no rows"})
    assert said("moved", moved={"error": "its code is gone"}) == "it can't be asked again: its code is gone"
    assert "not deterministic: twice" in said("moved", moved=MOVED | {"unsteady": ["twice"]})
    assert "no answer to 5 of these rows: too large" in said(
        "moved", moved=MOVED | {"failing": 5, "failure": "too large"}
    )


@pytest.mark.parametrize(
    ("instead", "text"),
    [
        ({"before": None, "champion": None}, "no champion was there before it to ask\nnobody is champion today"),
        (
            {"before": OTHER, "champion": OTHER},
            "cdcdcdcd, champion before it (champion again today), answers 8 in place of 9.5, 1.5 less, and would have lost 0.25",
        ),
        (
            {"before": OTHER | {"same": True}, "champion": {"release": "ab" * 32}},
            "cdcdcdcd, champion before it, answers the same\nit is today's champion itself",
        ),
        (
            {
                "before": OTHER | {"error": "it is gone"},
                "champion": OTHER | {"release": "ef" * 32, "difference": None, "loss": None},
            },
            "cdcdcdcd, champion before it, has no answer to this row: it is gone\n\
efefefef, today's champion, answers 8 in place of 9.5",
        ),
    ],
)
def test_what_others_say_is_told_beside_the_answer(instead, text):
    assert said("instead", instead=instead) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        ("", "''"),
        (" a", "' a'"),
        ("a\nb", r"'a\nb'"),
        ("Größe ☂", "Größe ☂"),
        (date(2026, 3, 1), "2026-03-01"),
        ({"a": [1.0, None]}, "{a: [1, null]}"),
        ("x" * 99, "x" * 59 + "…"),
        (1e-9, "1e-09"),
    ],
)
def test_a_value_is_shown_short_and_on_one_line(value, text):
    assert shown(value) == text
