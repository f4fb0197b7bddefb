"""One alpha a year for all alarms of an app, and what it makes of each detector's threshold.

A person sets one number: the probability that a year without trouble has any false alarm. It is divided evenly among
the kinds of alarm in use, and within a kind its detectors (columns, segments, tables) are *averaged*, so their number
costs nothing here; where they can't be averaged, each gets its share (`detectors`).

What it rests on: the evidence of a detector after N looks has an expectation of at most N while nothing is wrong. It can
be below `arl` at every look or not; at the first look T at which it is not, or at N,

    arl * P(T <= N)  <=  E[evidence at min(T, N)]  <=  E[min(T, N)]  <=  N,        so        P(T <= N) <= N / arl.

With arl = looks a year / (share of alpha) a kind alarms falsely in a year with at most its share, and all kinds
together with at most alpha (Bonferroni). Over k years: at most k times that. No independence is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from staytrue.errors import InvalidInput

__all__ = ["ALPHA", "KINDS", "arl"]

ALPHA: Final = 0.05
"""A false alarm in one of twenty years without trouble."""
KINDS: Final = ("harm", "shift", "silence", "fault")
"""What shares an app's alpha. `system` alarms are facts (errors, a server that is down), not inferences."""


def arl(
    kind: str,
    *,
    ticks_per_year: float,
    alpha: float = ALPHA,
    kinds: Sequence[str] = KINDS,
    detectors: int = 1,
) -> float:
    """The threshold of a detector of this kind: the mean number of looks between its false alarms, at least.

    Args:
        kind: one of `kinds`. ticks_per_year: looks a year, above 0: ticks, or blocks for `Harm` (never more than ticks).
        alpha: in (0, 1), of the whole app in a year. kinds: that are in use; they share alpha evenly.
        detectors: of this kind that alarm each on its own (the segments' `Harm`; rows, labels and traffic for `Silence`).
            All columns of one `Shift` are one.

    Raises:
        InvalidInput: ST915, a kind that is not among `kinds`, or a number outside its range.

    Source:
        Shin, Ramdas, Rinaldo, "E-detectors" (NEJSDS 2023), with optional stopping at a fixed horizon.

    Example:
        >>> round(arl("shift", ticks_per_year=365))
        29200
        >>> round(arl("shift", ticks_per_year=365, alpha=0.5, kinds=["shift", "harm"], detectors=2))
        2920
    """
    in_range = math.isfinite(ticks_per_year) and ticks_per_year > 0 and 0 < alpha < 1 and detectors >= 1
    if kind not in kinds or len(set(kinds)) != len(kinds) or not in_range:
        raise InvalidInput(
            "ST915",
            f"Can't give {kind!r} its share of alpha {alpha!r} for {detectors!r} detectors and {ticks_per_year!r} ticks a year: "
            f"expected one of {', '.join(kinds)}, an alpha between 0 and 1, 1 or more detectors, ticks above 0.",
            kind=kind, kinds=list(kinds),
        )  # fmt: skip
    return max(ticks_per_year * len(kinds) * detectors / alpha, 1.0)
