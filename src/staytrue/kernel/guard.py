"""When a release that answers has to be cut off at once: it fails, is far too slow, or can't read the rows.

A trial weighs losses and takes its time; a release that crashes must not wait for labels. Three guards look at pairs: what
became of a request with this release, and what became of the very same request with the one that it is held against.
So rows on which both fail (a caller's fault, a service that both need) say nothing, and a pause that hits one now hits
the other tomorrow.

- `errors`: it failed where the other one did not.      - `schema`: it can't read rows that the other one reads.
- `latency`: it took more than `SLOWER` times as long, for more than half of the batches.

The evidence of each is money: it is staked on "worse", multiplied by what comes, and a fair game makes it `1 / alpha`-fold
with probability at most `alpha`, however often one looks. `kernel.evidence.Guard` stakes all of it at the first row;
here half is put in bit by bit, because a release may begin to fail after a million good answers, and what was staked
at the beginning is lost by then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final, Literal, get_args

__all__ = [
    "SLOWER",
    "Bets",
    "GuardName",
    "Guards",
    "fold",
    "fold_failures",
    "fold_seconds",
    "fold_unread",
    "well_score",
]

GuardName = Literal["errors", "latency", "schema"]

SLOWER: Final = 4.0
"""Whose median batch takes more than so many times as long is too slow. A release ten times as slow as another one is
seen at some six times: both wait for the same sockets."""
_NOTICED_S: Final = 0.001
"""A difference that nobody notices is none, whatever the ratio."""
_STAKES: Final = (0.1, 0.2, 0.4, 0.7, 0.95)
_MOST: Final = 1e300


@dataclass(frozen=True, kw_only=True)
class Bets:
    """Money staked on "what comes is above 0 on average".

    While the expected score, given all before, is at most 0, `evidence` ever reaches 1 / alpha with probability at most
    alpha.

    Fields:
        folds: how often money was put in.
        wealth: of each of the stakes.
    """

    folds: int = 0
    wealth: tuple[float, ...] = (0.0,) * len(_STAKES)

    @property
    def evidence(self) -> float:
        """The mean wealth over the stakes."""
        return sum(self.wealth) / len(_STAKES)


def fold(bets: Bets, score: float, n: float = 1) -> Bets:
    """The bets after `n` times this score, each in [-1, 1].

    Source:
        Weights over the start of a change: Shiryaev and Roberts; as a product of bets: Shin, Ramdas, Rinaldo,
        "E-detectors" (NEJSDS 2023). Summed over all starts the weights are 1, so it is a test and not only an alarm.

    Example:
        >>> late = fold(Bets(), -0.01, n=10_000)
        >>> for _ in range(20):
        ...     late = fold(late, 1)
        >>> late.evidence > 100
        True
    """
    put = _put_in(bets.folds + 1)
    wealth = tuple(
        min(_MOST, (had + put) * (1 + stake * score) ** n) for had, stake in zip(bets.wealth, _STAKES, strict=True)
    )
    return Bets(folds=bets.folds + 1, wealth=wealth)


def _put_in(at: int) -> float:
    """What is put in at the `at`-th fold, from 1 on: all of it together is 1."""
    slowly = 1 / (1 + math.log(at)) - 1 / (1 + math.log(at + 1))
    return 0.5 * slowly + (0.5 if at == 1 else 0.0)


@dataclass(frozen=True, kw_only=True)
class Guards:
    """The three guards of one release in one role. Together they trip by mistake with probability at most `alpha`.

    Fields:
        alpha: over the whole time in the role.
        tolerance: the share of requests on which it may fail alone. For a challenger 0: what it is held against is seen to
            fail as well. Of a champion with a stand-in only one side is seen, so one caller's odd rows must not add up.
    """

    alpha: float = 0.01
    tolerance: float = 0.0
    errors: Bets = field(default_factory=Bets)
    latency: Bets = field(default_factory=Bets)
    schema: Bets = field(default_factory=Bets)

    @property
    def needed(self) -> float:
        """The evidence at which a guard trips."""
        return len(get_args(GuardName)) / self.alpha

    @property
    def evidence(self) -> dict[GuardName, float]:
        """By guard."""
        return {"errors": self.errors.evidence, "latency": self.latency.evidence, "schema": self.schema.evidence}

    @property
    def tripped(self) -> GuardName | None:
        """The guard that has seen enough, the surest of them; None while all is well enough."""
        found = self.evidence
        name = max(found, key=lambda one: found[one])
        return name if found[name] >= self.needed else None


def fold_failures(guards: Guards, *, alone: float = 0, other: float = 0, well: int = 0) -> Guards:
    """The guards after requests to both.

    Args:
        alone: on so many it failed and the other one did not. Several that went down with one process are one together:
            a process is killed once.
        other: on so many the other one failed and it did not.
        well: so many it answered since the last call; counted where some failures are tolerated.

    Example:
        >>> guards = fold_failures(Guards(), alone=12)
        >>> guards.tripped, fold_failures(Guards(), other=12).tripped
        ('errors', None)
    """
    bets = guards.errors
    if well and guards.tolerance:
        bets = fold(bets, well_score(guards.tolerance), well)
    if other:
        bets = fold(bets, -1, other)
    if alone:
        bets = fold(bets, 1, alone)
    return guards if bets is guards.errors else replace(guards, errors=bets)


def well_score(tolerance: float) -> float:
    """What a good answer counts against a failure's 1, so that with failures at that rate the sum stays at 0.

    Example:
        >>> round(0.01 * 1 + 0.99 * well_score(0.01), 12)
        0.0
    """
    return -tolerance / (1 - tolerance)


def fold_seconds(guards: Guards, mine_s: float, other_s: float) -> Guards:
    """The guards after a batch that took this release `mine_s` and the other one `other_s`.

    Only whether it was more than `SLOWER` times as long counts: no pause, however long, is more than one batch.

    Example:
        >>> slow = even = Guards()
        >>> for _ in range(12):
        ...     slow, even = fold_seconds(slow, 0.1, 0.01), fold_seconds(even, 0.03, 0.01)
        >>> slow.tripped, even.tripped
        ('latency', None)
    """
    is_slow = mine_s > SLOWER * other_s and mine_s - other_s > _NOTICED_S
    return replace(guards, latency=fold(guards.latency, 1 if is_slow else -1))


def fold_unread(guards: Guards, requests: int) -> Guards:
    """The guards after so many requests that the other one has read without a doubt, and this one can't."""
    return replace(guards, schema=fold(guards.schema, 1, requests)) if requests else guards
