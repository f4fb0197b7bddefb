"""What a trial has shown: a verdict on a challenger, the numbers behind it and a sentence for a person.

A verdict is read off an interval for "loss of the challenger minus loss of the champion" and never off a mean. Missing,
NaN or few numbers are `undecided`, and `undecided` promotes nobody. The chance of a wrong verdict is spent over the app's
whole life (`spend`), so the hundredth challenger meets as honest a gate as the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from staytrue.errors import InvalidInput
from staytrue.kernel.evidence import Differences, Interval, fewest_blocks, interval

__all__ = ["Judgement", "Verdict", "judge", "spend", "verdict"]

Verdict = Literal["better", "not_worse", "worse", "undecided"]

# After k trials 4 / (k + 4) of the budget is left.
_PATIENCE = 4


def verdict(found: Interval, margin: float) -> Verdict:
    """The verdict that an interval allows: `better` (hi < 0), `not_worse` (hi < margin), `worse` (lo > 0), `undecided`.

    Args:
        found: for challenger minus champion, in units of the loss. A NaN in it is undecided.
        margin: how much worse a row still counts as not worse, in units of the loss, 0 or more.

    Raises:
        InvalidInput: ST510, the margin is negative, NaN or infinite.

    Example:
        >>> from staytrue.kernel.evidence import fold
        >>> nothing = interval(Differences.fresh(scale=1), alpha=0.01)
        >>> verdict(nothing, 0.1)
        'undecided'
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise InvalidInput(
            "ST510",
            f"Can't judge with a margin of {margin!r}: it must be 0 or more, in units of the loss.",
            margin=str(margin),
        )
    if math.isnan(found.lo) or math.isnan(found.hi):
        return "undecided"
    if found.hi < 0:
        return "better"
    if found.hi < margin:
        return "not_worse"
    return "worse" if found.lo > 0 else "undecided"


def spend(k: int, alpha: float) -> float:
    """The share of `alpha` that trial number `k` of an app's life may use: alpha * 4 / ((k + 3) (k + 4)).

    After k trials 4 / (k + 4) of alpha is left, so all trials together spend at most alpha. The usual 6 / (pi k)^2
    gives the first trial three times as much and all from the third on less (the 10th .0061 against .022, the 20th
    .0015 against .0072 of alpha), where an app spends its life.

    Args:
        k: 1 for the first trial; trials that were lost count. alpha: in (0, 1), for the app's life.

    Raises:
        InvalidInput: ST511, k below 1; ST512, alpha outside (0, 1).

    Example:
        >>> spend(1, 0.01), round(sum(spend(k, 0.01) for k in range(1, 1000)), 6)
        (0.002, 0.00996)
    """
    if k < 1:
        raise InvalidInput("ST511", f"Can't spend for trial number {k}: the first trial is number 1.", k=k)
    _check_alpha(alpha)
    return alpha * _PATIENCE / ((k + _PATIENCE - 1) * (k + _PATIENCE))


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict with what it rests on.

    Fields:
        interval: for all rows. segment: the segment that refuses, if one does.
        sentence: for a person. evidence: the numbers seen, as JSON (None: not known).
    """

    verdict: Verdict
    interval: Interval
    segment: str | None
    sentence: str
    evidence: dict[str, Any]


def judge(
    overall: Differences,
    segments: Mapping[str, Differences],
    *,
    alpha: float,
    margin: float,
    before: int | None = None,
    tick: str = "day",
) -> Judgement:
    """The verdict on a challenger, overall and per segment; may be asked after every tick.

    Half of alpha goes to all rows together, the other half is split over the segments; without segments all rows have
    it all. A segment can only refuse: `worse` when its loss is surely more than `margin` above the champion's. A
    verdict that the unclipped mean contradicts is held (`undecided`), and so is a good one while a segment seems worse.

    Args:
        overall: all pairs. segments: the pairs of each segment, by name. The names must be known when the trial starts
            (an empty state for those still to come), since each has its share of alpha from the first look on.
        alpha: this trial's budget (`spend`). margin: as for `verdict`.
        before: only ticks below it count; give the open tick's key. tick: what a tick is, for the sentence.

    Raises:
        InvalidInput: ST510, margin; ST512, alpha outside (0, 1).

    Example:
        >>> import numpy as np
        >>> from staytrue.kernel.evidence import fold
        >>> pairs = fold(Differences.fresh(scale=5), np.arange(600) // 50, np.tile([-3.0, 1.0], 300))
        >>> judge(pairs, {}, alpha=0.01, margin=0).sentence
        '600 rows on 12 days: loss -1 a row (-1.04 .. -0.956), better'
    """
    _check_alpha(alpha)
    share = alpha / 2 if segments else alpha
    found = interval(overall, alpha=share, before=before)
    parts = {name: interval(state, alpha=alpha / 2 / len(segments), before=before) for name, state in segments.items()}
    said = verdict(found, margin)
    evidence = {**found.document(), "margin": margin, "segments": {n: p.document() for n, p in parts.items()}}
    refusing = {n: p for n, p in parts.items() if p.lo > margin and p.raw_mean > margin}
    if refusing:
        segment = max(refusing, key=lambda name: refusing[name].lo)
        sentence = f"{_measured(refusing[segment], tick)}, worse in {segment}"
        return Judgement(verdict="worse", interval=found, segment=segment, sentence=sentence, evidence=evidence)
    if said in ("better", "not_worse"):
        harmed = [name for name, state in segments.items() if _seems_harmed(state, margin, before)]
        if harmed:
            sentence = f"{_measured(found, tick)}, but {', '.join(harmed)} seems worse, undecided"
            return Judgement(verdict="undecided", interval=found, segment=None, sentence=sentence, evidence=evidence)
    held = _contradicted(said, found, margin)
    if held:
        sentence = (
            f"{_measured(found, tick)}, but {_short(found.raw_mean)} without clipping "
            f"({found.clipped_share:.1%} of rows are beyond the scale), undecided"
        )
        return Judgement(verdict="undecided", interval=found, segment=None, sentence=sentence, evidence=evidence)
    return Judgement(
        verdict=said,
        interval=found,
        segment=None,
        sentence=_sentence(said, found, overall.rows, tick),
        evidence=evidence,
    )


def _seems_harmed(state: Differences, margin: float, before: int | None) -> bool:
    """Whether a segment's mean lies more than two standard errors beyond the margin, over its ticks as they are now.

    No evidence that may refuse, since it is looked at often; but a segment that is too small to speak yet is waited for.
    """
    rows, losses = state.by_tick(before)
    if rows.size < 2:
        return False
    mean = losses.sum() / rows.sum()
    spread = ((losses - mean * rows) ** 2).sum() * rows.size / (rows.size - 1)
    return bool(mean - 2 * math.sqrt(spread) / rows.sum() > margin)


def _contradicted(said: Verdict, found: Interval, margin: float) -> bool:
    against = {
        "better": found.raw_mean >= 0,
        "not_worse": found.raw_mean >= margin,
        "worse": found.raw_mean <= 0,
        "undecided": False,
    }
    return against[said]


def _sentence(said: Verdict, found: Interval, seen: int, tick: str) -> str:
    if found.enough:
        return f"{_measured(found, tick)}, {said.replace('_', ' ')}"
    fewest = fewest_blocks(found.alpha)
    size = f"{found.block_rows:.0f} " if found.blocks else ""
    needed = f"{found.blocks} of at least {fewest} blocks of {size}rows are full"
    if not found.rows:
        return f"undecided: {seen:,} rows so far, {needed}"
    if found.blocks >= fewest:
        needed = f"neighbouring {tick}s are too much alike to count as {found.blocks} pieces of evidence"
    return f"{_size(found, tick)}: loss {_short(found.mean)} a row so far, undecided: {needed}"


def _measured(found: Interval, tick: str) -> str:
    return f"{_size(found, tick)}: loss {_short(found.mean)} a row ({_short(found.lo)} .. {_short(found.hi)})"


def _size(found: Interval, tick: str) -> str:
    return f"{found.rows:,} rows on {found.ticks:,} {tick}{'' if found.ticks == 1 else 's'}"


def _short(value: float) -> str:
    """Three digits with the sign, spelled out: +1,234, -0.0123."""
    if value == 0 or not math.isfinite(value):
        return f"{value:+g}" if value else "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:+,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise InvalidInput(
            "ST512", f"Can't judge with alpha = {alpha!r}: it must be between 0 and 1.", alpha=str(alpha)
        )
