"""Culprit: which part or which commit it was, inside an axis that is to blame."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from staytrue.errors import InvalidInput
from staytrue.kernel.gain import student

__all__ = ["Suspect", "first_bad", "suspects"]

_CUT_OFF: Final = 0.95
_NEIGHBOURS: Final = 6
"""On each side."""
_FEWEST_PARTS: Final = 4
_HEAVY: Final = 1.5
"""Parts of real rows differ by more than Gaussian ones (`make bench-blame`)."""


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A part, by how much it stands out: `loss` a row, and how many standard deviations that is above the other parts."""

    index: int
    loss: float
    deviations: float
    clear: bool
    """Whether it stands out so much that nothing has to be trained to know it."""


def suspects(losses: Sequence[np.ndarray]) -> list[Suspect]:
    """Parts by how badly a model that never saw them answers them, the worst first; empty parts are left out.

    The model that was good is the best free inspector of new data: its loss finds turned labels and lost values at once,
    where training without each part takes one training a part. A corruption that it answers as well as before (another
    unit of a column that it hardly reads) it can't see.

    A part is compared with all others and with its neighbours, for time moves all of them, and by losses that are cut off at
    the highest twentieth: a handful of wild rows is no bad part (`make bench-blame`: by plain means, most sets of 32 clean
    parts had one that seemed to stand out, this way hardly any).

    Args:
        losses: for each part, oldest first, (n,) what the good release loses on its rows.

    Raises:
        InvalidInput: ST996, a loss is no finite number.

    Example:
        >>> rng = np.random.default_rng(3)
        >>> parts = [rng.exponential(size=250) for _ in range(32)]
        >>> parts[20] = parts[20] + 1
        >>> worst = suspects(parts)[0]
        >>> worst.index, worst.clear, suspects(parts[:20])[0].clear
        (20, True, False)
    """
    kept = [(index, np.asarray(each, dtype=np.float64)) for index, each in enumerate(losses) if len(each)]
    for index, each in kept:
        if not np.isfinite(each).all():
            msg = f"Looking for the bad part: part {index} has a loss that is NaN or infinite. Leave rows without a label out."
            raise InvalidInput("ST996", msg, part=index)
    if not kept:
        return []
    deviations = _deviations([each for _, each in kept])
    limit = _limit(len(kept))
    return [
        Suspect(
            index=kept[i][0],
            loss=float(kept[i][1].mean()),
            deviations=float(deviations[i]),
            clear=bool(deviations[i] > limit),
        )
        for i in np.argsort(-deviations, kind="stable")
    ]


def _deviations(parts: Sequence[np.ndarray]) -> np.ndarray:
    """How far each part is above all of them or above its neighbours, whichever is more, in standard deviations."""
    most = float(np.quantile(np.concatenate(parts), _CUT_OFF))
    cut = [np.minimum(each, most) for each in parts]
    means = np.array([each.mean() for each in cut])
    noise = float(np.median([each.var() for each in cut])) / np.array([len(each) for each in cut])
    # Of all: a feed that was wrong for a third of the parts has bad neighbours. By medians, or they would hide themselves.
    of_all = means - np.median(means)
    usual = (1.4826 * float(np.median(np.abs(of_all)))) ** 2 - float(np.median(noise))
    # Of its neighbours: where time moves all parts, a bad one among them stands out from them only.
    near = means - np.array([np.median(_beside(means, i)) for i in range(len(means))])
    near -= np.median(near)
    others = np.delete(np.arange(len(parts)), np.argmax(near))
    usual_near = float(near[others].var() - noise[others].mean()) if len(others) else 0.0
    furthest: np.ndarray = np.maximum(_over(of_all, usual, noise), _over(near, usual_near, noise))
    return furthest


def _over(above: np.ndarray, usual: float, noise: np.ndarray) -> np.ndarray:
    """In standard deviations: what parts differ by beyond their rows' noise is the same for large and small ones."""
    spread = np.sqrt(max(0.0, usual) + noise)
    found: np.ndarray = np.divide(above, spread, out=np.where(above > 0, np.inf, 0.0), where=spread > 0)
    return found


def _beside(means: np.ndarray, i: int) -> np.ndarray:
    near = np.delete(np.arange(len(means)), i)
    near = near[np.abs(near - i) <= _NEIGHBOURS]
    return means[near] if len(near) else means


def _limit(parts: int) -> float:
    """The worst of so many clean parts rarely stands out more: Student's quantile, and the factor that real parts need."""
    return _HEAVY * student(1 - 0.05 / parts, parts - 2) if parts >= _FEWEST_PARTS else math.inf


def first_bad(steps: int) -> Generator[int, bool | None, tuple[int, int]]:
    """Bisect: of steps 1 .. `steps`, the first after which it is bad; before step 1 it is good, after the last one bad.

    Yields:
        a step to look at. It is to be sent True (bad), False (good), or None: it does not run, so another one is asked for.

    Returns:
        (a, b): the first bad one is among a .. b; a == b where it is found.

    Example:
        >>> search = first_bad(16)
        >>> step, asked = next(search), []
        >>> while True:
        ...     asked.append(step)
        ...     try: step = search.send(step >= 11)
        ...     except StopIteration as stop: print(stop.value, asked); break
        (11, 11) [8, 12, 10, 11]
    """
    good, bad, dark = 0, steps, set[int]()
    while True:
        open_ = [step for step in range(good + 1, bad) if step not in dark]
        if not open_:
            return good + 1, bad
        middle = (good + bad) // 2
        step = min(open_, key=lambda at: (abs(at - middle), at))
        is_bad = yield step
        if is_bad is None:
            dark.add(step)
        elif is_bad:
            bad = step
        else:
            good = step
