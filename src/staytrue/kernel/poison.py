"""Which new rows are mislabelled, as the champion's experience tells, before anything is trained on them.

Rows whose labels were flipped, shuffled or swapped look usual: only whoever learned what goes with what can tell. Two things
are looked at. *Loss*: the champion is wrong far more often than in any part before. *Agreement*: its answers do not even go
along with the labels. Drift raises the loss too, but leaves agreement, which is over ranks: all prices higher by half still
have their order. So a part is held when both break, at once. Real change that breaks both lasts: after `MOST_HELD` parts in a
row that look the same it is drift, and they are let go.

Labels that are wrong in one group of rows only (keys that begin alike, a value of a segment) are too few in any part. Their
losses are ranked among those of all other rows of the same part, which takes away what the whole part has in common, and the
evidence runs on from part to part.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from staytrue.errors import InvalidInput

__all__ = [
    "MOST_HELD",
    "Agreement",
    "Experience",
    "Finding",
    "Suspicion",
    "Verdict",
    "agreement",
    "judge_groups",
    "judge_part",
    "key_prefix",
    "key_prefixes",
    "skill",
]

Floats: TypeAlias = NDArray[np.float64]
Verdict: TypeAlias = Literal["clean", "suspect", "quarantine"]

MOST_HELD: Final = 5
"""Parts in a row that are held; when one more looks the same it is drift."""

FEWEST_ROWS: Final = 10
"""Labelled rows below which a part is not judged by itself."""

_FEWEST_PARTS: Final = 8
_REMEMBERED: Final = 100


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is said of a part, or of a group of its rows.

    `expected` and `seen` are mean losses a row; `agreed` is the mean agreement, `usual` what it was before (of a group: what it
    is in all other rows of the same parts). `rows` are those judged, `share` their part of all rows.
    """

    verdict: Verdict
    why: str
    rows: int
    share: float
    expected: float | None = None
    seen: float | None = None
    agreed: float | None = None
    usual: float | None = None
    group: str | None = None

    def document(self) -> dict[str, Any]:
        """As JSON, numbers to six digits."""
        return {n: float(f"{v:.6g}") if isinstance(v, float) else v for n, v in asdict(self).items() if v is not None}


@dataclass(frozen=True, kw_only=True)
class Experience:
    """Mean loss and mean agreement of the newest parts that were let in, oldest first; nothing was trained on them before."""

    losses: tuple[float, ...] = ()
    agreements: tuple[float, ...] = ()

    def after(self, loss: float, agreed: float) -> Experience:
        """With one more part."""
        return Experience(
            losses=(*self.losses, loss)[-_REMEMBERED:], agreements=(*self.agreements, agreed)[-_REMEMBERED:]
        )

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"losses": list(self.losses), "agreements": list(self.agreements)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Experience:
        """The experience that `document` made."""
        return cls(losses=tuple(document["losses"]), agreements=tuple(document["agreements"]))


# ---------------------------------------------------------------- agreement


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far answers go along with labels: both as standard scores (n,), a row's share in it their product."""

    answers: Floats
    labels: Floats

    @property
    def rows(self) -> Floats:
        """(n,) each row's share; the mean says how far all of them agree, 1 at most."""
        return self.answers * self.labels

    def at(self, which: NDArray[np.bool_]) -> Agreement:
        """Of these rows only: (n,) which."""
        return Agreement(answers=self.answers[which], labels=self.labels[which])


def agreement(answers: Sequence[Any], labels: Sequence[Any]) -> Agreement | None:
    """How far each answer goes along with its label, by ranks among all of them: the mean is Spearman's rho.

    None where answers or labels are no numbers. All zero where one of them is constant: then nothing can be told.

    Example:
        >>> [float(agreement([1, 2, 9], labels).rows.mean().round(9)) for labels in ([10, 20, 30], [3, 2, 1])]
        [1.0, -1.0]
    """
    a, y = _numbers(answers), _numbers(labels)
    if a is None or y is None or a.shape != y.shape:
        return None
    return Agreement(answers=_standard(a), labels=_standard(y))


def skill(losses: Floats, shuffled: Floats) -> Agreement:
    """Agreement from losses alone: 1 for no loss, 0 on average for answers that know nothing of the labels.

    Args:
        shuffled: (n,) what each label costs with the answers of other rows.

    Example:
        >>> skill(np.array([0.0, 1.0]), np.array([0.5, 0.5])).rows.tolist()
        [1.0, -1.0]
    """
    losses, shuffled = _checked(losses), _checked(shuffled)
    usual = float(shuffled.mean()) if len(shuffled) else 0.0
    scores = np.clip(1.0 - losses / usual, -3.0, 1.0) if usual > 0 else np.zeros(len(losses))
    return Agreement(answers=scores, labels=np.ones(len(losses)))


def _numbers(values: Sequence[Any]) -> Floats | None:
    try:
        found = np.asarray(values)
        if found.ndim != 1 or found.dtype.kind not in "biuf":
            return None
        made = found.astype(np.float64)
    except (TypeError, ValueError):
        return None
    return made if bool(np.isfinite(made).all()) else None


def _standard(values: Floats) -> Floats:
    ranks = _ranks(values)
    spread = float(ranks.std()) if len(ranks) else 0.0
    return (ranks - ranks.mean()) / spread if spread > 0 else np.zeros(len(ranks))


def _ranks(values: Floats) -> Floats:
    """(n,) from 0; equal values have their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    made: Floats = (last - (counts + 1) / 2.0)[inverse]
    return made


# ---------------------------------------------------------------- parts


def judge_part(experience: Experience, losses: Floats, agreed: Agreement | None) -> Finding:
    """Whether a part as a whole is to be trained on.

    Args:
        experience: of parts before.
        losses: (n,) the champion's, one a labelled row; it was not trained on them.
        agreed: of n rows, as `agreement` or `skill` give it; None: unknown, and then nothing is held.

    Raises:
        InvalidInput: ST939, a loss that is not finite, or arrays of other lengths.

    Example:
        >>> past = Experience(losses=(0.2,) * 20, agreements=(0.6,) * 20)
        >>> labels = np.arange(50)
        >>> judge_part(past, np.full(50, 0.8), agreement(-labels, labels)).verdict
        'quarantine'
        >>> judge_part(past, np.full(50, 0.8), agreement(labels, labels)).verdict
        'suspect'
    """
    losses = _checked(losses)
    rows = len(losses)
    if rows < FEWEST_ROWS or len(experience.losses) < _FEWEST_PARTS:
        few = f"{rows} rows" if rows < FEWEST_ROWS else f"{len(experience.losses)} parts before"
        return Finding(verdict="clean", why=f"not judged: {few} are too few", rows=rows, share=1.0)
    past, seen = np.array(experience.losses), float(losses.mean())
    made = Finding(verdict="clean", why="as usual", rows=rows, share=1.0, expected=float(np.median(past)), seen=seen)
    far = seen > float(np.quantile(past, 0.95)) and seen > 1.3 * float(np.median(past))
    beyond = seen > float(past.max()) + 2 * float(losses.std()) / math.sqrt(rows)
    if agreed is None:
        return replace(made, verdict="suspect", why=_LOSS_ONLY) if beyond else made
    before, now = np.array(experience.agreements), float(_checked(agreed.rows, rows).mean())
    usual = float(np.median(before))
    made = replace(made, agreed=now, usual=usual)
    wide = 1.4826 * float(np.median(np.abs(before - usual)))
    error = (1 - min(now**2, 1.0)) / math.sqrt(rows - 1)
    apart = (usual - now) / max(math.hypot(wide, error), 0.01)
    lowest = now < float(before.min())
    unlike = now <= min(usual / 3, 2 / math.sqrt(rows)) and usual - now >= _REVERSED and apart >= _APART
    if lowest and far and unlike:
        against = "go against the labels" if now < 0 else "have nothing to do with the labels"
        return replace(made, verdict="quarantine", why=f"the champion's answers {against}")
    if lowest and beyond and apart >= _FAR_APART:
        return replace(made, verdict="quarantine", why="many labels do not go with the champion's answers")
    if beyond:
        return replace(made, verdict="suspect", why=_LOSS_ONLY)
    return made


_LOSS_ONLY: Final = "the champion loses more than in any part before, but its answers still go with the labels"
# A champion whose answers hardly went with the labels before (elec2 in autumn: 0.3) can't tell wrong labels from drift.
_REVERSED: Final = 0.4
_APART: Final = 1.5
_FAR_APART: Final = 4.0


# ---------------------------------------------------------------- groups


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """The evidence against a group since it began to grow, all of it sums.

    `since` is the part in which it began, `wealth` the logarithm of what was won by betting that its rows lose more than the
    others of their part; `all_rows` counts the rows of these parts, `seen` those of the group since it was first met.
    """

    since: str
    wealth: float = 0.0
    rows: int = 0
    all_rows: int = 0
    lost: float = 0.0
    others_lost: float = 0.0
    moments: tuple[float, ...] = (0.0,) * 5
    """Of its rows' standard scores: sums of answers, labels, their squares, their products."""
    others_agreed: float = 0.0
    seen: int = 0

    @property
    def agreed(self) -> float:
        """Correlation of answers and labels inside the group: where it lies among all other rows has no part in it."""
        a, y, aa, yy, ay = (total / self.rows for total in self.moments)
        spread = math.sqrt(max(aa - a * a, 0.0) * max(yy - y * y, 0.0))
        return (ay - a * y) / spread if spread > _NO_SPREAD else ay

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"moments": list(self.moments)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Suspicion:
        """The suspicion that `document` made."""
        return cls(**{**document, "moments": tuple(document["moments"])})


_NO_SPREAD: Final = 1e-9


def judge_groups(
    suspicions: Mapping[str, Suspicion],
    losses: Floats,
    agreed: Agreement | None,
    groups: Mapping[str, NDArray[np.bool_]],
    part: str,
) -> tuple[dict[str, Suspicion], list[Finding]]:
    """The suspicions after one more part, and the groups that are held for it.

    A row's loss is ranked among those of the rows outside its group: u in [0, 1], and 1/2 on average where the group is like
    the others. The bet is on u above 0.55, so a group that is a little harder than the others earns nothing; its wealth exceeds
    1,000 at any time with probability at most 1/1,000, and is begun anew when it falls below 1. A group with that much is held
    when its answers do not go with its labels, while those of the others do.

    Args:
        suspicions: group -> what is known of it; new groups are added, the least seen forgotten beyond 64.
        losses, agreed: as for `judge_part`.
        groups: group -> (n,) which rows are in it. Those with more than a third of the rows are left out: then it is not
            a group that is wrong.
        part: names the part.

    Raises:
        InvalidInput: ST939, as `judge_part`.

    Source:
        Ville's inequality on a product of bets, as in Waudby-Smith and Ramdas, JRSS B 86 (2024); begun anew as an e-detector,
        Shin, Ramdas and Rinaldo, "E-detectors", NEJSDS 2 (2024).
    """
    losses = _checked(losses)
    if agreed is None:
        agreed = Agreement(answers=np.zeros(len(losses)), labels=np.zeros(len(losses)))
    _checked(agreed.rows, len(losses))
    known = dict(suspicions)
    found: list[Finding] = []
    for name, mask in groups.items():
        inside = int(mask.sum())
        if not inside or 3 * inside > len(losses):
            continue
        after = _suspected(known.get(name) or Suspicion(since=part), losses, agreed, mask, part)
        known[name] = after
        finding = _of_group(name, after)
        if finding is not None:
            found.append(finding)
    kept = sorted(known.items(), key=lambda item: (-item[1].seen, item[0]))[:_MOST_GROUPS]
    return dict(kept), found


_USUAL_RANK: Final = 0.55
_BET: Final = 1.5
_ENOUGH: Final = math.log(1000)
_MOST_GROUPS: Final = 64
_FEWEST_IN_GROUP: Final = 8


def _suspected(before: Suspicion, losses: Floats, agreed: Agreement, mask: NDArray[np.bool_], part: str) -> Suspicion:
    mine, others = losses[mask], losses[~mask]
    ordered = np.sort(others)
    below, upto = np.searchsorted(ordered, mine, "left"), np.searchsorted(ordered, mine, "right")
    ranks = (below + upto) / (2 * len(others))
    # With a limit, so that a group whose labels are right again is soon known to be.
    wealth = min(before.wealth + float(np.log1p(_BET * (ranks - _USUAL_RANK)).sum()), 2 * _ENOUGH)
    seen = before.seen + len(mine)
    if wealth <= 0:
        return Suspicion(since="", seen=seen)
    a, y = agreed.answers[mask], agreed.labels[mask]
    return Suspicion(
        since=before.since or part,
        wealth=wealth,
        rows=before.rows + len(mine),
        all_rows=before.all_rows + len(losses),
        lost=before.lost + float(mine.sum()),
        others_lost=before.others_lost + float(others.sum()),
        moments=tuple(
            old + float(new.sum()) for old, new in zip(before.moments, (a, y, a * a, y * y, a * y), strict=True)
        ),
        others_agreed=before.others_agreed + float(agreed.rows[~mask].sum()),
        seen=seen,
    )


def _of_group(name: str, one: Suspicion) -> Finding | None:
    if one.wealth < _ENOUGH or one.rows < _FEWEST_IN_GROUP:
        return None
    others = one.all_rows - one.rows
    now, usual = one.agreed, one.others_agreed / others
    made = Finding(
        verdict="suspect",
        why="the champion loses far more on these rows than on the others, but its answers still go with their labels",
        rows=one.rows,
        share=one.rows / one.all_rows,
        expected=one.others_lost / others,
        seen=one.lost / one.rows,
        agreed=now,
        usual=usual,
        group=name,
    )
    # With its error: of ten rows any correlation may come out as nothing.
    if usual < _INFORMED or now + 2 / math.sqrt(one.rows) > usual / 2:
        return made
    # Group bookings of hotel_rates are priced by hand: at times nothing goes with their rates, which are 1.7 times as far off.
    if now > -usual / 2 and made.seen is not None and made.seen < _EXPLODED * (made.expected or 0.0):
        return made
    against = "go against" if now < 0 else "have nothing to do with"
    return replace(made, verdict="quarantine", why=f"the champion's answers {against} their labels")


_INFORMED: Final = 0.1
_EXPLODED: Final = 2.0

_SEPARATOR: Final = re.compile(r"[-_:/.|@#]")
_LETTERS: Final = re.compile(r"[^\W\d_]+(?=\d)")
_MOST_PREFIXES: Final = 32


def key_prefixes(keys: Sequence[Any], known: Mapping[str, Any] | Sequence[str] = ()) -> dict[str, NDArray[np.bool_]]:
    """Prefix -> (n,) which keys begin with it: up to a first separator (`shop7-123`), or its letters (`DE123`).

    At most 32 that two keys share, and those `known` already. Numbers and keys without such a beginning are in no group.

    Example:
        >>> {name: mask.tolist() for name, mask in key_prefixes(["bot-1", "bot-2", "web-3", 7]).items()}
        {'bot-': [True, True, False, False]}
    """
    begins = np.array([key_prefix(key) for key in keys], dtype=object)
    counts = Counter(one for one in begins.tolist() if one)
    often = sorted((name for name, n in counts.items() if n > 1), key=lambda name: (-counts[name], name))
    named = dict.fromkeys([*often[:_MOST_PREFIXES], *(name for name in known if name in counts)])
    return {name: begins == name for name in named}


def key_prefix(key: Any) -> str:
    """What a key begins with, as `key_prefixes` takes it; empty for none."""
    if not isinstance(key, str):
        return ""
    cut = _SEPARATOR.search(key, 1)
    if cut:
        return key[: cut.end()]
    letters = _LETTERS.match(key)
    return letters.group() if letters else ""


def _checked(values: Floats, rows: int | None = None) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or (rows is not None and len(found) != rows) or not bool(np.isfinite(found).all()):
        raise InvalidInput(
            "ST939",
            f"Can't judge labels by an array of shape {found.shape}: expected {'n' if rows is None else rows} finite numbers, "
            "one a row. Leave out rows that have no loss.",
            shape=list(found.shape),
        )
    return found
