"""Repairing: what a report of blame asks for: the release without its guilty changes, and the table without guilty parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from staytrue.errors import Refused
from staytrue.kernel.gain import Cell, Change
from staytrue.kernel.release import Release, trained_by
from staytrue.loop.blame import Asked, prepared
from staytrue.loop.context import Context
from staytrue.loop.data import set_apart
from staytrue.loop.jobs import Steps
from staytrue.loop.release import golden_of, release_refs
from staytrue.store import tables
from staytrue.store.ledger import Ref
from staytrue.store.store import Store
from staytrue.store.tables import Table

__all__ = ["Repaired", "repaired", "set_guilty_parts_apart"]


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """The bad release with the guilty changes made: a release like any other, its model trained, its golden rows answered."""

    ctx: Context
    release: Release
    refs: tuple[Ref, ...]
    why: str


def repaired(store: Store, asked: Asked, report: Mapping[str, Any], *, home: Path) -> Steps[Repaired]:
    """The release that a report asks for. What it was found with is not trained again.

    Raises:
        Refused: ST814, nothing is to blame, or the environment is: that is for whoever installs it.
    """
    cell: Cell = frozenset(Change(axis=one["axis"], how=one["how"]) for one in report["changes"])
    if not cell or any(change.axis == "environment" for change in cell):
        held = report["details"].get("environment", "")
        text = f"Nothing to apply: {report['sentence']}"
        if cell:
            text = (
                f"The environment is to blame ({held}), and a release runs in the one that is installed: put the old versions "
                "back and start `staytrue up` again."
            )
        raise Refused("ST814", text, outcome=report["outcome"])
    search = yield from prepared(store, asked, home=home, over=lambda: False, say=lambda _said: None)
    mixtures = search.mixtures
    mixed = mixtures.mixed(cell)
    left_out = _left_out(report)
    if left_out:
        tables_ = {
            **mixtures.bad.tables,
            **{name: _without(mixtures.bad.tables[name], left_out[name]) for name in left_out},
        }
        mixed = replace(mixed, tables=tables_)
    (lost,) = yield from mixtures.outcomes([mixed])
    if not isinstance(lost, np.ndarray):
        raise Refused("ST814", f"The repair does not run: {lost or 'its budget is spent'}", outcome=report["outcome"])
    made = mixtures.server(mixed)
    recipe = store.recipe(made.recipe)
    release = Release(
        app=mixtures.bad.release.app,
        code=mixed.server.code,
        training_code=mixed.server.training_code,
        tables=dict(made.tables),
        env=mixed.env,
        params=dict(mixed.params),
        seed=mixed.seed,
        model=made.model,
        recipe=made.recipe,
        as_trained=False,
        scores={},
        parents=(asked.bad,),
    )
    release = replace(release, as_trained=trained_by(release, recipe))
    release = replace(release, golden=(yield from golden_of(mixed.server, release)))
    refs = (*release_refs(mixed.server, release), *made.refs)
    return Repaired(ctx=mixed.server, release=release, refs=refs, why=_why(report, left_out))


def set_guilty_parts_apart(ctx: Context, report: Mapping[str, Any], *, by: str) -> int:
    """Take the parts that are all that is wrong with the data out of the table, so that no later training learns from them."""
    apart = 0
    for source, windows in _left_out(report).items():
        spans = {(datetime.fromisoformat(since), datetime.fromisoformat(until)) for since, until in windows}
        because = f"they were found to blame for what {report['bad'][:8]} loses more than {report['good'][:8]}"
        apart += set_apart(ctx, ctx.app.sources[source].spec, spans, by=by, because=because)
    return apart


def _left_out(report: Mapping[str, Any]) -> dict[str, list[Sequence[str]]]:
    """Source -> the windows that are all that is wrong with its rows."""
    found = [one["facts"] for one in report["culprits"] if one["kind"] == "parts" and one["facts"]["enough"]]
    return {facts["source"]: facts["windows"] for facts in found}


def _without(table: Table, windows: Sequence[Sequence[str]]) -> Table:
    gone = {tuple(window) for window in windows}
    return tables.without(table, [p for p in table.parts if (p.since.isoformat(), p.until.isoformat()) in gone])


def _why(report: Mapping[str, Any], left_out: Mapping[str, Sequence[Any]]) -> str:
    good = report["good"][:8]
    back = [
        change["axis"]
        for change in report["changes"]
        if change["how"] == "back" and not (change["axis"] == "data" and left_out)
    ]
    said = [f"{' and '.join(back)} taken from {good}"] if back else []
    said += [
        f"{len(windows)} part{'' if len(windows) == 1 else 's'} of {name} left out"
        for name, windows in left_out.items()
    ]
    said += (
        ["trained again on the newest rows"] if any(change["how"] == "fresh" for change in report["changes"]) else []
    )
    return f"{', '.join(said)}, since they were found to blame"
