"""Which label counts, one row of many records, and sums that are exact."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.traffic import Tallies, Tally, first_of_each, merge, ranks, tally, winners


def winning(*labels):
    """Each label is (target, at, got, label, source)."""
    target, at, got, label, source = (np.array(column, np.int64) for column in zip(*labels, strict=True))
    return winners(target, at=at, got=got, label=label, source=source).tolist()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([(0, 1, 1, 0, 0), (0, 2, 0, 0, 0)], 1),  # the later event
        ([(0, 1, 9, 0, 0), (0, 1, 8, 5, 0)], 0),  # then the later arrival
        ([(0, 1, 1, 4, 0), (0, 1, 1, 5, 0)], 1),  # then the greater value
        ([(0, 1, 1, 5, 1), (0, 1, 1, 5, 0)], 0),  # then the greater source
        ([(0, 1, 1, 0, 0), (0, 1, 2, 1, 0), (0, 1, 3, 0, 0)], 1),  # the first one again is not newer
    ],
)
def test_of_several_versions_one_counts(labels, expected):
    assert winning(*labels) == [expected]


def test_each_target_has_its_own_winner_in_order_of_targets():
    assert winning((7, 1, 1, 0, 0), (3, 1, 1, 0, 0), (7, 2, 1, 0, 0)) == [1, 2]


def test_no_labels_have_no_winner():
    none = np.zeros(0, np.int64)

    assert winners(none, at=none, got=none, label=none, source=none).tolist() == []


def test_one_row_of_each_is_kept_whatever_the_key_is_made_of():
    hi, lo = np.array([2**63, 1, 2**63], np.uint64), np.array([5, 5, 5], np.uint64)

    assert first_of_each([hi, lo], [np.array([2.0, 0.0, 1.0])]).tolist() == [1, 2]


def test_ranks_are_dense_and_follow_the_weightiest_key():
    assert ranks(np.array([2, 1, 2, 2]), np.array([1, 9, 0, 1])).tolist() == [2, 0, 1, 2]


def test_sums_are_exact_where_sums_of_floats_are_not():
    losses = np.array([1e16, 1.0, -1e16, 3e-300])

    found = tally({}, weight=np.ones(4), losses=losses).total

    assert found.loss == 1 + Fraction(3e-300)
    assert float(losses.sum()) != found.loss


def test_a_row_without_a_label_has_weight_but_no_loss():
    found = tally({"arm": ["a", "a"]}, weight=[2.0, 4.0], losses=[3.0, np.nan]).groups[("a",)]

    assert found == Tally(
        rows=2, labelled=1, weight=Fraction(6), labelled_weight=Fraction(2), loss=Fraction(6), loss_squares=Fraction(18)
    )
    assert found.mean_loss == 3.0


def test_no_label_gives_no_mean_and_no_rows_no_groups():
    assert tally({"arm": ["a"]}, weight=[1.0], losses=[np.nan]).total.mean_loss is None
    assert tally({"arm": []}, weight=[], losses=[]).groups == {}


def test_tallies_survive_json():
    found = tally({"arm": ["b", "a"], "day": ["1", "1"]}, weight=[0.1, 3.0], losses=[0.3, np.nan])

    assert Tallies.from_document(found.document()) == found
    assert Tallies.from_document(found.document()).document() == found.document()


@pytest.mark.parametrize("document", [{}, {"by": ["a"], "groups": [[["x"], 1, 1, "1"]]}, {"by": [], "groups": [5]}])
def test_what_is_no_document_of_tallies_is_refused(document):
    with pytest.raises(InvalidInput, match="ST717"):
        Tallies.from_document(document)


@pytest.mark.parametrize(
    ("weight", "losses"),
    [([0.0], [1.0]), ([-1.0], [1.0]), ([np.inf], [1.0]), ([1.0], [np.inf]), ([1.0], [1e200]), ([1.0, 1.0], [1.0])],
)
def test_numbers_that_would_spoil_a_sum_are_refused(weight, losses):
    with pytest.raises(InvalidInput, match="ST718"):
        tally({"arm": ["a"]}, weight=weight, losses=losses)


def test_tallies_of_other_groups_do_not_merge():
    by_arm, by_day = (tally({name: ["a"]}, weight=[1], losses=[1.0]) for name in ("arm", "day"))

    with pytest.raises(InvalidInput, match="ST719"):
        merge(by_arm, by_day)
    with pytest.raises(InvalidInput, match="ST719"):
        merge()
    with pytest.raises(InvalidInput, match="ST716"):
        by_arm.over("day")
