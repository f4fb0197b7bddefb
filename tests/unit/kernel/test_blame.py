"""Blame: what is asked, what is found, and what is said where the answer is not one thing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.blame import Repair, repair, shares
from staytrue.kernel.gain import Cell, Change, Lost, blocks_of

SERVING, SETTINGS, TRAINING, DATA, FRESH = (
    Change(axis="serving code"),
    Change(axis="settings"),
    Change(axis="training code"),
    Change(axis="data"),
    Change(axis="data", how="fresh"),
)
CODE = frozenset({TRAINING, SERVING})
AXES = [SERVING, SETTINGS, TRAINING, DATA]
DAYS = blocks_of([30] * 20)
BASE = 1 + np.random.default_rng(0).exponential(size=600)


def wins(by: Callable[[Cell], float]) -> Callable[[Cell], Lost]:
    """A world in which a mixture wins back so much a row, and no two mixtures are exactly alike."""

    def lost(cell: Cell) -> Lost:
        noise = np.random.default_rng([len(cell), *sorted(map(AXES.index, cell - {FRESH}))]).normal(0, 0.02, 600)
        return BASE - by(cell) + noise

    return lost


def searched(
    lost: Callable[[Cell], Lost], changes=AXES, *, budget: int | None = None, **settings
) -> tuple[Repair, list[Cell]]:
    """What is found, and what was asked in which order; a budget is so many mixtures."""
    search, asked = repair(changes, settings.pop("blocks", DAYS), **{"smallest": 0.05, **settings}), []
    wanted = next(search)
    while True:
        given = {}
        for cell in wanted:
            if budget is None or len(asked) < budget:
                asked.append(cell)
                given[cell] = lost(cell)
        try:
            wanted = search.send(given or None)
        except StopIteration as stop:
            return stop.value, asked


def axes(found: Repair) -> list[str]:
    return [change.axis for change in found.changes]


# ---------------------------------------------------------------- what is found


def test_one_guilty_change_is_found_with_what_it_wins_back() -> None:
    found, _ = searched(wins(lambda cell: 0.5 * (DATA in cell)))
    assert axes(found) == ["data"]
    assert found.gain is not None
    assert found.gain.low < 0.5 < found.gain.high
    assert found.alternatives == ()
    assert found.interactions == ()
    assert not found.cut_short


def test_two_guilty_changes_are_found_the_worse_one_first() -> None:
    found, _ = searched(wins(lambda cell: 0.2 * (SETTINGS in cell) + 0.5 * (DATA in cell)))
    assert axes(found) == ["data", "settings"]
    assert [round(step.mean, 1) for step in found.steps] == [0.5, 0.2]
    assert found.gain is not None
    assert found.gain.mean == pytest.approx(0.7, abs=0.01)


def test_equal_losses_give_nobody() -> None:
    found, _ = searched(lambda _cell: BASE)
    assert (found.changes, found.gain, found.steps) == ((), None, ())
    assert found.resolution == found.smallest


def test_a_gain_that_is_not_worth_it_is_nobodys_fault() -> None:
    assert axes(searched(wins(lambda cell: 0.04 * (DATA in cell)))[0]) == []


def test_where_taking_back_makes_it_worse_nobody_is_to_blame() -> None:
    assert axes(searched(wins(lambda cell: -0.5 * len(cell)))[0]) == []


def test_a_gain_on_two_days_only_is_not_sure_and_the_resolution_says_so() -> None:
    lucky = np.where(DAYS < 2, 3.0, 0.0)
    found, _ = searched(lambda cell: BASE - lucky * (DATA in cell))
    assert axes(found) == []
    assert found.resolution > 0.3
    assert searched(lambda _cell: BASE)[0].resolution < found.resolution


def test_where_all_that_was_looked_at_was_found_nothing_stayed_out_of_sight() -> None:
    found, _ = searched(wins(lambda cell: 0.5 * (DATA in cell)), [DATA])
    assert found.resolution == found.smallest
    assert searched(lambda cell: "does not run" if cell else BASE, [DATA])[0].resolution == math.inf


def test_the_unit_that_changed_upstream_is_blamed_on_the_code_that_can_not_read_it() -> None:
    # Given new data and traffic in another unit, which the new code cuts off: old data do not fit the traffic
    found, _ = searched(wins(lambda cell: (0.5 * (TRAINING in cell)) - 2 * (DATA in cell)))
    assert axes(found) == ["training code"]


def test_a_stale_model_is_repaired_by_fresh_data_where_data_did_not_change() -> None:
    found, asked = searched(wins(lambda cell: 0.5 * (FRESH in cell)), [SETTINGS, FRESH])
    assert found.changes == (FRESH,)
    assert frozenset({SETTINGS, FRESH}) in asked


def test_old_and_fresh_data_are_never_asked_for_together() -> None:
    found, asked = searched(wins(lambda cell: 0.5 * (FRESH in cell) + 0.2 * (DATA in cell)), [*AXES, FRESH])
    assert found.changes == (FRESH,)
    assert not any({DATA, FRESH} <= cell for cell in asked)


# ---------------------------------------------------------------- where the whole is not the sum


def test_what_does_harm_only_together_names_one_and_the_other_as_an_alternative() -> None:
    found, _ = searched(wins(lambda cell: 0.5 * bool(cell & {SETTINGS, TRAINING})))
    assert axes(found) == ["settings"]
    assert found.alternatives == (TRAINING,)
    assert [(one.axes, one.kind) for one in found.interactions] == [(("settings", "training code"), "together")]
    assert found.interactions[0].beyond == pytest.approx(-0.5, abs=0.02)


def test_what_each_does_alone_has_to_be_taken_back_both() -> None:
    found, _ = searched(wins(lambda cell: 0.5 * (cell >= {DATA, TRAINING})))
    assert set(axes(found)) == {"data", "training code"}
    assert [(one.axes, one.kind) for one in found.interactions] == [(("training code", "data"), "each")]


def test_a_small_culprit_does_not_hide_two_that_only_both_repair() -> None:
    found, _ = searched(wins(lambda cell: 0.2 * (SETTINGS in cell) + 0.5 * (cell >= {DATA, TRAINING})))
    assert set(axes(found)) == {"settings", "data", "training code"}
    assert axes(found)[0] == "settings"


def test_three_that_only_together_repair_are_found() -> None:
    found, _ = searched(wins(lambda cell: 0.5 * (cell >= {DATA, TRAINING, SETTINGS})))
    assert set(axes(found)) == {"data", "training code", "settings"}


# ---------------------------------------------------------------- preference, groups


def test_of_two_that_do_equally_well_the_one_preferred_is_taken() -> None:
    by = wins(lambda cell: 0.5 * bool(cell & {SETTINGS, DATA}) + 0.05 * (DATA in cell))
    assert axes(searched(by)[0]) == ["settings"]
    assert axes(searched(by, [DATA, TRAINING, SETTINGS])[0]) == ["data"]


def test_a_group_is_taken_where_no_single_one_of_it_does() -> None:
    found, _ = searched(wins(lambda cell: 0.5 * (cell >= CODE) - 2 * (len(cell & CODE) == 1)), groups=[CODE])
    assert set(found.changes) == CODE
    assert len(found.steps) == 1


def test_a_single_change_is_preferred_to_its_group() -> None:
    found, _ = searched(wins(lambda cell: 0.5 * (TRAINING in cell)), groups=[CODE])
    assert axes(found) == ["training code"]


def test_the_other_half_of_a_group_is_added_where_it_wins_more() -> None:
    found, _ = searched(wins(lambda cell: 0.4 * (TRAINING in cell) + 0.3 * (SERVING in cell)), groups=[CODE])
    assert set(found.changes) == CODE


def test_what_belongs_together_is_put_forward_together() -> None:
    # Given halves of the code that only run together, and harm that settings and data each do
    def lost(cell: Cell) -> Lost:
        if len(cell & CODE) == 1:
            return "predict raised ValueError: the feature names should match"
        return wins(lambda one: 0.5 * (one >= {DATA, SETTINGS}))(cell)

    assert set(axes(searched(lost, groups=[CODE])[0])) == {"data", "settings"}


# ---------------------------------------------------------------- outcomes that are no losses


def test_a_mixture_that_does_not_run_is_an_outcome() -> None:
    def lost(cell: Cell) -> Lost:
        return "does not run" if SETTINGS in cell else wins(lambda one: 0.5 * (DATA in one))(cell)

    found, _ = searched(lost)
    assert axes(found) == ["data"]
    assert [one.fails for one in found.singles] == [None, "does not run", None, None]
    assert found.all_back is not None
    assert found.all_back.fails == "does not run"
    assert not found.cut_short


def test_a_loss_that_is_no_number_is_an_outcome_and_never_a_repair() -> None:
    found, _ = searched(lambda cell: BASE * (math.nan if DATA in cell else 1))
    assert found.changes == ()
    assert found.singles[-1].fails == "its loss is NaN or infinite on 600 of 600 rows"


@pytest.mark.parametrize("wrong", ["fit raised KeyError", BASE * math.nan])
def test_a_bad_release_that_does_not_run_itself_is_an_error(wrong: Lost) -> None:
    with pytest.raises(InvalidInput) as caught:
        searched(lambda cell: wrong if not cell else BASE)
    assert caught.value.code == "ST997"


@pytest.mark.parametrize("wrong", [BASE[1:], BASE.reshape(2, 300), np.empty(0)])
def test_losses_of_other_rows_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(InvalidInput) as caught:
        searched(lambda cell: wrong if DATA in cell else BASE)
    assert caught.value.code == "ST996"


def test_no_rows_are_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        searched(lambda _cell: np.empty(0), blocks=np.empty(0, int))
    assert caught.value.code == "ST996"


@pytest.mark.parametrize(
    "wrong", [{"smallest": 0}, {"smallest": math.nan}, {"alpha": 0}, {"alpha": 0.5}, {"changes": [DATA, DATA]}]
)
def test_a_search_that_makes_no_sense_is_refused(wrong) -> None:
    with pytest.raises(InvalidInput) as caught:
        searched(lambda _cell: BASE, **wrong)
    assert caught.value.code == "ST998"


def test_from_one_block_nobody_is_blamed() -> None:
    found, _ = searched(wins(lambda cell: 0.5 * (DATA in cell)), blocks=np.zeros(600, int))
    assert found.changes == ()
    assert found.resolution == math.inf


def test_absurd_losses_are_compared_without_overflow() -> None:
    found, _ = searched(lambda cell: BASE * (1e300 if DATA in cell else 1e307), smallest=1e300)
    assert axes(found) == ["data"]


# ---------------------------------------------------------------- what is asked


def test_nothing_changed_asks_for_nothing_more_than_the_release_itself() -> None:
    found, asked = searched(lambda _cell: BASE, [])
    assert asked == [frozenset()]
    assert found.changes == ()


def test_one_change_asks_for_two_mixtures() -> None:
    found, asked = searched(wins(lambda cell: 0.5 * (DATA in cell)), [DATA])
    assert asked == [frozenset(), frozenset({DATA})]
    assert axes(found) == ["data"]


def test_eight_changes_ask_for_ten_mixtures_where_nobody_is_to_blame_and_seven_more_for_one_culprit() -> None:
    changes = [Change(axis=name) for name in "abcdefgh"]
    _, asked = searched(lambda _cell: BASE, changes)
    assert len(asked) == 10
    found, asked = searched(lambda cell: BASE - 0.5 * (changes[4] in cell), changes)
    assert found.changes == (changes[4],)
    assert len(asked) == 17


def test_three_changed_axes_take_five_trainings_where_one_is_to_blame() -> None:
    # Given both halves of the code, settings and data: what was taken back in serving alone needs no training
    _, asked = searched(wins(lambda cell: 0.5 * (DATA in cell)), groups=[CODE])
    trained = {cell - {SERVING} for cell in asked} - {frozenset(), frozenset({SETTINGS, TRAINING, DATA})}
    assert len(trained) == 5


@pytest.mark.parametrize("budget", range(16))
def test_a_spent_budget_ends_the_search_with_what_is_known(budget: int) -> None:
    by = wins(lambda cell: 0.2 * (SETTINGS in cell) + 0.5 * (DATA in cell))
    whole, everything = searched(by)
    found, asked = searched(by, budget=budget)
    assert asked == everything[:budget]
    assert found.cut_short == (budget < len(everything))
    assert set(found.lost) == set(asked)
    assert set(found.changes) <= set(whole.changes)
    assert (found.gain is None) == (not found.changes)


# ---------------------------------------------------------------- shares


def test_shares_add_up_and_an_axis_that_does_nothing_has_none() -> None:
    losses = {
        frozenset(cell): 2 - 0.5 * (DATA in cell) - 0.2 * ({TRAINING, DATA} <= set(cell))
        for cell in [(), (DATA,), (TRAINING,), (SETTINGS,), (DATA, TRAINING), (DATA, SETTINGS), (TRAINING, SETTINGS)]
    } | {frozenset({DATA, TRAINING, SETTINGS}): 1.3}
    found, whole = shares(losses, [DATA, TRAINING, SETTINGS])
    assert found == {"data": 0.6, "training code": 0.1, "settings": 0.0}
    assert whole


def test_shares_of_what_was_asked_add_up_too_but_are_an_estimate() -> None:
    result, _ = searched(wins(lambda cell: 0.2 * (SETTINGS in cell) + 0.5 * (DATA in cell)))
    losses = {cell: float(np.mean(lost)) for cell, lost in result.lost.items()}
    found, whole = shares(losses, AXES)
    assert sum(found.values()) == pytest.approx(losses[frozenset()] - losses[frozenset(AXES)])
    assert found == pytest.approx({"serving code": 0, "settings": 0.2, "training code": 0, "data": 0.5}, abs=0.02)
    assert not whole


@pytest.mark.parametrize(
    ("losses", "changes"),
    [
        ({frozenset(): 1.0}, [DATA]),
        ({frozenset({DATA}): 1.0}, [DATA]),
        ({frozenset(): math.nan, frozenset({DATA}): 1.0}, [DATA]),
        ({}, [Change(axis=str(i)) for i in range(13)]),
    ],
)
def test_shares_without_both_releases_are_refused(losses, changes) -> None:
    with pytest.raises(InvalidInput) as caught:
        shares(losses, changes)
    assert caught.value.code == "ST999"


def test_a_mixture_that_gives_no_number_is_filled_in() -> None:
    losses = {
        frozenset(): 1.0,
        frozenset({DATA}): 0.5,
        frozenset({SETTINGS}): math.nan,
        frozenset({DATA, SETTINGS}): 0.5,
    }
    assert shares(losses, [DATA, SETTINGS]) == ({"data": 0.5, "settings": 0.0}, False)
