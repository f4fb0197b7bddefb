"""Watch: is the champion still as good as when it was fresh, and was it right to let it in?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from staytrue.kernel.evidence import Differences, Harm, fold_harm
from staytrue.kernel.policy import Freshness
from staytrue.kernel.release import Digest
from staytrue.kernel.trial import Judgement
from staytrue.loop.past import Past
from staytrue.loop.train import Trained
from staytrue.loop.trial import Pairs, Sums

__all__ = ["Rise", "RollbackWatch", "Watch"]

_TOLERANCE = 0.1
"""A rise below this share of the fresh loss is not worth an alarm."""
_SCALE_SPREADS = 5


@dataclass(frozen=True, kw_only=True)
class Rise:
    """A harm alarm: from what to what the loss rose, and since which tick, probably."""

    baseline: float
    level: float
    since: int
    evidence: float


@dataclass(kw_only=True)
class Watch:
    """What the champion loses against what it lost when fresh: the books of `payback`, and the harm alarm."""

    books: Freshness = field(default_factory=Freshness)
    harm: Harm | None = None
    alarmed: bool = False
    arl: float = 1000.0
    """Mean number of blocks between two false harm alarms, at least."""
    looked_back: bool = False
    """Whether champions of before were looked at since the alarm."""
    new_loss: float | None = None
    """What the champion lost when it was new, if `books` mean something higher by now: no retraining brought anything better."""

    def learn(self, tick: int, losses: np.ndarray) -> Rise | None:
        """Take in one more tick of the champion's losses; the alarm, at the tick at which it goes off."""
        warm = self.is_warm
        self.books = self.books.seen(losses)
        if warm and self.harm is None:
            self.harm = self._fresh_harm()
        if self.harm is None:
            return None
        self.harm = fold_harm(self.harm, tick, losses, closed=True)
        if self.alarmed or not self.harm.fired:
            return None
        self.alarmed = True
        since = self.harm.started if self.harm.started is not None else tick
        recent = [mean for begun, mean in self.harm.blocks if begun >= since]
        level = float(np.mean(recent)) if recent else float(losses.mean())
        return Rise(baseline=self.harm.baseline, level=level, since=since, evidence=self.harm.evidence)

    def renew(self, lost: Sums) -> None:
        """There is a new champion; this is what it lost on trial."""
        self.books, self.new_loss = self._fresh(lost), None
        self._calm()

    def settle(self, lost: Sums) -> None:
        """A retraining brought nothing better: what the champion loses now is what fresh means, if that is more."""
        fresh = self._fresh(lost)
        risen = (fresh.loss or 0.0) > (self.books.loss or 0.0)
        if risen and self.new_loss is None:
            self.new_loss = self.books.loss
        self.books = fresh if risen else replace(self.books, excess=0.0)
        self._calm()

    @property
    def is_warm(self) -> bool:
        """Whether enough rows say what fresh means: only then a harm alarm can go off."""
        return self.books.rows >= self.books.warm

    def _fresh(self, lost: Sums) -> Freshness:
        return Freshness(warm=self.books.warm, rows=lost.rows, total=lost.total, squares=lost.squares)

    def _calm(self) -> None:
        self.harm, self.alarmed, self.looked_back = None, False, False

    def _fresh_harm(self) -> Harm:
        """Tolerance covers what is not worth an alarm and the error of the baseline itself."""
        books = self.books
        baseline = books.loss or 0.0
        spread = max(books.squares / max(books.rows, 1) - baseline**2, 0.0) ** 0.5
        return Harm.fresh(
            baseline=baseline,
            scale=max(baseline + _SCALE_SPREADS * spread, 1e-9),
            tolerance=_TOLERANCE * baseline + spread / max(books.rows, 1) ** 0.5,
            arl=self.arl,
        )


@dataclass(kw_only=True)
class RollbackWatch:
    """The old champion, kept warm after a promotion: it answers beside the new one for as long as rollback is armed."""

    number: int
    """Of the trial that ended in the promotion."""
    old: Trained
    old_release: Digest
    old_stop: int
    pairs: Pairs
    rows_left: int

    @classmethod
    def over(cls, old_release: Digest, old: Trained, stop: int) -> Self:
        """A watch that compares nothing any more: only the way back is kept."""
        nothing = Pairs(overall=Differences.fresh(scale=1.0), segments={}, margin=0.0, alpha=0.01)
        return cls(number=0, old=old, old_release=old_release, old_stop=stop, pairs=nothing, rows_left=0)

    def learn(self, past: Past, tick: int, new: np.ndarray, old: np.ndarray) -> Judgement | None:
        """Take in one more tick of both; the judgement, when it says that the promotion was wrong."""
        self.pairs = self.pairs.seen(past, tick, new - old)
        self.rows_left -= len(new)
        judgement = self.pairs.judged()
        return judgement if judgement.verdict == "worse" else None
