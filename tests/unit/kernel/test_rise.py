"""Rise: the place from which on a loss is higher is found where there is one, and hardly ever where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from staytrue.kernel.rise import rise


def test_a_loss_that_only_wobbles_hardly_ever_rises():
    rng = np.random.default_rng(5)

    found = sum(rise(rng.normal(10, 1, 40), [30] * 40) is not None for _ in range(1000))
    # The largest of all gaps in standard errors, taken at its word, would be "a rise" in a quarter of them.
    naive = sum(_largest(rng.normal(10, 1, 40)) > 1.96 for _ in range(300))

    assert found <= 25  # 1 % and three standard errors
    assert naive > 60  # of 300


def test_autocorrelated_days_rise_seldom():
    rng = np.random.default_rng(6)
    found = 0
    for _ in range(500):
        x, noise = np.empty(40), rng.normal(0, 1, 40)
        x[0] = noise[0]
        for at in range(1, 40):
            x[at] = 0.3 * x[at - 1] + noise[at]
        found += rise(10 + x, [30] * 40) is not None

    assert found <= 60


@pytest.mark.parametrize("place", [5, 20, 34])
def test_a_rise_of_three_standard_deviations_is_found_to_within_a_day(place):
    rng = np.random.default_rng(place)
    off = []
    for _ in range(50):
        means = rng.normal(10, 1, 40)
        means[place:] += 3
        found = rise(means, [30] * 40)
        off.append(abs(found - place) if found is not None else 40)

    assert np.median(off) <= 1


def test_rows_have_to_be_left_after_it():
    means = [1.0, 1.1, 0.9, 1.0, 1.1, 5.0, 5.1, 4.9, 5.0]

    assert rise(means, [10] * 9, fewest_rows=40) == 5
    assert rise(means, [10] * 9, fewest_rows=41) is None


@pytest.mark.parametrize("n", [0, 1, 3, 7])
def test_of_a_few_days_nothing_is_said(n):
    assert rise([1.0] * (n // 2) + [9.0] * (n - n // 2), [30] * n) is None


def test_days_without_rows_are_passed_over():
    means = [1.0, 1.1, np.nan, 0.9, 1.0, 1.1, np.nan, 5.0, 5.1, 4.9, 5.0]

    assert rise(means, [10, 10, 0, 10, 10, 10, 0, 10, 10, 10, 10]) == 7


def _largest(x: np.ndarray) -> float:
    gaps = []
    for at in range(4, len(x) - 3):
        old, new = x[:at], x[at:]
        gaps.append((new.mean() - old.mean()) / np.sqrt(old.var(ddof=1) / len(old) + new.var(ddof=1) / len(new)))
    return max(gaps)
