"""How a challenger gets in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.rollout import (
    MOVES,
    Served,
    advance,
    advance_service,
    in_canary,
    moved,
    service_steps,
    steps,
)


def test_the_usual_trial_has_four_steps():
    found = [(s.stage, s.share, s.rows) for s in steps("backtest, shadow:200, canary:5%:25%")]
    assert found == [("backtest", 0.0, 0), ("shadow", 0.0, 200), ("canary", 0.05, 100), ("canary", 0.25, 100)]


@pytest.mark.parametrize(
    "plan",
    [
        "",
        "shadow",
        "shadow:x",
        "canary",
        "canary:0%",
        "canary:100%",
        "canary:5",
        "shadow:200, backtest",
        "backtest, backtest",
        "backtest:3",
        "later",
    ],
)
def test_a_plan_that_can_not_be_followed_is_refused(plan):
    with pytest.raises(InvalidInput, match="ST107"):
        steps(plan)


@pytest.mark.parametrize("rows", [0, 50, 500])
@pytest.mark.parametrize("proof", [True, False])
@pytest.mark.parametrize("over", [True, False])
def test_worse_rejects_at_once(rows, proof, over):
    assert advance(verdict="worse", rows=rows, needed=100, proof=proof, over=over) == "reject"


@pytest.mark.parametrize("rows", [0, 100, 10**9])
@pytest.mark.parametrize("verdict", ["undecided", "nonsense", ""])
def test_no_evidence_never_promotes(rows, verdict):
    assert advance(verdict=verdict, rows=rows, needed=100, proof=True, over=False) == "stay"
    assert advance(verdict=verdict, rows=rows, needed=100, proof=True, over=True) == "reject"


@pytest.mark.parametrize("verdict", ["better", "not_worse"])
def test_evidence_promotes_once_the_step_has_lasted(verdict):
    assert advance(verdict=verdict, rows=99, needed=100, proof=True, over=False) == "stay"
    assert advance(verdict=verdict, rows=100, needed=100, proof=True, over=True) == "pass"


def test_a_shadow_is_left_without_a_verdict():
    assert advance(verdict="undecided", rows=100, needed=100, proof=False, over=False) == "pass"


def test_only_moves_of_the_table_are_made():
    stages = ["backtest", "shadow", "canary", "champion", "rejected", "rolled_back"]
    allowed = 0
    for stage, move, to in itertools.product(stages, ["pass", "reject", "stay", "roll_back"], stages):
        if to in MOVES.get((stage, move), ()):
            allowed += moved(stage, move, to) == to
        else:
            with pytest.raises(InvalidInput, match="ST108"):
                moved(stage, move, to)
    assert allowed == sum(map(len, MOVES.values()))


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_a_canary_gets_its_share_and_keeps_its_keys(share):
    keys = [f"guest {i}" for i in range(20_000)]
    chosen = in_canary(keys, share, salt="release")
    assert chosen.mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / len(keys)))
    assert (chosen == in_canary(keys, share, salt="release")).all()
    assert (chosen[::-1] == in_canary(keys[::-1], share, salt="release")).all()


def test_another_salt_chooses_other_keys():
    keys = list(range(10_000))
    both = in_canary(keys, 0.5, salt="a") & in_canary(keys, 0.5, salt="b")
    assert both.mean() == pytest.approx(0.25, abs=0.03)


def test_without_a_share_nobody_is_in():
    assert not in_canary([1, 2, 3], 0.0, salt="a").any()
    assert in_canary([], 0.5, salt="a").shape == (0,)


# -- plain services ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("challenger", "champion", "over", "tripped", "move"),
    [
        (Served(), Served(answered=10_000), False, None, "stay"),
        (Served(), Served(), False, None, "stay"),
        (Served(), Served(), True, None, "reject"),
        (Served(answered=99), Served(answered=10_000), False, None, "stay"),
        (Served(answered=99), Served(answered=10_000), True, None, "reject"),
        (Served(answered=100), Served(answered=10_000), False, None, "pass"),
        (Served(answered=100), Served(answered=10_000), True, None, "pass"),
        (Served(answered=100), Served(), False, None, "pass"),
        (Served(answered=400, failed=1), Served(answered=10_000), False, None, "stay"),
        (Served(answered=400, failed=1), Served(answered=10_000), True, None, "reject"),
        (Served(answered=400, failed=1), Served(answered=300, failed=1), False, None, "pass"),
        (Served(answered=10_000), Served(answered=10_000), False, "latency", "reject"),
    ],
)
def test_a_service_goes_on_with_enough_answers_and_no_more_failures_than_the_champion(
    challenger, champion, over, tripped, move
):
    said = advance_service(challenger, champion, needed=100, over=over, tripped=tripped)

    assert said.move == move
    assert said.evidence["rows"] == challenger.answered
    assert f"{challenger.answered:,} rows answered" in said.sentence


@pytest.mark.parametrize("needed", [-5, 0, 1])
def test_no_row_promotes_no_service_however_few_are_needed(needed):
    assert advance_service(Served(), Served(answered=9), needed=needed, over=False).move == "stay"
    assert advance_service(Served(answered=1), Served(answered=9), needed=needed, over=False).move == "pass"


def test_a_service_has_no_backtest_and_never_no_step_at_all():
    assert [s.stage for s in service_steps("backtest, shadow:20, canary:5%:25%")] == ["shadow", "canary", "canary"]
    assert [(s.stage, s.share) for s in service_steps("backtest")] == [("canary", 0.25)]
    with pytest.raises(InvalidInput, match="ST107"):
        service_steps("tea")
