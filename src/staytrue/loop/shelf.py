"""Shelf: champions of before. When the world turns back one of them may be right again, and it costs no training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from staytrue.errors import StaytrueError
from staytrue.kernel.policy import Settings
from staytrue.kernel.release import Digest
from staytrue.kernel.trial import Judgement
from staytrue.loop.jobs import Steps, tells_of_the_job
from staytrue.loop.past import Past
from staytrue.loop.train import Trained
from staytrue.loop.trial import Pairs, pairs

__all__ = ["Found", "Kept", "Shelf"]

_MOST: Final = 6
"""So many champions are kept in mind, the newest ones; each look has all of them answer a backtest's rows."""
_FEWEST: Final = 100
"""Labelled rows below which nothing is said of who is right again."""
_BACK: Final = 0.5
"""A stored release has to win back at least this share of what the champion has come to lose beyond fresh."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A champion of before."""

    release: Digest
    trained: Trained
    stop: int
    """It was trained on ticks before this one."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """One that would lose clearly less than the champion does now, on rows that neither was trained on."""

    kept: Kept
    pairs: Pairs
    judgement: Judgement
    loss: float
    champion_loss: float
    rows: int
    tried: int
    """So many releases were looked at."""

    @property
    def numbers(self) -> Mapping[str, Any]:
        """What the sentence was made from."""
        return {
            "verdict": self.judgement.verdict,
            "loss": self.loss,
            "champion_loss": self.champion_loss,
            "rows": self.rows,
            "stored": self.tried,
            **self.judgement.evidence,
        }


@dataclass(kw_only=True)
class Shelf:
    """What is kept in mind, and up to which labels it was looked through."""

    kept: list[Kept] = field(default_factory=list)
    looked: int = 0
    """When it was last looked through, labels of ticks before this one were known."""

    def put(self, old: Kept, champion: Digest) -> None:
        """Keep a champion of before; whoever is champion now is not on the shelf."""
        others = [one for one in self.kept if one.release not in (champion, old.release)]
        self.kept = [*others, old][-_MOST:]

    def best(
        self, past: Past, settings: Settings, champion: Trained, *, stop: int, known: int, since: int | None,
        fresh: float, number: int,
    ) -> Steps[Found | None]:  # fmt: skip
        """The stored release that loses least on the newest labelled rows, if it wins back enough.

        Args:
            stop: the champion was trained on ticks before this one.    known: labels are known for ticks before this one.
            since: the tick at which the champion's loss began to rise, if anybody knows.
            fresh: what the champion lost a row when fresh.
            number: of the trial that would follow, for its share of the error budget.

        Only releases of the champion's own code are looked at: what older code did is for a person to bring back.
        """
        self.looked = known
        known_code = [one for one in self.kept if one.trained.code == champion.code]
        start = past.back(known, settings.holdout, not_before=max([stop, *(one.stop for one in known_code)]))
        if since is not None and past.rows(max(start, since), known) >= _FEWEST:
            start = max(start, since)
        rows = past.rows(start, known)
        if not known_code or rows < _FEWEST:
            return None
        yield from past.answered([champion, *(one.trained for one in known_code)], start, known)
        losses = {
            one.release: found for one in known_code if (found := _losses(past, one.trained, start, known)) is not None
        }
        now = float(past.losses_between(champion, start, known).mean())
        best = min(
            (one for one in known_code if one.release in losses),
            key=lambda one: losses[one.release].mean(),
            default=None,
        )
        if (
            best is None
            or now - (loss := float(losses[best.release].mean())) < max(_BACK * (now - fresh), 0.0)
            or loss >= now
        ):
            return None
        evidence = yield from pairs(past, settings, champion, best.trained, stop=start, number=number)
        # The best of n on the same rows is n looks.
        evidence = replace(evidence, alpha=evidence.alpha / len(losses))
        for tick in range(start, known):
            evidence = evidence.seen(past, tick, past.losses(best.trained, tick) - past.losses(champion, tick))
        judgement = evidence.judged()
        if judgement.verdict == "worse":  # in a segment
            return None
        return Found(
            kept=best, pairs=evidence, judgement=judgement, loss=loss, champion_loss=now, rows=rows, tried=len(losses)
        )


def _losses(past: Past, who: Trained, start: int, stop: int) -> np.ndarray | None:
    """What a release loses; None when it can't answer any more."""
    try:
        return past.losses_between(who, start, stop)
    except StaytrueError as exc:
        if not tells_of_the_job(exc):
            raise
        return None
