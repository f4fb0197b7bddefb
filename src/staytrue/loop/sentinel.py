"""Sentinel: what is wrong with the sources now: windows in quarantine, and sources from which nothing comes any more.

Level-triggered like all of the loop: it says what should stand open as an alarm, whatever was said before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from staytrue.kernel.contract import SourceSpec
from staytrue.kernel.duration import spell
from staytrue.kernel.remedy import AlarmKind, remedy
from staytrue.loop.context import Context
from staytrue.loop.quarantine import HeldWindow, quarantine
from staytrue.store import tables
from staytrue.store.tables import Table

__all__ = ["Standing", "wrong_with_sources"]

_WINDOWS: Final = 2
"""A source is silent when so many windows in a row are over and nothing of them came, not even an empty one."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """An alarm that should be open."""

    alarm: AlarmKind
    what: str
    sentence: str
    numbers: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Which alarm it is."""
        return f"{self.alarm}:{self.what}"


def wrong_with_sources(ctx: Context, *, now: datetime, failing: Mapping[str, str]) -> list[Standing]:
    """The alarms that should stand open about the app's sources, once they were asked for all that is due.

    Args:
        failing: source -> what was the matter when it was asked last.
    """
    found = []
    for name, source in ctx.app.sources.items():
        ref = ctx.store.ledger.ref("source", name, app=ctx.app.name)
        table = tables.load(ctx.store.objects, ref.digest) if ref else None
        held = quarantine(ctx.store.objects, ctx.store.ledger, ctx.app.name, name, table)
        held = [one for one in held if one.state == "held"]
        if held:
            found.append(_fault(name, held))
        silent = _silence(source.spec, table, held, now, failing.get(name))
        if silent is not None:
            found.append(silent)
    return found


def _fault(name: str, held: list[HeldWindow]) -> Standing:
    newest, rows = held[-1], sum(one.rows for one in held)
    worst = newest.worst
    many = "1 window" if len(held) == 1 else f"{len(held)} windows"
    likely = f" Likely: {worst.likely}." if worst.likely else ""
    return Standing(
        alarm="fault",
        what=name,
        sentence=f"Fault alarm: {many} of {name} ({rows:,} rows) in quarantine, the newest of {newest.since:%Y-%m-%d %H:%M}: "
        f"{worst.sentence}{likely} What follows: {remedy('fault').why}.",
        numbers={"windows": len(held), "rows": rows, "code": worst.code, "column": worst.column, "held": newest.id},
    )


def _silence(
    spec: SourceSpec, table: Table | None, held: list[HeldWindow], now: datetime, failing: str | None
) -> Standing | None:
    if table is None or table.until is None or spec.snapshot:
        return None
    until = max([table.until, *(one.until for one in held)])
    late = now - until
    if late < _WINDOWS * spec.every:
        return None
    why = f" Asked last: {failing}" if failing else ""
    return Standing(
        alarm="silence",
        what=spec.name,
        sentence=f"Silence alarm: nothing came from {spec.name} since {until:%Y-%m-%d %H:%M} UTC: "
        f"{late // spec.every} windows of {spell(spec.every)}. What follows: {remedy('silence').why}.{why}",
        numbers={"until": until.isoformat(), "late_s": late.total_seconds()},
    )
