"""What a trial owes to its small segments: whoever plainly harms one waits for evidence, and is not promoted meanwhile."""

from __future__ import annotations

import numpy as np

from staytrue.kernel.evidence import Differences, fold
from staytrue.kernel.trial import judge, spend

SHARES = {"online": 0.5, "direct": 0.3, "groups": 0.12, "corporate": 0.08}


def verdicts(effects: dict[str, float], seed: int, *, days: int = 60, rows: int = 100) -> list[str]:
    """The verdict after each day of a trial whose losses are exponential with mean 1, the two releases' correlated."""
    rng = np.random.default_rng(seed)
    overall = Differences.fresh(scale=3.0)
    segments = dict.fromkeys(SHARES, overall)
    said = []
    for day in range(days):
        names = rng.choice(list(SHARES), rows, p=list(SHARES.values()))
        common, own, other = rng.exponential(1, (3, rows))
        champion, challenger = 0.8 * common + 0.2 * own, 0.8 * common + 0.2 * other
        d = challenger * (1 + np.array([effects.get(name, effects[""]) for name in names])) - champion
        overall = fold(overall, day, d)
        segments = {name: fold(state, day, d[names == name]) for name, state in segments.items()}
        said.append(judge(overall, segments, alpha=spend(1, 0.01) / 2, margin=0.02).verdict)
    return said


def test_a_challenger_that_doubles_the_loss_of_a_small_segment_is_never_let_in() -> None:
    for seed in range(5):
        said = verdicts({"corporate": 1.0, "": -0.15}, seed)
        assert not {"better", "not_worse"} & set(said[: said.index("worse")] if "worse" in said else said)


def test_a_challenger_that_is_better_everywhere_is_let_in() -> None:
    for seed in range(5):
        assert "better" in verdicts({"": -0.1}, seed)[:40]


def test_a_challenger_that_harms_a_large_segment_is_refused_by_it() -> None:
    said = verdicts({"direct": 0.3, "": -0.05}, 0)
    assert next(v for v in said if v != "undecided") == "worse"
