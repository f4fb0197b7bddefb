"""Source check: what the sources of new code give, held against their contract and against what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from staytrue.engines.process import Job
from staytrue.errors import InvalidInput, StaytrueError, Unavailable
from staytrue.kernel.contract import Breach
from staytrue.kernel.contract import check as breaches_of
from staytrue.kernel.duration import duration
from staytrue.loop.checking.step import Step, StepFailedError, skipped
from staytrue.loop.context import Context
from staytrue.loop.fetch import fetch
from staytrue.loop.jobs import Steps, result_of
from staytrue.store import frames, tables

__all__ = ["Window", "sources_checked"]

Window = tuple[datetime, datetime]

_SAID = ("code", "column", "sentence", "likely", "severity")
_WINDOWS = 30
"""Into a store that was made for the check so many windows of a source are fetched."""


def sources_checked(
    ctx: Context,
    old: Context | None,
    *,
    now: datetime,
    span: tuple[datetime | None, datetime | None] = (None, None),
    scratch: bool = False,
) -> Steps[Step]:
    """Each source asked by the new code for its newest window with rows.

    Args:
        old: the code before; where that can't ask the source either, nothing is said of the new one.
        span: what to ask for where there is no table; default: the newest windows.
        scratch: the store was made for this: what holds is kept, so that it can be trained on.

    Raises:
        StepFailedError: the contract is broken.
        Unavailable: ST840, a source can't be asked now, not by the old code either.
    """
    sources = ctx.app.sources
    if not sources:
        return skipped("contract", "A plain service has no source.")
    found = []
    for name in sorted(sources, key=lambda name: bool(sources[name].spec.label)):
        one = yield from _fetched(ctx, name, now, span) if scratch else _asked(ctx, old, name, span[1] or now)
        found.append(one)
    numbers = {"sources": found}
    bad = [one for one in found if one["refused"]]
    if bad:
        raise StepFailedError(" ".join(one["sentence"] for one in bad), numbers)
    return Step(name="contract", status="passed", sentence=" ".join(one["sentence"] for one in found), numbers=numbers)


def _fetched(
    ctx: Context, source: str, now: datetime, span: tuple[datetime | None, datetime | None]
) -> Steps[dict[str, Any]]:
    spec = ctx.app.sources[source].spec
    until = span[1] or now
    since = span[0] or until - _WINDOWS * spec.every
    try:
        got = yield from fetch(ctx, source, now=until, since=since, until=until)
    except InvalidInput as exc:
        if exc.code != "ST622":
            raise
        about = f"{source} gave no rows from {since:%Y-%m-%d} to {until:%Y-%m-%d} (--since says another span)"
        return _told(source, 0, (), about)
    return _told(source, got.rows, got.breaches, f"{got.rows:,} rows of {source} in {got.parts} windows")


def _asked(ctx: Context, old: Context | None, source: str, now: datetime) -> Steps[dict[str, Any]]:
    spec = ctx.app.sources[source].spec
    objects = ctx.store.objects
    ref = ctx.store.ledger.ref("source", source, app=ctx.app.name)
    table = tables.load(objects, ref.digest) if ref else tables.empty(spec)
    part = next((part for part in reversed(table.parts) if part.rows), None)
    begin = _floor(now, spec.every) - spec.every
    window = (part.since, part.until) if part else (begin, begin + spec.every)
    rows = yield from _given(ctx, old, source, window)
    columns = {name: frames.column(rows, name) for name in rows.column_names}
    breaches = breaches_of(spec, window, columns, table.schema or None, tables.history(objects, table))
    about = f"{rows.num_rows:,} rows of {source} for {window[0]:%Y-%m-%d %H:%M}"
    if part is None or any(breach.severity == "refuse" for breach in breaches):
        return _told(source, rows.num_rows, breaches, about)
    again = tables.make_part(objects, rows, window, spec, like=table.schema)
    change = asdict(tables.changes(objects, part, again, key=spec.key))
    differ = ", ".join(f"{count:,} {word}" for word, count in change.items() if count)
    same = (
        "the rows that are kept"
        if again.content == part.content
        else f"not the rows that are kept: {differ or 'their types'}"
    )
    return _told(source, rows.num_rows, breaches, f"{about}, {same}") | {"against_kept": change}


def _given(ctx: Context, old: Context | None, source: str, window: Window) -> Steps[frames.Rows]:
    outcome = (yield [_job(ctx, source, window)])[0]
    try:
        result = result_of(outcome, doing=f"ask {source} for {window[0]:%Y-%m-%d %H:%M}")
    except StaytrueError as exc:
        if old is not None and source in old.app.sources and old.code != ctx.code:
            again = (yield [_job(old, source, window)])[0]
            if again.status != "done":
                text = f"Source {source} can't be asked now, nor by the old code. Nothing is said of the new: {exc.message}"
                raise Unavailable("ST840", text, source=source) from exc
        raise
    if outcome.outbox is None:
        raise Unavailable("ST621", f"Source {source} left no rows behind.", source=source)
    return frames.read_parquet((outcome.outbox / result["file"]).read_bytes())


def _job(ctx: Context, source: str, window: Window) -> Job:
    since, until = (moment.isoformat() for moment in window)
    return Job(
        key=f"ask:{ctx.code}:{source}:{since}:{until}",
        task="staytrue.loop.tasks:fetch",
        payload={
            "entry": str(ctx.file),
            "store": str(ctx.store.root),
            "home": str(ctx.home),
            "source": source,
            "since": since,
            "until": until,
        },
        workspace=ctx.file.parent,
        timeout_s=duration(ctx.app.settings.timeout).total_seconds(),
        app=ctx.app.name,
    )


def _told(source: str, rows: int, breaches: Sequence[Breach], about: str) -> dict[str, Any]:
    refused = [breach for breach in breaches if breach.severity == "refuse"]
    said = [f"{breach.code} {breach.sentence}" for breach in refused or breaches]
    return {
        "source": source,
        "rows": rows,
        "refused": len(refused),
        "breaches": [{name: getattr(breach, name) for name in _SAID} for breach in breaches],
        "sentence": ": ".join([about, said[0]]) if said else f"{about}.",
    }


def _floor(moment: datetime, every: timedelta) -> datetime:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + (moment.astimezone(UTC) - epoch) // every * every
