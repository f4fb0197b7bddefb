"""Culprit: which part or which commit it was, inside an axis that is to blame."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Suspect", "first_bad", "suspects"]


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

    The model that was good is the best free inspector of new data: its loss found flipped labels, other units and lost
    classes at once where training without each part took one training a part (staytrue's own measurement, 32 parts).

    Args:
        losses: for each part (n,) what the good release loses on its rows.

    Example:
        >>> rng = np.random.default_rng(3)
        >>> parts = [rng.exponential(size=250) for _ in range(32)]
        >>> parts[20] = parts[20] + 1
        >>> worst = suspects(parts)[0]
        >>> worst.index, worst.clear, suspects(parts[:20])[0].clear
        (20, True, False)
    """
    kept = [(index, np.asarray(each, dtype=np.float64)) for index, each in enumerate(losses) if len(each)]
    if not kept:
        return []
    means = np.array([each.mean() for _, each in kept])
    rows = np.array([len(each) for _, each in kept])
    # One spread for all: the few rows of a small part say little of their own. Robust, or the bad part would hide itself.
    within = float(np.median([each.std() for _, each in kept]))
    middle = float(np.median(means))
    noise = within**2 / rows
    scaled = 1.4826 * float(np.median(np.abs(means - middle)))
    between = max(0.0, scaled**2 - float(np.median(noise)))
    deviations = (means - middle) / np.maximum(np.sqrt(noise + between), 1e-300)
    # The largest of so many draws of a t distribution with few degrees of freedom is easily 3: 4 and more is something else.
    limit = 3.0 + math.log10(len(kept))
    order = np.argsort(-deviations, kind="stable")
    return [
        Suspect(
            index=kept[i][0],
            loss=float(means[i]),
            deviations=float(deviations[i]),
            clear=bool(deviations[i] > limit and len(kept) >= 4),
        )
        for i in order
    ]


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
