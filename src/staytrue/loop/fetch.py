"""Fetch: ask a source for rows, hold them against its contract, and keep them as parts of a table.

What breaks the contract is kept too, apart from the table, so that nothing is lost and nothing is trained on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from staytrue.engines.process import Job
from staytrue.errors import Conflict, InvalidInput, NotFound, StaytrueError, Unavailable
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.contract import Breach, SourceSpec, check, micros
from staytrue.kernel.duration import duration
from staytrue.kernel.release import Digest
from staytrue.loop.context import Context
from staytrue.loop.jobs import Steps, result_of
from staytrue.store import frames, tables
from staytrue.store.frames import Rows
from staytrue.store.ledger import Entry, Ref
from staytrue.store.objects import digest
from staytrue.store.tables import Part, Table

__all__ = ["DATA", "Fetched", "fetch"]

DATA = "data"
"""The timeline of fetches: what was fetched holds for every replay."""

_BACKFILL = timedelta(days=365)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a fetch brought: `rows` new or changed rows, in `parts` windows; what was refused is in `breaches`."""

    source: str
    since: datetime
    until: datetime
    rows: int
    parts: int
    corrected: int
    quarantined: int
    breaches: tuple[Breach, ...]
    table: Digest | None

    def document(self) -> dict[str, Any]:
        """As `staytrue fetch --json` prints it."""
        return {
            "source": self.source,
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "rows": self.rows,
            "parts": self.parts,
            "corrected": self.corrected,
            "quarantined": self.quarantined,
            "breaches": [
                {"code": b.code, "column": b.column, "sentence": b.sentence, "likely": b.likely, "severity": b.severity}
                for b in self.breaches
            ],
            "table": self.table,
        }


def fetch(
    ctx: Context,
    source: str,
    *,
    now: datetime,
    since: datetime | None = None,
    until: datetime | None = None,
    kept: Callable[[int, int], None] | None = None,
) -> Steps[Fetched]:
    """Bring a source's table up to `until`, and look again at windows whose labels were not known yet.

    Args:
        now: the clock. Windows that are not over by then are left alone: an open window is never trained on.
        since: where to begin when nothing was fetched yet (default: a year before `until`); given with a table, its windows from
            there on are fetched again, and those that changed become corrections.
        kept: called with windows done and windows in all.

    Raises:
        NotFound: ST620, no such source.
        Unavailable: ST621, the source raised; nothing was changed, and the event is in the log.
        InvalidInput: ST622, it gave no rows at all and there were none before.
        Conflict: ST624, another process brought other rows of this source meanwhile; nothing was changed.
    """
    if source not in ctx.app.sources:
        raise NotFound(
            "ST620",
            f"App {ctx.app.name} has no source {source!r}; there are {', '.join(ctx.app.sources) or 'none'}.",
            source=source,
        )
    spec = ctx.app.sources[source].spec
    table, base = _newest(ctx, spec)
    windows = _windows(spec, table, now=now, since=since, until=until)
    if not windows:
        start = table.until or now
        return Fetched(
            source=source,
            since=start,
            until=start,
            rows=0,
            parts=0,
            corrected=0,
            quarantined=0,
            breaches=(),
            table=table.id,
        )
    rows = yield from _given(ctx, spec, windows, now)
    if rows.num_rows == 0 and not table.parts:
        raise _noted(
            ctx, source, windows, now,
            InvalidInput("ST622", f"Source {source} gave no rows for {_span(windows)}: is the span right? Say another with --since.", source=source),
        )  # fmt: skip
    return _keep(ctx, spec, table, base, windows, rows, now, kept or (lambda _done, _all: None))


def _newest(ctx: Context, spec: SourceSpec) -> tuple[Table, int]:
    """The source's table, and the number of the event that made it the newest (0: nothing was fetched yet)."""
    ref = ctx.store.ledger.ref("source", spec.name, app=ctx.app.name)
    return (tables.load(ctx.store.objects, ref.digest), ref.seq) if ref else (tables.empty(spec), 0)


def _windows(
    spec: SourceSpec, table: Table, *, now: datetime, since: datetime | None, until: datetime | None
) -> list[tuple[datetime, datetime]]:
    """The windows to ask for: those that are over by now, after the table's end or worth another look."""
    if spec.snapshot:
        return [(now, now + timedelta(microseconds=1))]
    end = min(until or now, now)
    if table.until is None or (since is not None and table.since is not None and since < table.since):
        begin = _floor(since or end - _BACKFILL, spec.every)
    else:
        begin = table.until
    known = {(part.since, part.until) for part in table.parts}
    # Rows whose label should be known by now: the source may have it.
    again = [(p.since, p.until) for p in table.parts if p.unlabelled and p.until + spec.label_after <= now]
    if since is not None:
        again += [(p.since, p.until) for p in table.parts if p.since >= since and p.until <= end]
    fresh = []
    while begin + spec.every <= end:
        window = (begin, begin + spec.every)
        if window not in known and (
            table.since is None or window[1] <= table.since or window[0] >= (table.until or begin)
        ):
            fresh.append(window)
        begin = window[1]
    return sorted({*again, *fresh})


def _floor(moment: datetime, every: timedelta) -> datetime:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + (moment.astimezone(UTC) - epoch) // every * every


def _given(ctx: Context, spec: SourceSpec, windows: Sequence[tuple[datetime, datetime]], now: datetime) -> Steps[Rows]:
    """What the source gives, asked in as few calls as there are stretches of windows without a gap."""
    spans: list[list[datetime]] = []
    for since, until in windows:
        if spans and spans[-1][1] == since:
            spans[-1][1] = until
        else:
            spans.append([since, until])
    jobs = [
        Job(
            key=f"fetch:{spec.name}:{since.isoformat()}:{until.isoformat()}",
            task="staytrue.loop.tasks:fetch",
            # A source reads from where the user wrote it, not from the snapshot: it may open files beside it.
            payload={"entry": str(ctx.file), "store": str(ctx.store.root), "source": spec.name,
                     "since": since.isoformat(), "until": until.isoformat()},
            workspace=ctx.file.parent,
            timeout_s=duration(ctx.app.settings.timeout).total_seconds(),
        )
        for since, until in spans
    ]  # fmt: skip
    outcomes = yield jobs
    found = []
    for outcome in outcomes:
        try:
            result = result_of(outcome, doing=f"fetch {spec.name} for {_span(windows)}")
        except StaytrueError as exc:
            raise _noted(ctx, spec.name, windows, now, _unavailable(spec, exc)) from exc
        if outcome.outbox is None:
            raise Unavailable("ST621", f"Source {spec.name} left no rows behind.", source=spec.name)
        rows = frames.read_parquet((Path(outcome.outbox) / result["file"]).read_bytes())
        if rows.num_columns:
            found.append(rows)
    return frames.concat(found) if found else frames.to_rows({}, doing=f"read what {spec.name} gave")


def _unavailable(spec: SourceSpec, exc: StaytrueError) -> StaytrueError:
    if exc.code in ("ST361", "ST362"):
        return Unavailable("ST621", f"Source {spec.name} failed: {exc.message}", source=spec.name, **exc.facts)
    return exc


def _noted(
    ctx: Context, source: str, windows: Sequence[tuple[datetime, datetime]], now: datetime, exc: StaytrueError
) -> StaytrueError:
    """The error, once it is in the log."""
    entry = Entry(
        app=ctx.app.name,
        timeline=DATA,
        key=f"failed:{source}:{now.isoformat()}",
        at=now,
        kind="fetch_failed",
        sentence=f"Fetching {source} for {_span(windows)} failed: {exc}",
        body={"source": source, **exc.document()},
    )
    ctx.store.ledger.append([entry], recorded_at=datetime.now(UTC))
    return exc


def _span(windows: Sequence[tuple[datetime, datetime]]) -> str:
    return f"{windows[0][0]:%Y-%m-%d} .. {windows[-1][1]:%Y-%m-%d}"


# ---------------------------------------------------------------- contract, parts, one ledger entry


def _keep(
    ctx: Context, spec: SourceSpec, table: Table, base: int, windows: Sequence[tuple[datetime, datetime]], rows: Rows,
    now: datetime, kept: Callable[[int, int], None],
) -> Fetched:  # fmt: skip
    """Window by window: contract, then part. All that passed becomes one new version of the table, in one transaction."""
    objects = ctx.store.objects
    known = {(part.since, part.until): part for part in table.parts}
    found: list[Part] = []
    breaches: list[Breach] = []
    refused: list[Digest] = []
    cut = _cut(spec, windows, rows)
    for done, (window, mask) in enumerate(cut):
        part_rows = frames.take(rows, mask)
        columns = {name: frames.column(part_rows, name) for name in part_rows.column_names}
        bad = check(spec, window, columns, table.schema or None, tables.history(objects, table))
        breaches += bad
        if any(b.severity == "refuse" for b in bad):
            refused.append(objects.put(frames.write_parquet(part_rows)))
            continue
        part = tables.make_part(objects, part_rows, window, spec, like=table.schema or None)
        if window not in known:
            table = tables.append(table, part)
            found.append(part)
        elif known[window].content != part.content:
            table = tables.correct(table, part)
            found.append(part)
        kept(done + 1, len(windows))
    outside = rows.num_rows - sum(int(mask.sum()) for _, mask in cut)
    if outside and not spec.snapshot:
        breaches.append(_outside(spec, windows, rows, outside))
    return _write(ctx, spec, table, base, windows, found, known, breaches, refused, now)


def _cut(
    spec: SourceSpec, windows: Sequence[tuple[datetime, datetime]], rows: Rows
) -> list[tuple[tuple[datetime, datetime], np.ndarray]]:
    """Which rows belong to which window. One window takes all, so that the contract sees what does not belong there."""
    if spec.snapshot or len(windows) == 1 or not spec.time or spec.time not in rows.column_names:
        return [(windows[0], np.ones(rows.num_rows, bool))] + [(w, np.zeros(rows.num_rows, bool)) for w in windows[1:]]
    times = frames.column(rows, spec.time)
    if times.values.dtype == object or not times.valid.all():
        return [(windows[0], np.ones(rows.num_rows, bool))] + [(w, np.zeros(rows.num_rows, bool)) for w in windows[1:]]
    starts = np.array([micros(since) for since, _ in windows])
    stops = np.array([micros(until) for _, until in windows])
    place = np.searchsorted(starts, times.values, side="right") - 1
    inside = (place >= 0) & (times.values < stops[np.maximum(place, 0)])
    order = np.argsort(np.where(inside, place, len(windows)), kind="stable")
    bounds = np.searchsorted(np.where(inside, place, len(windows))[order], np.arange(len(windows) + 1))
    cut = []
    for i, window in enumerate(windows):
        mask = np.zeros(rows.num_rows, bool)
        mask[order[bounds[i] : bounds[i + 1]]] = True
        cut.append((window, mask))
    return cut


def _outside(spec: SourceSpec, windows: Sequence[tuple[datetime, datetime]], rows: Rows, count: int) -> Breach:
    return Breach(
        code="ST623",
        column=spec.time,
        sentence=f"{count} of {rows.num_rows} rows lie outside what was asked for, {_span(windows)}; they were left out.",
        likely="the source ignores since or until",
        severity="warn",
        facts={"rows": count},
    )


def _write(
    ctx: Context, spec: SourceSpec, table: Table, base: int, windows: Sequence[tuple[datetime, datetime]], found: Sequence[Part],
    known: Mapping[tuple[datetime, datetime], Part], breaches: Sequence[Breach], refused: Sequence[Digest], now: datetime,
) -> Fetched:  # fmt: skip
    corrected = sum((part.since, part.until) in known for part in found)
    fetched = Fetched(
        source=spec.name,
        since=windows[0][0],
        until=windows[-1][1],
        rows=sum(part.rows for part in found),
        parts=len(found),
        corrected=corrected,
        quarantined=len(refused),
        breaches=tuple(breaches),
        table=table.id if table.parts else None,
    )
    entries = []
    if found:
        manifest = tables.save(ctx.store.objects, table)
        refs = (Ref(kind="source", name=spec.name, digest=manifest), Ref(kind="table", name=table.id, digest=manifest))
        fixed = f", {corrected} of them corrected" if corrected else ""
        entries.append(
            Entry(
                app=ctx.app.name,
                timeline=DATA,
                # By what it was built on, not by what it came to: a version made from an older one than the newest is refused, and
                # a correction that is taken back later is an event of its own.
                key=f"fetched:{spec.name}:{base}",
                at=now,
                kind="fetched",
                sentence=f"Fetched {fetched.rows:,} rows of {spec.name} in {len(found)} windows{fixed}, {_span(windows)}.",
                body={
                    "source": spec.name,
                    "table": table.id,
                    "rows": fetched.rows,
                    "parts": len(found),
                    "corrected": corrected,
                },
                refs=refs,
            )
        )
    if refused:
        body = {"source": spec.name, "breaches": fetched.document()["breaches"], "windows": len(refused)}
        contents = digest(canonical_json({**body, "objects": list(refused)}))
        first = next(b for b in breaches if b.severity == "refuse")
        likely = f" (likely: {first.likely})" if first.likely else ""
        entries.append(
            Entry(
                app=ctx.app.name,
                timeline=DATA,
                key=f"quarantined:{spec.name}:{contents}",
                at=now,
                kind="quarantined",
                sentence=f"{len(refused)} windows of {spec.name} are in quarantine: {first.code} {first.sentence}{likely}. The champion stays.",
                body=body,
                refs=tuple(Ref(kind="quarantine", name=spec.name, digest=d) for d in refused),
            )
        )
    try:
        ctx.store.ledger.append(entries, recorded_at=datetime.now(UTC))
    except Conflict as exc:
        raise Conflict(
            "ST624",
            f"Another process fetched other rows of {spec.name} at the same time; nothing of {_span(windows)} was changed. Fetch again.",
            source=spec.name,
        ) from exc
    return fetched
