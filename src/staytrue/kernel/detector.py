"""A detector that may be read for years: is this more extreme than what came before, and since when?

It knows only ranks. While windows are alike (exchangeable as whole windows: rows within one may depend on each other as
they like), the rank of the newest among those before it is uniform and independent of all earlier ranks, whatever the
distribution; so a bet on "it ranks high" is fair, and `evidence` is an e-detector (Shiryaev-Roberts form): the sum, over
every window at which a change may have begun, of the bets won since. Its expectation after N windows is at most N, hence

    P(evidence ever reaches arl within N windows) <= N / arl,

for any arl, N and stream, and the same holds for any average of detectors, however they depend on each other. It
restarts by itself: after a quiet year it is as fast as after a quiet month.

What it costs: nothing that assumes only likeness can be sure sooner than after k windows where n + k choose k reaches
the bound. With 60 windows before the change and a bound of two million that is 5 windows, with 200 it is 4.

Windows are told apart as *calm* (like those before) and *suspect* (since evidence speaks for a change). The bet is on
ranking above the calm ones, so that a change does not hide behind its own first windows; that the suspect ones were
seen is in its price, so this costs no validity.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import InvalidInput

__all__ = ["PATIENCE", "Detector", "calmed", "kept", "seen", "settled"]

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# 160 windows are five months of days: longer memories give more evidence a window, and forget a season less.
_CALM: Final = 160
PATIENCE: Final = 64
"""Suspicion ends after so many windows if no alarm came of it: its price is right only while all of them are remembered."""
# Among fewer calm windows a rank says nothing: no bet is made, and no evidence begins.
_FEWEST: Final = 3
# A bet pays (1 + how many calm windows are at least as extreme) ** -1.5. Of 1, 1.5, 2 and mixtures, 1.5 found shifts of
# .1 to .5 sd within a window of the best everywhere (benchmarks/alarms.py has the delays).
_POWER: Final = 1.5
_MOST: Final = 1e100
_PAYS: Floats = np.arange(1.0, _CALM + 2) ** -_POWER
_PRICES: Floats = np.cumsum(_PAYS)


@dataclass(frozen=True, kw_only=True, eq=False)
class Detector:
    """The state for several series at once. Start with `Detector.fresh(series)`.

    Fields:
        calm: (series, 160) scores of calm windows, a ring; 0 is an empty place. suspect: (series, 64) likewise.
        calm_n, suspect_n: (series,) how many were put in. evidence: (series,). peak: (series,) the bets won since the
            likeliest beginning. since: (series,) tick of that beginning, -1 for none. extreme: (series,) whether the
            newest window spoke for a change.
    """

    calm: Bytes
    suspect: Bytes
    calm_n: Ints
    suspect_n: Ints
    evidence: Floats
    peak: Floats
    since: Ints
    extreme: Bools

    @classmethod
    def fresh(cls, series: int) -> Self:
        """Nothing seen, no evidence.

        Example:
            >>> Detector.fresh(2).evidence.tolist()
            [0.0, 0.0]
        """
        return cls(
            calm=np.zeros((series, _CALM), np.uint8),
            suspect=np.zeros((series, PATIENCE), np.uint8),
            calm_n=np.zeros(series, np.int64),
            suspect_n=np.zeros(series, np.int64),
            evidence=np.zeros(series),
            peak=np.zeros(series),
            since=np.full(series, -1, np.int64),
            extreme=np.zeros(series, np.bool_),
        )

    def document(self) -> dict[str, Any]:
        """Plain JSON from which `from_document` makes an equal state; about 400 bytes a series when full."""
        return {
            "calm": [_text(line, n) for line, n in zip(self.calm, self.calm_n, strict=True)],
            "suspect": [_text(line, n) for line, n in zip(self.suspect, self.suspect_n, strict=True)],
            "calm_n": self.calm_n.tolist(),
            "suspect_n": self.suspect_n.tolist(),
            "evidence": self.evidence.tolist(),
            "peak": self.peak.tolist(),
            "since": self.since.tolist(),
            "extreme": self.extreme.tolist(),
        }

    @classmethod
    def from_document(cls, document: dict[str, Any], series: int) -> Self:
        """The state of so many series that `document()` wrote; ST910 when it is not one."""
        try:
            state = cls(
                calm=np.stack([_bytes(text, _CALM) for text in document["calm"]]),
                suspect=np.stack([_bytes(text, PATIENCE) for text in document["suspect"]]),
                calm_n=np.array(document["calm_n"], np.int64),
                suspect_n=np.array(document["suspect_n"], np.int64),
                evidence=np.array(document["evidence"], np.float64),
                peak=np.array(document["peak"], np.float64),
                since=np.array(document["since"], np.int64),
                extreme=np.array(document["extreme"], np.bool_),
            )
        except (KeyError, TypeError, ValueError, OverflowError, binascii.Error) as exc:
            raise _unreadable(exc) from exc
        if any(len(getattr(state, name)) != series for name in cls.__dataclass_fields__):
            raise _unreadable(f"not every field has {series} entries")
        return state


def seen(detector: Detector, tick: int, scores: Bytes) -> Detector:
    """The detector with the evidence of one more window of each series; `kept` puts the window into its memory.

    Args:
        tick: of the window; `since` is one of these.
        scores: (series,) how extreme the window is, 1 to 255; 0: this series had none. Ties count against the change.

    Source:
        Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World" (2005), on the independence of online ranks;
        Shin, Ramdas, Rinaldo, "E-detectors" (NEJSDS 2023), on sums that restart.

    Example:
        >>> rng, no = np.random.default_rng(0), np.zeros(1, bool)
        >>> calm = Detector.fresh(1)
        >>> for tick, score in enumerate(rng.integers(50, 100, (100, 1)).astype(np.uint8)):
        ...     calm = kept(seen(calm, tick, score), score, no)
        >>> risen, high = calm, np.array([200], np.uint8)
        >>> for tick in (100, 101, 102):
        ...     risen = kept(seen(risen, tick, high), high, ~no)
        >>> bool(calm.evidence[0] < 20), bool(risen.evidence[0] > 10_000), int(risen.since[0])
        (True, True, 100)
    """
    bets = _bets(detector, scores)
    there = (scores > 0) & (detector.calm_n >= _FEWEST)
    return replace(
        detector,
        evidence=np.where(there, np.minimum((detector.evidence + 1) * bets, _MOST), detector.evidence),
        peak=np.where(there, np.minimum(np.maximum(detector.peak, 1.0) * bets, _MOST), detector.peak),
        since=np.where(there & (detector.peak <= 1), np.where(bets > 1, tick, -1), detector.since),
        extreme=np.where(there, bets > 1, detector.extreme),
    )


def kept(detector: Detector, scores: Bytes, is_suspect: Bools) -> Detector:
    """The detector with the window in its memory: (series,) among the suspect or the calm ones; a score of 0 nowhere."""
    calm, calm_n = _put(detector.calm, detector.calm_n, scores, (scores > 0) & ~is_suspect)
    suspect, suspect_n = _put(detector.suspect, detector.suspect_n, scores, (scores > 0) & is_suspect)
    return replace(detector, calm=calm, calm_n=calm_n, suspect=suspect, suspect_n=suspect_n)


def calmed(detector: Detector, which: Bools) -> Detector:
    """Suspicion was wrong: the suspect windows of these series are calm ones."""
    lines = np.flatnonzero(which & (detector.suspect_n > 0))
    if not lines.size:
        return detector
    calm, calm_n = detector.calm.copy(), detector.calm_n.copy()
    for line in lines.tolist():
        scores = detector.suspect[line][detector.suspect[line] > 0]
        calm[line, (calm_n[line] + np.arange(scores.size)) % _CALM] = scores
        calm_n[line] += scores.size
    return _without_suspects(replace(detector, calm=calm, calm_n=calm_n), which)


def settled(detector: Detector, which: Bools) -> Detector:
    """The change is over: its windows are forgotten, the calm ones before it count, and evidence begins anew."""
    if not which.any():
        return detector
    return replace(
        _without_suspects(detector, which),
        evidence=np.where(which, 0.0, detector.evidence),
        peak=np.where(which, 0.0, detector.peak),
        since=np.where(which, -1, detector.since),
    )


def _bets(detector: Detector, scores: Bytes) -> Floats:
    """(series,) e-values: what the rank pays over what it pays on average over all ranks that are possible now."""
    calm = np.minimum(detector.calm_n, _CALM)
    above = np.count_nonzero(detector.calm >= scores[:, None], axis=1)
    price, held = _PRICES[calm], np.minimum(detector.suspect_n, PATIENCE)
    lines = np.flatnonzero(held)
    if lines.size:
        suspects = detector.suspect[lines]
        ranks = np.count_nonzero(detector.calm[lines, None, :] >= suspects[:, :, None], axis=2)
        price = price.copy()
        price[lines] += np.where(suspects > 0, _PAYS[ranks], 0.0).sum(axis=1)
    fair: Floats = _PAYS[above] * (calm + held + 1) / price
    return fair


def _put(ring: Bytes, count: Ints, scores: Bytes, which: Bools) -> tuple[Bytes, Ints]:
    lines = np.flatnonzero(which)
    if not lines.size:
        return ring, count
    ring = ring.copy()
    ring[lines, count[lines] % ring.shape[1]] = scores[lines]
    return ring, count + which


def _without_suspects(detector: Detector, which: Bools) -> Detector:
    suspect = np.where(which[:, None], np.uint8(0), detector.suspect)
    return replace(detector, suspect=suspect, suspect_n=np.where(which, 0, detector.suspect_n))


def _text(line: Bytes, n: int) -> str:
    return base64.b64encode(line[: min(int(n), line.size)].tobytes()).decode()


def _bytes(text: str, places: int) -> Bytes:
    filled = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    line = np.zeros(places, np.uint8)
    line[: filled.size] = filled  # a longer one than there are places is a ValueError
    return line


def _unreadable(why: object) -> InvalidInput:
    return InvalidInput("ST910", f"Can't read a detector from a document: {why}. Expected what `document()` wrote.")
