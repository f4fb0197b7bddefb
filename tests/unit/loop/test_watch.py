"""What fresh means: what a champion lost when it was new, until a retraining brings nothing better."""

from __future__ import annotations

import numpy as np

from staytrue.kernel.policy import Freshness
from staytrue.loop.trial import Sums
from staytrue.loop.watch import Watch


def lost(rows: int, each: float) -> Sums:
    return Sums().seen(np.full(rows, each))


def test_after_a_retraining_that_brought_nothing_better_it_is_kept_what_was_lost_when_new() -> None:
    watch = Watch(books=Freshness(warm=100).seen(np.full(100, 2.0)))

    watch.settle(lost(60, 8.0))
    assert (watch.books.loss, watch.new_loss, watch.is_warm) == (8.0, 2.0, False)
    watch.learn(1, np.full(60, 8.0))
    assert watch.is_warm
    watch.settle(lost(200, 9.0))
    assert (watch.books.loss, watch.new_loss) == (9.0, 2.0)


def test_what_is_not_above_what_fresh_meant_changes_nothing() -> None:
    watch = Watch(books=Freshness(warm=100).seen(np.full(100, 2.0)))
    watch.settle(lost(60, 1.5))
    assert (watch.books.loss, watch.new_loss) == (2.0, None)


def test_another_champion_is_new() -> None:
    watch = Watch(books=Freshness(warm=100).seen(np.full(100, 2.0)))
    watch.settle(lost(60, 8.0))
    watch.renew(lost(300, 3.0))
    assert (watch.books.loss, watch.new_loss) == (3.0, None)
