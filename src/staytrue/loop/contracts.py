"""Contracts: which version of a source's contract holds, who made it, and what it says of rows.

What nobody set is learned anew from the windows before each check, so only people's edits are kept: a version is an object with
a reference of kind `contract`, and the event that made it says who, when and why.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from staytrue.errors import Conflict
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.contract import Breach, ColumnTerms, Contract, SourceSpec, WindowTerms, check, learned
from staytrue.kernel.release import Digest
from staytrue.loop.context import Context
from staytrue.loop.quarantine import DATA
from staytrue.store import frames, tables
from staytrue.store.frames import Rows
from staytrue.store.ledger import Entry, Event, Ref
from staytrue.store.objects import LocalObjects
from staytrue.store.store import Store
from staytrue.store.tables import Table

__all__ = ["breaches", "contract_of", "edit_contract", "effective", "effective_in", "kept_contract", "versions"]

_RECENT: Final = 7
_ENOUGH: Final = 5
_MOST_KEYS: Final = 1_000_000
_KIND: Final = "contract"
_EDITED: Final = "contract_edited"


def contract_of(ctx: Context, spec: SourceSpec) -> Contract:
    """The newest version: what people set. Version 0, which says nothing, before anybody did."""
    return kept_contract(ctx.store, ctx.app.name, spec.name)


def kept_contract(store: Store, app: str, source: str) -> Contract:
    """As `contract_of`."""
    ref = store.ledger.ref(_KIND, source, app=app)
    if ref is None:
        return Contract(source=source)
    # As text: a category may look like a digest, which gc would take for a reference.
    return Contract.from_document(json.loads(store.objects.get_document(ref.digest)["contract"]))


def effective(ctx: Context, spec: SourceSpec, table: Table, contract: Contract) -> Contract:
    """The contract with all that nobody set as the newest windows of the table have it."""
    return effective_in(ctx.store, spec, table, contract)


def effective_in(store: Store, spec: SourceSpec, table: Table, contract: Contract) -> Contract:
    """As `effective`."""
    return contract.moved_on(learned(spec, table.schema or None, tables.history(store.objects, table)))


def breaches(
    ctx: Context, spec: SourceSpec, table: Table, window: tuple[datetime, datetime], rows: Rows, *, contract: Contract
) -> list[Breach]:
    """What does not hold of the rows of a window, after all windows of `table`."""
    columns = {name: frames.column(rows, name) for name in rows.column_names}
    past = tables.history(ctx.store.objects, table)
    seen = _seen(ctx.store.objects, spec, table, window)
    return check(spec, window, columns, table.schema or None, past, contract, seen=seen)


def _seen(objects: LocalObjects, spec: SourceSpec, table: Table, window: tuple[datetime, datetime]) -> frozenset[Any]:
    """The keys of the newest parts, where keys are unique over time; else none, and nobody asks whether they come again."""
    if spec.key is None or spec.snapshot:
        return frozenset()
    parts = [part for part in table.parts[-_RECENT - 1 :] if part.rows and (part.since, part.until) != window][
        -_RECENT:
    ]
    if len(parts) < _ENOUGH or sum(part.rows for part in parts) > _MOST_KEYS:
        return frozenset()
    each = [_keys(objects, part.object, spec.key) for part in parts]
    together = frozenset().union(*each)
    return together if len(together) == sum(map(len, each)) else frozenset()


@lru_cache(maxsize=4 * 7)
def _keys(objects: LocalObjects, part: Digest, key: str) -> frozenset[Any]:
    column = frames.column(frames.read_parquet(objects.get(part)), key)
    return frozenset() if column.type.startswith("list<") else frozenset(column.values[column.valid].tolist())


def edit_contract(
    ctx: Context, spec: SourceSpec, table: Table, changes: Mapping[str, Any], *, by: str, because: str | None
) -> tuple[Contract, bool]:
    """The next version, with these changes, and whether it is new: what changes nothing makes no version.

    Raises:
        InvalidInput: ST929, a change that makes no sense.    Conflict: ST937, somebody else made a version meanwhile.
    """
    before = contract_of(ctx, spec)
    known = effective(ctx, spec, table, before)
    after = known.edited(changes)
    if _pins(after) == _pins(known):
        return before, False
    now = datetime.now(UTC)
    document = {"kind": _KIND, "format": 1, "contract": canonical_json(after.document()).decode()}
    why = f": {because}" if because else "."
    entry = Entry(
        app=ctx.app.name,
        timeline=DATA,
        key=f"{_EDITED}:{spec.name}:{after.version}",
        at=now,
        kind=_EDITED,
        sentence=f"{by} made version {after.version} of the contract of {spec.name}, {_told(changes)}{why}",
        body={
            "source": spec.name,
            "version": after.version,
            "changes": canonical_json(changes).decode(),
            "by": by,
            "because": because,
        },
        refs=(Ref(kind=_KIND, name=spec.name, digest=ctx.store.objects.put_document(document)),),
    )
    try:
        ctx.store.ledger.append([entry], recorded_at=now)
    except Conflict as exc:
        raise Conflict(
            "ST937",
            f"Somebody else made version {after.version} of the contract of {spec.name} meanwhile. Look at it with "
            f"`staytrue data {spec.name} --contract`, then edit again.",
            source=spec.name,
        ) from exc
    return after, True


def versions(ctx: Context, source: str) -> list[Event]:
    """The events that made the versions of a source's contract, oldest first."""
    events = ctx.store.ledger.events(ctx.app.name, DATA, kinds=[_EDITED])
    return [event for event in events if event.body["source"] == source]


def _pins(contract: Contract) -> Any:
    """What people set, and nothing of what was learned."""
    parts: dict[str | None, WindowTerms | ColumnTerms] = {None: contract.window}
    parts.update(contract.columns)
    return {
        name: ({what: getattr(terms, what) for what in terms.pinned}, terms.ignore)
        for name, terms in parts.items()
        if terms.pinned or terms.ignore
    }


def _told(changes: Mapping[str, Any]) -> str:
    """The changes in words: `'price': range 0..500, without ST241`."""
    parts = {"the window": changes.get("window") or {}}
    parts |= {f"{name!r}": change for name, change in (changes.get("columns") or {}).items()}
    said = []
    for name, change in parts.items():
        words = [f"{what} {_value(value)}" for what, value in change.items() if what != "ignore"]
        codes = change.get("ignore")
        words += [] if codes is None else [f"without {', '.join(codes)}" if codes else "with every check"]
        said += [f"{name}: {', '.join(words)}"] if words else []
    return "; ".join(said)[:400]


def _value(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) == 2:
        return "..".join("" if bound is None else str(bound) for bound in value)
    return "as learned" if value is None else str(value)
