"""Is it right now? One function decides, and command line, API and page all call it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from staytrue.kernel.confidence import Belief

__all__ = ["FewKnown", "Health", "health"]

State = Literal["right", "harmed", "unknown"]


@dataclass(frozen=True, kw_only=True)
class FewKnown:
    """What is known where labels are few: then being right has to be shown, not only not refuted.

    Fields:
        expected, expected_interval: what would be lost if only the inputs had moved (`kernel/confidence.py`), None where
            answers say nothing of it. belief: what labels say of that estimate.
        late_rows: labels that it was held against.
        newest_label_at: when the newest label arrived, None before the first.
        quiet_after: without a label for so long, labels are silent.
        tolerance: the rise above the fresh loss, as a share of it, that is not worth an alarm.
        looked: whether anybody has looked at the labels; else only alarms say anything.
    """

    expected: float | None = None
    expected_interval: Sequence[float] | None = None
    belief: Belief = "untested"
    late_rows: int = 0
    newest_label_at: datetime | None = None
    quiet_after: timedelta = timedelta(days=9)
    tolerance: float = 0.1
    looked: bool = True

    def document(self) -> dict[str, Any]:
        """As it stands in the evidence of a verdict."""
        return {
            "expected": self.expected,
            "expected_interval": list(self.expected_interval) if self.expected_interval else None,
            "belief": self.belief,
            "late_rows": self.late_rows,
            "newest_label_at": self.newest_label_at and self.newest_label_at.isoformat(),
            "tolerance": self.tolerance,
        }


@dataclass(frozen=True, kw_only=True)
class Health:
    """A verdict and the sentence that says why."""

    state: State
    sentence: str
    evidence: dict[str, Any]


def health(  # noqa: PLR0911 - one return for each thing that may be unknown reads best
    *,
    rows: int,
    loss: float | None,
    interval: Sequence[float] | None,
    fresh_loss: float | None,
    new_loss: float | None = None,
    is_warm: bool = True,
    alarms: Sequence[str],
    looked_at: datetime | None,
    now: datetime,
    runs: bool = True,
    answered: int | None = None,
    stale_after: timedelta = timedelta(days=9),
    few: FewKnown | None = None,
) -> Health:
    """Whether the champion is right, as far as evidence goes. Nothing is called right without labels.

    With few labels (`few`) it is right only where the whole interval lies below the fresh loss and its tolerance, so that a
    harmed app is called right as seldom as the interval misses. It is unknown while labels are silent, and while those that
    came speak against the estimate that `interval` may rest on.

    Args:
        rows: labelled rows that the loss rests on; loss: their mean; interval: its 95 % bounds.
        fresh_loss: what the champion lost when fresh.
        new_loss: what it lost when new, where `fresh_loss` is more since a retraining brought nothing better; `is_warm`: whether
            enough rows say so.
        alarms: kinds of open alarms.
        answered: of a plain service, which has no labels: requests of the last hour that were answered.
        runs: whether whoever makes the numbers is still at work. A watch that is dead sees nothing, so nothing is right.
        looked_at: when the numbers were made; older than `stale_after` at `now`, they say nothing about today.
        few: given where labels are few or missing; `loss` and `interval` are then those of `few_labels(...).best`.

    Example:
        >>> from datetime import UTC
        >>> now = datetime(2026, 3, 1, tzinfo=UTC)
        >>> health(rows=0, loss=None, interval=None, fresh_loss=None, alarms=(), looked_at=now, now=now).sentence
        'unknown: 0 labels were seen'
    """
    evidence = {
        "rows": rows,
        "loss": loss,
        "interval": [side if math.isfinite(side) else None for side in interval] if interval else None,
        "fresh_loss": fresh_loss,
        "alarms": list(alarms),
    }
    unseen = _unseen(looked_at, now, runs=runs, stale_after=stale_after)
    if unseen:
        return Health(state="unknown", sentence=f"unknown: {unseen}", evidence=evidence)
    system = [name for name in alarms if name.startswith("system")]
    if system:
        lost = f"; loss {loss:.4g} a row on {rows:,} rows" if rows and loss is not None else ""
        return Health(state="harmed", sentence=f"harmed: {', '.join(system)} alarm open{lost}", evidence=evidence)
    if answered is not None:
        return _of_service(answered, evidence)
    if few is not None:
        unsettled = None if is_warm else new_loss
        return _of_few(
            rows, loss, interval, fresh_loss, few, unsettled=unsettled, alarms=alarms, now=now, evidence=evidence
        )
    if not rows or loss is None or interval is None:
        return Health(state="unknown", sentence=f"unknown: {rows} labels were seen", evidence=evidence)
    bounds = f"{loss:.4g} a row ({interval[0]:.4g} .. {interval[1]:.4g}, {rows:,} rows)"
    if "harm" in alarms:
        return Health(state="harmed", sentence=f"harmed: harm alarm open; loss {bounds}", evidence=evidence)
    if "silence" in alarms:
        sentence = f"unknown: rows or labels have fallen silent; before that loss {bounds}"
        return Health(state="unknown", sentence=sentence, evidence=evidence)
    aside = "".join(f"; {_ASIDE[name]}" for name in alarms if name in _ASIDE)
    if fresh_loss is None:
        return Health(
            state="unknown",
            sentence=f"unknown: loss {bounds}, but too few rows say what it was when fresh",
            evidence=evidence,
        )
    return _against_fresh(
        f"loss {bounds}", interval[0], fresh_loss, new_loss, aside, is_warm=is_warm, evidence=evidence
    )


_ASIDE = {"shift": "inputs or answers moved, without harm", "fault": "rows are in quarantine"}
"""Alarms with which an app whose labels say so is right."""


def _unseen(looked_at: datetime | None, now: datetime, *, runs: bool, stale_after: timedelta) -> str:
    """That nobody looks; empty when somebody does."""
    if looked_at is None:
        return "nobody has looked yet"
    if now - looked_at > stale_after:
        return f"nobody has looked since {looked_at:%Y-%m-%d}, {(now - looked_at) / timedelta(days=1):.0f} days ago"
    return "" if runs else f"nobody watches; last looked {looked_at:%Y-%m-%d %H:%M} UTC"


def _against_fresh(
    said: str, low: float, fresh: float, new: float | None, aside: str, *, is_warm: bool, evidence: dict[str, Any]
) -> Health:
    """Of the loss of late, whose interval begins at `low`, against the fresh one. `new`, `is_warm`: as for `health`."""
    if low > fresh:
        return Health(state="harmed", sentence=f"harmed: {said}, {fresh:.4g} when fresh", evidence=evidence)
    if new is None:
        return Health(state="right", sentence=f"right: {said}, {fresh:.4g} when fresh{aside}", evidence=evidence)
    evidence = evidence | {"new_loss": new}
    if not is_warm:
        return Health(state="unknown", sentence=f"unknown: {_not_yet(said, new)}", evidence=evidence)
    why = f"{said}; a retraining brought nothing better than {fresh:.4g}, it was {new:.4g} when new{aside}"
    return Health(state="right", sentence=f"right: {why}", evidence=evidence)


def _not_yet(said: str, new: float) -> str:
    return f"{said}; it was {new:.4g} when new, and a retraining on few rows brought nothing better"


def _of_service(answered: int, evidence: dict[str, Any]) -> Health:
    if not answered:
        return Health(state="unknown", sentence="unknown: nobody asked in the last hour", evidence=evidence)
    said = f"right: {answered:,} rows answered in the last hour, no alarm open"
    return Health(state="right", sentence=said, evidence=evidence | {"answered": answered})


def _of_few(  # noqa: PLR0911 - one return for each thing that may be unknown reads best
    rows: int,
    loss: float | None,
    interval: Sequence[float] | None,
    fresh: float | None,
    few: FewKnown,
    *,
    unsettled: float | None,
    alarms: Sequence[str],
    now: datetime,
    evidence: dict[str, Any],
) -> Health:
    evidence = evidence | few.document()

    def verdict(state: State, why: str) -> Health:
        return Health(state=state, sentence=f"{state}: {why}", evidence=evidence)

    supposed = _supposed(few)
    silent = _silence(few, now)
    when_fresh = "" if fresh is None else f", {fresh:.3g} when fresh"
    if alarms:
        return verdict(
            "harmed", f"{', '.join(alarms)} alarm open" + (f"; loss {loss:.3g} a row" if loss is not None else "")
        )
    if not few.looked:
        why = f"{rows:,} labels of late are too few, and nobody has looked at those of the newest predictions"
        return verdict("unknown", f"{why}; the loop of `staytrue up` does")
    if silent:
        return verdict("unknown", silent + (f"; {supposed}" if supposed else ""))
    if not rows or loss is None or interval is None:
        return verdict("unknown", "no label of these rows came yet" + (f"; {supposed}" if supposed else ""))
    between = f"{interval[0]:.3g} .. {interval[1]:.3g}" if all(map(math.isfinite, interval)) else "no interval yet"
    said = f"loss {loss:.3g} a row ({between}, {rows:,} labels){when_fresh}"
    if fresh is None:
        return verdict("unknown", f"{said}, but too few rows say what it was when fresh")
    if interval[0] > fresh:
        return verdict("harmed", said)
    if few.belief == "refuted":
        return verdict("unknown", f"{said}; {supposed or 'labels speak against what was expected of the answers'}")
    if interval[1] <= fresh + few.tolerance * abs(fresh):
        return verdict("right", said) if unsettled is None else verdict("unknown", _not_yet(said, unsettled))
    return verdict("unknown", f"{said}: too few labels to tell, `staytrue label` says which rows to label next")


def _silence(few: FewKnown, now: datetime) -> str:
    """That no labels come any more; empty while they do."""
    if few.newest_label_at is None:
        return "0 labels were ever seen"
    quiet = now - few.newest_label_at
    return f"0 labels in {quiet / timedelta(days=1):.0f} days" if quiet > few.quiet_after else ""


def _supposed(few: FewKnown) -> str:
    """What the estimate says, and what is to be thought of it."""
    if few.expected is None:
        return ""
    between = few.expected_interval
    bounds = f" ({between[0]:.3g} .. {between[1]:.3g})" if between else ""
    said = f"if only the inputs moved the loss would be {few.expected:.3g}{bounds}"
    if few.belief == "refuted":
        return (
            f"{said}, but {few.late_rows:,} late labels say otherwise"
            if few.late_rows
            else f"{said}, but labels say otherwise"
        )
    return said if few.belief == "believed" else f"{said}, which few labels have put to the test"
