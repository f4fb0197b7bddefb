"""The contract of a source: what must hold of a fetched window before anything is trained on it or judged by it.

Owns the order of the checks. The contract is not written by hand: the first window sets the columns and types, and the
windows since then say what is usual (`kernel/terms.py`, where a person may set it otherwise). A breach that is marked
`refuse` puts the window into quarantine; the champion stays. Bad data is worse than late data, but a contract that
cries wolf is switched off, so a check that rests on what is usual asks for a wide margin. The margins were set on
hotel_rates and elec2, of which no day is refused (tests/unit/kernel/test_contract.py); other data may see a false
refusal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from staytrue.kernel.checks import feed, form, leaks, shape, values
from staytrue.kernel.checks.case import Case
from staytrue.kernel.checks.shape import strangeness
from staytrue.kernel.sketch import Sketch, kind_of, sketch
from staytrue.kernel.source import Breach, Column, Schema, SourceSpec, Window, list_item, micros, settled
from staytrue.kernel.terms import ColumnTerms, Contract, WindowTerms, learned
from staytrue.kernel.usual import Usual, usual

__all__ = [
    "Breach",
    "Column",
    "ColumnTerms",
    "Contract",
    "Schema",
    "SourceSpec",
    "Usual",
    "WindowTerms",
    "check",
    "learned",
    "list_item",
    "micros",
    "settled",
    "usual",
]


def check(  # noqa: PLR0917 (source, window and rows as they come; a caller's contract last)
    spec: SourceSpec,
    window: Window,
    columns: Mapping[str, Column],
    schema: Schema | None,
    history: Sequence[Usual],
    contract: Contract | None = None,
    *,
    seen: Collection[Any] = frozenset(),
) -> list[Breach]:
    """What is wrong with one fetched window; an empty list when nothing is.

    A window without rows is well, if its columns are right or it has none.

    Args:
        spec: the source.
        window: `since` and `until`, aware; the rows must have since <= time < until (a snapshot's need not).
        columns: what came, by name, each of the same length.
        schema: of the table so far; None for the first window, which sets it.
        history: the windows before, oldest first; the newest 90 or so are enough.
        contract: what people pinned and switched off; None when nobody did. What nobody pinned is learned from
            `history` again.
        seen: keys of the newest parts, as `Column.values` has them, those of this very window left out: a key that
            comes again is a breach. Empty: not looked at.

    Returns:
        Breaches, those about columns first. Where a column that is asked for is missing the later checks of it are left
        out.

    Example:
        >>> from datetime import UTC, datetime
        >>> import numpy as np
        >>> spec = SourceSpec(name="sales", time="at", key="id")
        >>> window = (datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
        >>> ids = Column(type="int64", values=np.array([7, 7]), valid=np.ones(2, bool))
        >>> at = Column(type="timestamp[UTC]", values=np.full(2, micros(window[0])), valid=np.ones(2, bool))
        >>> [breach.sentence for breach in check(spec, window, {"id": ids, "at": at}, None, [])]
        ["1 row repeats a key: 'id' = 7 comes 2 times."]
    """
    if not columns:
        return []
    rows = len(next(iter(columns.values())).valid)
    past = [one for one in history if one.rows and not _same_window(spec, window, one)]
    fresh = learned(spec, schema, past)
    case = Case(
        spec=spec,
        window=window,
        columns=columns,
        schema=schema,
        now=usual(rows, _sketches(spec, columns)) if rows else Usual(rows=0, nulls={}),
        past=past,
        terms=fresh if contract is None else contract.moved_on(fresh),
        seen=seen,
    )
    found = [*form.columns(case)]
    if rows:
        found += [*form.keys(case), *form.times(case), *form.labels(case), *_against_usual(case)]
    return _ordered([breach for breach in found if not case.terms.ignores(breach.code, breach.column)])


def _same_window(spec: SourceSpec, window: Window, one: Usual) -> bool:
    """Whether these are the rows of the window itself, which was fetched before: it is no past of its own."""
    span = one.spans.get(spec.time or "")
    return not spec.snapshot and span is not None and micros(window[0]) <= span[0] and span[1] < micros(window[1])


def _sketches(spec: SourceSpec, columns: Mapping[str, Column]) -> dict[str, Sketch]:
    return {
        name: sketch(column.values, column.valid, kind_of(column.type))
        for name, column in columns.items()
        if name != spec.key
    }


def _against_usual(case: Case) -> list[Breach]:
    typed = [name for name, type_name in case.schema or () if name in case.columns]
    strange = {name: found for name in typed if name in case.measured and (found := strangeness(case, name))}
    return [
        *feed.repetition(case),
        *shape.swaps(case, strange),
        *values.constant(case),
        *leaks.leaks(case, strange),
        *leaks.future(case),
        *shape.units(case),
        *values.categories(case),
        *values.missing(case),
        *values.ranges(case),
        *values.precision(case),
        *feed.freshness(case),
        *feed.volume(case),
    ]


# What one fault brings along in its own column: the first is the cause, the others are its consequences.
_EXPLAINS: Final[Mapping[str, frozenset[str]]] = {
    "ST233": frozenset({"ST241", "ST242", "ST920", "ST921", "ST922", "ST924", "ST925", "ST927", "ST928"}),
    "ST924": frozenset({"ST241", "ST242", "ST920", "ST921", "ST922", "ST925", "ST927", "ST928"}),
    "ST925": frozenset({"ST241", "ST920", "ST921", "ST922", "ST928"}),
    "ST922": frozenset({"ST921"}),
    "ST927": frozenset({"ST241", "ST920", "ST921", "ST925", "ST928"}),
    "ST241": frozenset({"ST920", "ST928"}),
}


def _ordered(found: list[Breach]) -> list[Breach]:
    """Causes without their consequences, and what is refused first."""
    stuck = any(breach.code == "ST926" and breach.column is None for breach in found)
    found = [_with_weight(breach, found) for breach in found]
    explained = {(code, cause.column) for cause in found for code in _EXPLAINS.get(cause.code, ())}
    stopped = {breach.code for breach in found} & {"ST923", "ST238"}
    kept = [
        breach
        for breach in found
        if (breach.code, breach.column) not in explained
        and not (stuck and breach.code >= "ST920" and breach.code != "ST926")
        and not (stopped and breach.code in {"ST240", "ST923"} - {min(stopped)})
    ]
    return sorted(kept, key=lambda breach: breach.severity != "refuse")


def _with_weight(cause: Breach, found: Sequence[Breach]) -> Breach:
    """A cause is refused when one of its consequences is."""
    explains = _EXPLAINS.get(cause.code, frozenset())
    hard = any(one.column == cause.column and one.code in explains and one.severity == "refuse" for one in found)
    return replace(cause, severity="refuse") if hard else cause
