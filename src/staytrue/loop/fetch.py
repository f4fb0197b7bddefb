"""Fetch: ask a source for rows, hold them against its contract, and keep them as parts of a table.

What breaks the contract is kept too, apart from the table, so that nothing is lost and nothing is trained on it. What people
decided about it (`loop/data.py`) holds when the same rows come again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from staytrue.engines.process import Job
from staytrue.errors import Conflict, InvalidInput, NotFound, StaytrueError, Unavailable
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.contract import Breach, SourceSpec, micros
from staytrue.kernel.duration import duration
from staytrue.kernel.release import Digest
from staytrue.loop.context import Context
from staytrue.loop.contracts import breaches, contract_of
from staytrue.loop.jobs import Steps, result_of
from staytrue.loop.quarantine import DATA, HeldWindow, breach_document, dropped, hold, mended, quarantine, quarantined
from staytrue.store import frames, tables
from staytrue.store.frames import Rows
from staytrue.store.ledger import Entry, Ref
from staytrue.store.objects import digest
from staytrue.store.tables import Part, Table
from staytrue.store.traffic import plain, posted_labels

__all__ = ["DATA", "Fetched", "fetch", "newest", "next_due"]

Window = tuple[datetime, datetime]

_BACKFILL = timedelta(days=365)

_HABIT = 3
"""So many windows in a row are kept out for one and the same breach of what was usual; the next one is let in."""
_USUAL = frozenset({"ST920", "ST921", "ST922", "ST923", "ST927", "ST928", "ST240", "ST242"})
"""Breaches of what was usual: range, categories, spelling, freshness, constant, rounding, rows, nulls."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a fetch brought: `rows` new or changed rows, in `parts` windows; what was refused is in `breaches`."""

    source: str
    since: datetime
    until: datetime
    rows: int = 0
    parts: int = 0
    corrected: int = 0
    quarantined: int = 0
    breaches: tuple[Breach, ...] = ()
    table: Digest | None = None

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
            "breaches": [breach_document(breach) for breach in self.breaches],
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
    table, base = newest(ctx, spec)
    held = quarantine(ctx.store.objects, ctx.store.ledger, ctx.app.name, source, table)
    windows = _windows(spec, table, dropped(held), now=now, since=since, until=until)
    if not windows:
        start = table.until or now
        return Fetched(source=source, since=start, until=start, table=table.id)
    rows = _with_posted_labels(ctx, spec, (yield from _given(ctx, spec, windows, now)))
    if rows.num_rows == 0 and not table.parts:
        message = f"Source {source} gave no rows for {_span(windows)}: is the span right? Say another with --since."
        raise _noted(ctx, source, windows, now, InvalidInput("ST622", message, source=source))
    return _Kept(ctx=ctx, spec=spec, table=table, base=base, held=held, windows=windows, now=now).of(
        rows, kept or (lambda _done, _all: None)
    )


def next_due(ctx: Context, source: str, *, now: datetime) -> datetime:
    """When there may be something to fetch again: a window ends, or labels that were not there yet should be known."""
    spec = ctx.app.sources[source].spec
    if spec.snapshot:
        return now + spec.every
    ends = _floor(now, spec.every) + spec.every
    table, _ = newest(ctx, spec)
    late = (part.until + spec.label_after for part in table.parts if part.unlabelled)
    return min((ends, *(at for at in late if at > now)))


def newest(ctx: Context, spec: SourceSpec) -> tuple[Table, int]:
    """The source's table, and the number of the event that made it the newest (0: nothing was fetched yet)."""
    ref = ctx.store.ledger.ref("source", spec.name, app=ctx.app.name)
    return (tables.load(ctx.store.objects, ref.digest), ref.seq) if ref else (tables.empty(spec), 0)


def _windows(
    spec: SourceSpec,
    table: Table,
    unwanted: Collection[Window],
    *,
    now: datetime,
    since: datetime | None,
    until: datetime | None,
) -> list[Window]:
    """The windows to ask for: those that are over by now, after the table's end or worth another look."""
    if spec.snapshot:
        return [(now, now + timedelta(microseconds=1))]
    end = min(until or now, now)
    begin = since if table.since is None or (since is not None and since < table.since) else table.since
    begin = _floor(begin or end - _BACKFILL, spec.every)
    known = {(part.since, part.until): part for part in table.parts}
    asked = []
    while begin + spec.every <= end:
        window = (begin, begin + spec.every)
        part = known.get(window)
        # A gap is asked for again, unless a person wants it left: its rows may have been in quarantine. So is a window whose
        # labels should be known by now.
        gap = part is None and window not in unwanted
        late = part is not None and part.unlabelled > 0 and part.until + spec.label_after <= now
        if gap or late or (since is not None and begin >= since):
            asked.append(window)
        begin = window[1]
    return asked


def _floor(moment: datetime, every: timedelta) -> datetime:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + (moment.astimezone(UTC) - epoch) // every * every


def _given(ctx: Context, spec: SourceSpec, windows: Sequence[Window], now: datetime) -> Steps[Rows]:
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
            payload={"entry": str(ctx.file), "store": str(ctx.store.root), "home": str(ctx.home), "source": spec.name,
                     "since": since.isoformat(), "until": until.isoformat()},
            workspace=ctx.file.parent,
            timeout_s=duration(ctx.app.settings.timeout).total_seconds(),
            app=ctx.app.name,
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


def _with_posted_labels(ctx: Context, spec: SourceSpec, rows: Rows) -> Rows:
    """Labels that the source does not know yet, as callers gave them (`POST /labels`, by key). The source's own word counts."""
    if not spec.label or not spec.key or not {spec.label, spec.key} <= set(rows.column_names):
        return rows
    own = frames.column(rows, spec.label)
    if own.valid.all():
        return rows
    given = posted_labels(ctx.store.objects, ctx.store.ledger, ctx.app.name, frames.column(rows, spec.key))
    filled = (~own.valid & given.valid).tolist()
    if not any(filled):
        return rows
    mine, theirs = frames.to_pydict(frames.select(rows, [spec.label]))[spec.label], plain(given)
    whole = own.type in ("int64", "uint64")
    merged = [_posted(theirs[row], whole=whole) if new else mine[row] for row, new in enumerate(filled)]
    try:
        made = frames.column(frames.to_rows({spec.label: merged}, doing="read labels"), spec.label)
    except InvalidInput:  # a text among numbers: the source has another idea of what a label is
        return rows
    return frames.put(rows, spec.label, made) if own.type in ("null", made.type) else rows


def _posted(label: Any, *, whole: bool) -> Any:
    """A label as the source would give it: numbers come as floats."""
    if not isinstance(label, float):
        return label
    return int(label) if whole and label.is_integer() else float(label)


# It raised, was killed, died, ran out of memory or out of time.
_SOURCE_FAILED = ("ST361", "ST362", "ST336", "ST337", "ST338", "ST339", "ST341")


def _unavailable(spec: SourceSpec, exc: StaytrueError) -> StaytrueError:
    if exc.code in _SOURCE_FAILED:
        return Unavailable(
            "ST621",
            f"Source {spec.name} failed: {exc.message}",
            **{**exc.facts, "source": spec.name, "cause": exc.code},
        )
    return exc


def _noted(ctx: Context, source: str, windows: Sequence[Window], now: datetime, exc: StaytrueError) -> StaytrueError:
    """The error, once it is in the log."""
    body = {"source": source, **exc.document()}
    entry = Entry(
        app=ctx.app.name,
        timeline=DATA,
        key=f"failed:{source}:{now.isoformat()}:{digest(canonical_json(body))}",
        at=now,
        kind="fetch_failed",
        sentence=f"Fetching {source} for {_span(windows)} failed: {exc}",
        body=body,
    )
    ctx.store.ledger.append([entry], recorded_at=datetime.now(UTC))
    return exc


def _span(windows: Sequence[Window]) -> str:
    return f"{windows[0][0]:%Y-%m-%d} .. {windows[-1][1]:%Y-%m-%d}"


# ---------------------------------------------------------------- contract, parts, one ledger entry


@dataclass(kw_only=True)
class _Kept:
    """One fetch on its way into the store: window by window the contract, then the part, then one ledger entry for all."""

    ctx: Context
    spec: SourceSpec
    table: Table
    base: int
    held: Sequence[HeldWindow]
    windows: Sequence[Window]
    now: datetime
    found: list[Part] = field(default_factory=list)
    corrected: int = 0
    breaches: list[Breach] = field(default_factory=list)
    refused: list[HeldWindow] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.contract = contract_of(self.ctx, self.spec)

    def of(self, rows: Rows, kept: Callable[[int, int], None]) -> Fetched:
        """Keep these rows; all that passes becomes one new version of the table, in one transaction."""
        known = {(part.since, part.until): part for part in self.table.parts}
        cut = _cut(self.spec, self.windows, rows)
        for done, (window, mask) in enumerate(cut):
            self._window(window, frames.take(rows, mask), known.get(window))
            kept(done + 1, len(self.windows))
        outside = rows.num_rows - sum(int(mask.sum()) for _, mask in cut)
        if outside and not self.spec.snapshot:
            self.breaches.append(self._outside(rows, outside))
        fetched = Fetched(
            source=self.spec.name,
            since=self.windows[0][0],
            until=self.windows[-1][1],
            rows=sum(part.rows for part in self.found),
            parts=len(self.found),
            corrected=self.corrected,
            quarantined=len(self.refused),
            breaches=tuple(self.breaches),
            table=self.table.id if self.table.parts else None,
        )
        self._write(fetched)
        return fetched

    def _window(self, window: Window, rows: Rows, before: Part | None) -> None:
        objects = self.ctx.store.objects
        schema = self.table.schema or None
        case = self._decided(window, rows)
        if case is not None and case.state == "dropped":
            return
        repair = case.repair() if case else None
        given = rows
        if repair is not None:
            rows = mended(rows, repair, self.spec, self.table)
        trusted = case is not None and repair is None
        bad = [] if trusted else breaches(self.ctx, self.spec, self.table, window, rows, contract=self.contract)
        bad = self._without_habits(window, bad)
        self.breaches += bad
        if any(b.severity == "refuse" for b in bad):
            self.refused.append(
                hold(
                    objects,
                    given,
                    window,
                    self.spec,
                    breaches=bad,
                    before=before,
                    contract=self.contract.version,
                    at=self.now,
                )
            )
            return
        part = tables.make_part(objects, rows, window, self.spec, like=schema)
        if self.spec.snapshot and self.table.parts and self.table.parts[-1].content == part.content:
            return  # all is as it was: another version would be another recipe, and a training for nothing
        if before is None:
            self.table = tables.append(self.table, part)
        elif before.content != part.content:
            self.table = tables.correct(self.table, part)
            self.corrected += 1
        else:
            return
        self.found.append(part)

    def _without_habits(self, window: Window, bad: list[Breach]) -> list[Breach]:
        """Breaches of what was usual that the windows just before had too are how the source is now: told, and let in.

        Else a source that has changed for good would be kept out for good. What may never be trained on (other types, keys that
        repeat, another unit, columns that changed places) stays refused, however often it comes.
        """
        held = {one.window: one.breaches for one in (*self.held, *self.refused) if one.state != "mended"}
        windows = [(window[0] - n * self.spec.every, window[1] - n * self.spec.every) for n in range(1, _HABIT + 1)]
        found = []
        for one in bad:
            of_late = [any((b.code, b.column) == (one.code, one.column) for b in held.get(w, ())) for w in windows]
            if one.severity == "refuse" and one.code in _USUAL and all(of_late):
                said = f"{one.sentence} So it was in the {_HABIT} windows before: this is how the source is now."
                found.append(replace(one, severity="warn", sentence=said))
            else:
                found.append(one)
        return found

    def _decided(self, window: Window, rows: Rows) -> HeldWindow | None:
        """What a person decided about these rows of this window, when they came before."""
        cases = [one for one in self.held if one.window == window and one.decision is not None]
        return next((one for one in reversed(cases) if one.is_case_of(rows, self.spec)), None)

    def _outside(self, rows: Rows, count: int) -> Breach:
        return Breach(
            code="ST623",
            column=self.spec.time,
            sentence=f"{count} of {rows.num_rows} rows lie outside {_span(self.windows)}; they were left out.",
            likely="the source ignores since or until",
            severity="warn",
            facts={"rows": count},
        )

    def _write(self, fetched: Fetched) -> None:
        # A gap is asked for each time: the same rows in quarantine are told of once.
        known = {one.id for one in self.held}
        news = [one for one in self.refused if one.id not in known]
        entries = [
            *([self._fetched(fetched)] if self.found else []),
            *(
                [quarantined(self.ctx.store.objects, self.ctx.app.name, self.spec.name, news, now=self.now)]
                if news
                else []
            ),
        ]
        try:
            self.ctx.store.ledger.append(entries, recorded_at=datetime.now(UTC))
        except Conflict as exc:
            raise Conflict(
                "ST624",
                f"Another process fetched other rows of {self.spec.name} at the same time; nothing of {_span(self.windows)} was "
                "changed. Fetch again.",
                source=self.spec.name,
            ) from exc

    def _fetched(self, fetched: Fetched) -> Entry:
        manifest = tables.save(self.ctx.store.objects, self.table)
        fixed = f", {self.corrected} of them corrected" if self.corrected else ""
        counts = {"rows": fetched.rows, "parts": fetched.parts, "corrected": self.corrected}
        return Entry(
            app=self.ctx.app.name,
            timeline=DATA,
            # By what it was built on, not by what it came to: a version made from an older one than the newest is refused,
            # and a correction that is taken back later is an event of its own.
            key=f"fetched:{self.spec.name}:{self.base}",
            at=self.now,
            kind="fetched",
            sentence=f"Fetched {fetched.rows:,} rows of {self.spec.name} in {fetched.parts} windows{fixed}, "
            f"{_span(self.windows)}.",
            body={"source": self.spec.name, "table": self.table.id, **counts, "contract": self.contract.version},
            refs=(
                Ref(kind="source", name=self.spec.name, digest=manifest),
                Ref(kind="table", name=self.table.id, digest=manifest),
            ),
        )


def _cut(spec: SourceSpec, windows: Sequence[Window], rows: Rows) -> list[tuple[Window, np.ndarray]]:
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
