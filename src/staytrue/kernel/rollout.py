r"""How a challenger gets in: the steps of a trial, and the table of allowed moves between them.

    backtest -> shadow -> canary 5 % -> canary 25 % -> champion
        \         \           \            \
         `----------`-----------`------------`--> rejected            champion -> rolled_back, while the watch lasts

No move is made anywhere else: `advance` reads the table and a judgement and says what comes next.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from staytrue.errors import InvalidInput

__all__ = [
    "MOVES",
    "Advice",
    "Move",
    "Served",
    "Stage",
    "Step",
    "advance",
    "advance_service",
    "in_canary",
    "moved",
    "service_steps",
    "steps",
]

Stage = Literal["backtest", "shadow", "canary", "champion", "rejected", "rolled_back"]
Move = Literal["pass", "reject", "stay", "roll_back"]

MOVES: Mapping[tuple[str, str], frozenset[str]] = {
    ("backtest", "pass"): frozenset({"shadow", "canary", "champion"}),
    ("backtest", "reject"): frozenset({"rejected"}),
    ("shadow", "pass"): frozenset({"canary", "champion"}),
    ("shadow", "reject"): frozenset({"rejected"}),
    ("canary", "pass"): frozenset({"canary", "champion"}),
    ("canary", "reject"): frozenset({"rejected"}),
    ("champion", "roll_back"): frozenset({"rolled_back"}),
}
"""(stage, move) -> the stages it may lead to. What is not here does not happen."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a trial: its stage, the share of traffic that the challenger answers, and the rows it lasts at least."""

    stage: Literal["backtest", "shadow", "canary"]
    share: float = 0.0
    rows: int = 0

    @property
    def doing(self) -> str:
        """What a challenger does in it, in words."""
        shown = f"canary: it answers {self.share:.0%} of the rows"
        return f"shadow for {self.rows} rows" if self.stage == "shadow" else shown


_CANARY_ROWS = 100
_PART = re.compile(r"(backtest|shadow|canary)((?::[^:,\s]+)*)")


def steps(plan: str) -> tuple[Step, ...]:
    """The steps that `plan` names, such as `backtest, shadow:200, canary:5%:25%`.

    Raises:
        InvalidInput: ST107, a step that is unknown, out of order, or a share outside (0 %, 100 %).

    Example:
        >>> [s.share for s in steps("backtest, canary:5%:25%")]
        [0.0, 0.05, 0.25]
    """
    found: list[Step] = []
    for part in (p.strip() for p in plan.split(",")):
        match = _PART.fullmatch(part)
        if match is None:
            raise _unreadable(plan, part)
        values = [v for v in match[2].split(":") if v]
        found += _read(match[1], values, plan, part)
    order = [("backtest", "shadow", "canary").index(s.stage) for s in found]
    if order != sorted(order) or [s.stage for s in found].count("backtest") > 1:
        raise _unreadable(plan, plan)
    return tuple(found)


def _read(stage: str, values: Sequence[str], plan: str, part: str) -> list[Step]:
    if stage == "backtest" and not values:
        return [Step(stage="backtest")]
    if stage == "shadow" and len(values) == 1 and values[0].isdigit():
        return [Step(stage="shadow", rows=int(values[0]))]
    if stage == "canary" and values:
        shares = [float(v[:-1]) / 100 for v in values if re.fullmatch(r"\d+(\.\d+)?%", v)]
        if len(shares) == len(values) and all(0 < s < 1 for s in shares):
            return [Step(stage="canary", share=s, rows=_CANARY_ROWS) for s in shares]
    raise _unreadable(plan, part)


def _unreadable(plan: str, part: str) -> InvalidInput:
    return InvalidInput(
        "ST107",
        f"Can't read the step {part!r} of the trial {plan!r}: expected steps in this order, such as "
        "'backtest, shadow:200, canary:5%:25%'.",
        got=plan,
    )


def advance(*, verdict: str, rows: int, needed: int, proof: bool, over: bool) -> Move:
    """What a judgement means for a challenger in shadow or canary.

    `worse` rejects at once. No evidence never promotes, nor lets a canary grow: such a step is left only with `better` or
    `not_worse`. So whoever has proven nothing is shown to the first canary's share at most. A trial that is over (its budget
    of rows or days is spent) without a verdict is rejected.

    Args:
        verdict: `better`, `not_worse`, `worse` or `undecided`.
        rows: rows that this step has seen.
        needed: rows that this step lasts at least.
        proof: whether the next move up has to be earned: to a larger share of the traffic than a canary's, or to champion.
        over: whether the trial's budget is spent.

    Example:
        >>> advance(verdict="undecided", rows=500, needed=100, proof=True, over=False)
        'stay'
    """
    if verdict == "worse":
        return "reject"
    proven = verdict in ("better", "not_worse")
    if rows >= needed and (proven or not proof):
        return "pass"
    return "reject" if over and not proven else "stay"


# ---------------------------------------------------------------- plain services: no labels, hence no verdict on losses


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a release did with the rows that it was asked in one step of a trial."""

    answered: int = 0
    failed: int = 0

    @property
    def failing(self) -> float:
        """The share of its rows that it failed on; 0 of none."""
        return self.failed / (self.answered + self.failed) if self.failed else 0.0


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A move, with a sentence for a person and the numbers that it rests on."""

    move: Move
    sentence: str
    evidence: dict[str, Any]


def service_steps(plan: str) -> tuple[Step, ...]:
    """The steps of a plain service's trial: those of `plan` that need no labels.

    A plan of nothing but a backtest leaves none; then a quarter of the traffic is the trial, since something must be seen.

    Raises:
        InvalidInput: ST107, as `steps`.

    Example:
        >>> [(s.stage, s.share) for s in service_steps("backtest, shadow:200, canary:5%")]
        [('shadow', 0.0), ('canary', 0.05)]
    """
    return tuple(step for step in steps(plan) if step.stage != "backtest") or steps("canary:25%")


def advance_service(
    challenger: Served, champion: Served, *, needed: int, over: bool, tripped: str | None = None
) -> Advice:
    """What came of a step of a plain service's trial, in shadow or canary.

    It goes on when the challenger has answered enough rows, and has failed on no larger share of them than the champion. It
    is rejected at once when a guard tripped (`kernel/guard.py`: that is how sure one has to be of harm), and when the trial
    is over before it got so far. No row is no evidence, and promotes nobody.

    Args:
        challenger, champion: in this step, from its beginning on.
        needed: rows that this step lasts at least; below 1 counts as 1.
        over: whether the trial's budget is spent.
        tripped: the guard that tripped.

    Example:
        >>> advance_service(Served(answered=100), Served(answered=1900), needed=100, over=False).sentence
        '100 rows answered, 0 failed (champion 0 of 1,900)'
        >>> advance_service(Served(), Served(answered=1900), needed=0, over=False).move
        'stay'
    """
    asked = champion.answered + champion.failed
    seen = f"{challenger.answered:,} rows answered, {challenger.failed:,} failed (champion {champion.failed:,} of {asked:,})"
    evidence = {
        "rows": challenger.answered,
        "failed": challenger.failed,
        "champion_rows": champion.answered,
        "champion_failed": champion.failed,
        "needed": max(1, needed),
        "tripped": tripped,
    }
    if tripped is not None:
        return Advice(move="reject", sentence=f"the guard on {tripped} tripped: {seen}", evidence=evidence)
    if challenger.answered >= max(1, needed) and challenger.failing <= champion.failing:
        return Advice(move="pass", sentence=seen, evidence=evidence)
    why = (
        "it fails more often than the champion"
        if challenger.failing > champion.failing
        else f"{max(1, needed):,} are needed"
    )
    if over:
        return Advice(move="reject", sentence=f"the trial is over: {seen}, {why}", evidence=evidence)
    return Advice(move="stay", sentence=f"{seen}, {why}", evidence=evidence)


def moved(stage: str, move: Move, to: str) -> str:
    """`to`, if the table allows that move.

    Raises:
        InvalidInput: ST108, it does not.
    """
    if to not in MOVES.get((stage, move), frozenset()):
        raise InvalidInput("ST108", f"A challenger in {stage} can't {move} to {to}.", stage=stage, move=move, to=to)
    return to


def in_canary(keys: Sequence[object], share: float, *, salt: str) -> np.ndarray:
    """(n,) bool: which rows the challenger answers. Sticky: a key has the same answer for as long as `salt` and share stand.

    A larger share holds all keys of a smaller one, so nobody is sent back and forth as a canary grows.

    Example:
        >>> bool((in_canary(range(1000), 0.05, salt="t") <= in_canary(range(1000), 0.25, salt="t")).all())
        True
    """
    if share <= 0:
        return np.zeros(len(keys), bool)
    hashes = (hashlib.blake2b(f"{salt}\x00{key}".encode(), digest_size=8).digest() for key in keys)
    places = np.frombuffer(b"".join(hashes), dtype=">u8").astype(np.float64) / 2.0**64
    return places < share
