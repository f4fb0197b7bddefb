"""Data: what is there of each source, what is in quarantine, and what people decide about it.

A decision is one event. One that changes the table is built on the newest version of it, as a fetch is, and is made anew when
a fetch came first; one that was made before changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from staytrue.errors import Conflict, InvalidInput, NotFound, Refused
from staytrue.kernel.contract import Breach, Column, SourceSpec
from staytrue.kernel.repair import Repair
from staytrue.kernel.sketch import describe, kind_of, sketch
from staytrue.loop.context import Context
from staytrue.loop.contracts import breaches, contract_of, kept_contract
from staytrue.loop.fetch import newest
from staytrue.loop.inspect import trusted
from staytrue.loop.quarantine import DATA, HeldWindow, breach_document, hold, mended, quarantine, quarantined
from staytrue.store import frames, tables
from staytrue.store.browse import alarms_of, found_events
from staytrue.store.frames import Rows
from staytrue.store.ledger import Entry, Event, Ref
from staytrue.store.store import Store
from staytrue.store.tables import Part, Table

__all__ = [
    "Decided",
    "document",
    "drop",
    "find",
    "held_back",
    "hold_again",
    "kept_back",
    "kept_sources",
    "part_document",
    "release",
    "repair",
    "set_apart",
    "source_document",
    "trust",
]

_ATTEMPTS: Final = 5
_FETCHES: Final = 200
# What a table is made of: rows with a time inside their window, of the table's columns and types, and labels that are numbers.
_HOLDS_ALWAYS: Final = frozenset({"ST231", "ST236", "ST237", "ST238", "ST239"})


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What a person decided about a held window; `new`: it was not decided so before."""

    held: HeldWindow
    sentence: str
    new: bool
    breaches: tuple[Breach, ...] = ()

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "held": self.held.document(),
            "sentence": self.sentence,
            "new": self.new,
            "breaches": [breach_document(breach) for breach in self.breaches],
        }


# ---------------------------------------------------------------- decisions


def release(ctx: Context, spec: SourceSpec, which: str, *, by: str, because: str | None) -> Decided:
    """Let a held window into the table as it is: a person says that it is right. Its rows are not refused again.

    Raises:
        NotFound: ST930, InvalidInput: ST936, as `find`.    Refused: ST931, rows that no table can hold.
        Conflict: ST934, the table has other rows by now; ST624, fetches came first again and again.
    """

    def made(one: HeldWindow, table: Table, rows: Rows) -> tuple[Part, tuple[Breach, ...]]:
        wrong = next((b for b in one.breaches if b.code in _HOLDS_ALWAYS and b.severity == "refuse"), None)
        if wrong is not None:
            raise _unfit(one, f"{wrong.code} {wrong.sentence}")
        try:
            part = tables.make_part(ctx.store.objects, rows, one.window, spec, like=table.schema or None)
        except InvalidInput as exc:
            raise _unfit(one, str(exc)) from exc
        return part, ()

    def told(one: HeldWindow) -> str:
        return f"{by} let the window {_span(one)} of {spec.name} in as it is, {one.rows:,} rows refused with {one.worst.code}"

    return _into_table(ctx, spec, which, "released", made=made, told=told, by=by, because=because, more={})


def repair(ctx: Context, spec: SourceSpec, which: str, how: Repair, *, by: str, because: str | None) -> Decided:
    """A part made from the rows of a held window with a repair, if the contract holds of it. The rows stay as they came.

    When the same rows come again, they are repaired the same way.

    Raises:
        InvalidInput: ST933, the repair does not fit the rows.    Refused: ST932, the contract does not hold of what it gives.
        Otherwise as `release`.
    """

    def made(one: HeldWindow, table: Table, rows: Rows) -> tuple[Part, tuple[Breach, ...]]:
        better = mended(rows, how, spec, table)
        before = _without(table, one)
        bad = tuple(breaches(ctx, spec, before, one.window, better, contract=contract_of(ctx, spec)))
        worst = next((breach for breach in bad if breach.severity == "refuse"), None)
        if worst is not None:
            likely = f" Likely: {worst.likely}." if worst.likely else ""
            raise Refused(
                "ST932",
                f"The window {_span(one)} of {spec.name} stays in quarantine: with {how.sentence}, still {worst.code} "
                f"{worst.sentence}{likely} Repair that too, or let it in with --release.",
                held=one.id,
                breaches=[breach_document(breach) for breach in bad],
            )
        return tables.make_part(ctx.store.objects, better, one.window, spec, like=table.schema or None), bad

    def told(one: HeldWindow) -> str:
        return f"{by} repaired the window {_span(one)} of {spec.name}: {how.sentence}"

    more = {"repair": how.document()}
    return _into_table(ctx, spec, which, "repaired", made=made, told=told, by=by, because=because, more=more)


def drop(ctx: Context, spec: SourceSpec, which: str, *, by: str, because: str | None) -> Decided:
    """Never let a held window in: where the table has a gap it stays, and is not asked for again.

    Raises:
        NotFound: ST930, InvalidInput: ST936, as `find`.    Conflict: ST934, the window is in the table already.
    """
    table, _ = newest(ctx, spec)
    one = find(ctx, spec, table, which)
    if one.state == "dropped" and one.decision:
        return Decided(held=one, sentence=one.decision.sentence, new=False)
    if one.state != "held":
        raise _decided_otherwise(one)
    sentence = f"{by} dropped the window {_span(one)} of {spec.name}: its {one.rows:,} rows are never let in"
    now = datetime.now(UTC)
    entry = Entry(
        app=ctx.app.name,
        timeline=DATA,
        key=f"dropped:{one.id}",
        at=now,
        kind="dropped",
        sentence=_because(sentence, because),
        body=_body(one, by, because),
    )
    ctx.store.ledger.append([entry], recorded_at=now)
    return Decided(held=find(ctx, spec, table, one.id), sentence=entry.sentence, new=True)


def hold_again(ctx: Context, spec: SourceSpec, which: str, *, by: str, because: str | None) -> Decided:
    """Put a window that was let in back into quarantine; the table has what it had for it before.

    Raises:
        NotFound: ST930, InvalidInput: ST936, as `find`.    Conflict: ST934, it was decided about otherwise, or the table has
        other rows by now; ST624, fetches came first again and again.
    """
    for _ in range(_ATTEMPTS):
        table, base = newest(ctx, spec)
        one = find(ctx, spec, table, which)
        if one.state == "held":
            return Decided(held=one, sentence=f"The window {_span(one)} of {spec.name} is held.", new=False)
        now_there = next((part for part in table.parts if (part.since, part.until) == one.window), None)
        if (
            one.state != "released"
            or one.decision is None
            or now_there is None
            or one.part != f"rows:{now_there.content}"
        ):
            raise _decided_otherwise(one)
        earlier = _before_event(ctx, spec, one.decision)
        before = next((part for part in earlier.parts if (part.since, part.until) == one.window), None)
        after = _without(table, one) if before is None else tables.correct(table, before)
        manifest = tables.save(ctx.store.objects, after)
        now = datetime.now(UTC)
        sentence = f"{by} put the window {_span(one)} of {spec.name} back into quarantine, {one.rows:,} rows"
        entry = Entry(
            app=ctx.app.name,
            timeline=DATA,
            key=f"fetched:{spec.name}:{base}",
            at=now,
            kind="held",
            sentence=_because(sentence, because),
            body={**_body(one, by, because), "table": after.id},
            refs=(
                Ref(kind="source", name=spec.name, digest=manifest),
                Ref(kind="table", name=after.id, digest=manifest),
            ),
        )
        try:
            ctx.store.ledger.append([entry], recorded_at=now)
        except Conflict as exc:
            if exc.code != "ST415":
                raise
            continue
        return Decided(held=find(ctx, spec, after, one.id), sentence=entry.sentence, new=True)
    raise _came_first(spec)


def set_apart(
    ctx: Context, spec: SourceSpec, windows: Collection[tuple[datetime, datetime]], *, by: str, because: str
) -> int:
    """Take windows that the table has out of it, into quarantine and not to be asked for again; how many there were.

    `release` lets them in again. Windows that the table has not (any more) are passed over, so doing it twice changes nothing.

    Raises:
        Conflict: ST624, fetches came first again and again.
    """
    for _ in range(_ATTEMPTS):
        table, base = newest(ctx, spec)
        parts = [part for part in table.parts if (part.since, part.until) in windows and part.rows]
        if not parts:
            return 0
        objects, now = ctx.store.objects, datetime.now(UTC)
        breach = Breach(code="ST958", column=None, sentence=because)
        contract = contract_of(ctx, spec).version
        held = [
            hold(
                objects, frames.read_parquet(objects.get(part.object)), (part.since, part.until), spec,
                breaches=[breach], before=part, contract=contract, at=now,
            )
            for part in parts
        ]  # fmt: skip
        after = tables.without(table, parts)
        manifest = tables.save(objects, after)
        rows = sum(part.rows for part in parts)
        sentence = f"{by} took {len(parts)} windows with {rows:,} rows of {spec.name} out of the table"
        taken = Entry(
            app=ctx.app.name,
            timeline=DATA,
            key=f"fetched:{spec.name}:{base}",
            at=now,
            kind="set_apart",
            sentence=_because(sentence, because),
            body={"source": spec.name, "windows": len(parts), "rows": rows, "by": by, "table": after.id},
            refs=(
                Ref(kind="source", name=spec.name, digest=manifest),
                Ref(kind="table", name=after.id, digest=manifest),
            ),
        )
        never = [
            Entry(
                app=ctx.app.name,
                timeline=DATA,
                key=f"dropped:{one.id}",
                at=now,
                kind="dropped",
                sentence=_because(f"{by} dropped the window {_span(one)} of {spec.name}", because),
                body=_body(one, by, because),
            )
            for one in held
        ]
        try:
            ctx.store.ledger.append(
                [taken, quarantined(objects, ctx.app.name, spec.name, held, now=now), *never], recorded_at=now
            )
        except Conflict as exc:
            if exc.code != "ST415":
                raise
            continue
        return len(parts)
    raise _came_first(spec)


def _before_event(ctx: Context, spec: SourceSpec, event: Event) -> Table:
    """The table that a decision was built on: its key names the event that had made it."""
    base = int(event.key.rpartition(":")[2])
    refs = ctx.store.ledger.refs(app=ctx.app.name, kind="source", name=spec.name)
    found = next((ref.digest for ref in refs if ref.seq == base), None)
    return tables.load(ctx.store.objects, found) if found else tables.empty(spec)


def trust(ctx: Context, which: str, *, by: str, because: str | None) -> tuple[str, bool]:
    """Let rows that the champion found mislabelled into trainings after all; what is said, and whether it is new.

    Raises:
        NotFound: ST930, nothing with that id is held back.    InvalidInput: ST936, several are.
    """
    found = {one["id"]: one for one in held_back(ctx) if which and one["id"].startswith(which)}
    if not found:
        message = f"Nothing that is held back from training has the id {which[:40]!r}. `staytrue data` lists what is."
        raise NotFound("ST930", message, got=which[:80])
    if len(found) > 1:
        raise InvalidInput("ST936", f"{len(found)} ids begin with {which!r}: give more of it.", ids=sorted(found))
    (one,) = found.values()
    now = datetime.now(UTC)
    entry = Entry(
        app=ctx.app.name,
        timeline=DATA,
        key=f"trusted:{one['id']}",
        at=now,
        kind="trusted",
        sentence=_because(f"{by} says the labels of {one['what']} are right: they are trained on", because),
        body={"held": one["id"], "what": one["what"], "by": by, "because": because},
    )
    known = [e for e in ctx.store.ledger.events(ctx.app.name, DATA, kinds=["trusted"]) if e.key == entry.key]
    if known:
        return known[0].sentence, False
    ctx.store.ledger.append([entry], recorded_at=now)
    return entry.sentence, True


def held_back(ctx: Context) -> list[dict[str, Any]]:
    """As `kept_back`."""
    return kept_back(ctx.store, ctx.app.name)


def kept_back(store: Store, app: str) -> list[dict[str, Any]]:
    """What the live loop holds back from training since it looks mislabelled (`loop/inspect.py`), oldest first."""
    people = trusted(store.ledger, app)
    found: dict[str, dict[str, Any]] = {}
    for event in alarms_of(store.ledger, app, "fault"):
        seen, state = event.body.get("evidence", {}), event.body.get("state")
        id_ = seen.get("held")
        # A window in quarantine is named as `held` too, and is no group of rows since some time.
        if id_ and state == "opened" and "since" in seen:
            what = seen.get("group") or seen["since"][:16]
            found[id_] = {"id": id_, "what": what, "state": "held", "sentence": event.sentence, "evidence": seen}
        elif id_ and state == "resolved":
            for gone in {id_, *seen.get("let_go", ())} & found.keys():
                found[gone] |= {"state": "let_go"}
    return [one | ({"state": "trusted"} if one["id"] in people else {}) for one in found.values()]


def find(ctx: Context, spec: SourceSpec, table: Table, which: str) -> HeldWindow:
    """The held window whose id begins so, or the newest of the window that begins at that time.

    Raises:
        NotFound: ST930, none.    InvalidInput: ST936, several.
    """
    known = quarantine(ctx.store.objects, ctx.store.ledger, ctx.app.name, spec.name, table)
    begins = _moment(which)
    found = [one for one in known if one.id.startswith(which)] if which else []
    if not found and begins is not None:
        found = [one for one in known if one.since == begins][-1:]
    if not found:
        listed = ", ".join(one.id[:8] for one in known if one.state == "held") or "none"
        raise NotFound(
            "ST930",
            f"No window of {spec.name} in quarantine has the id or the time {which[:40]!r}; held are {listed}. "
            f"`staytrue data {spec.name}` lists them.",
            source=spec.name,
            got=which[:80],
        )
    if len(found) > 1:
        ids = [one.id for one in found]
        raise InvalidInput("ST936", f"{len(found)} windows begin with {which!r}: give more of the id.", ids=ids)
    return found[0]


_Made = Callable[[HeldWindow, Table, Rows], tuple[Part, tuple[Breach, ...]]]


def _into_table(
    ctx: Context,
    spec: SourceSpec,
    which: str,
    kind: Literal["released", "repaired"],
    *,
    made: _Made,
    told: Callable[[HeldWindow], str],
    by: str,
    because: str | None,
    more: dict[str, Any],
) -> Decided:
    for _ in range(_ATTEMPTS):
        table, base = newest(ctx, spec)
        one = find(ctx, spec, table, which)
        before = next((part for part in table.parts if (part.since, part.until) == one.window), None)
        _may_decide(one, before)
        rows = frames.read_parquet(ctx.store.objects.get(one.object))
        part, bad = made(one, table, rows)
        if one.state == kind and one.decision and one.part == f"rows:{part.content}":
            return Decided(held=one, sentence=one.decision.sentence, new=False, breaches=bad)
        after = tables.append(table, part) if before is None else tables.correct(table, part)
        manifest = tables.save(ctx.store.objects, after)
        now = datetime.now(UTC)
        body = {**_body(one, by, because), "table": after.id, "part": f"rows:{part.content}", "kept": part.rows, **more}
        entry = Entry(
            app=ctx.app.name,
            timeline=DATA,
            # As a fetch's: of two that were built on the same version of the table, one is first.
            key=f"fetched:{spec.name}:{base}",
            at=now,
            kind=kind,
            sentence=_because(told(one), because),
            body=body,
            refs=(
                Ref(kind="source", name=spec.name, digest=manifest),
                Ref(kind="table", name=after.id, digest=manifest),
            ),
        )
        try:
            ctx.store.ledger.append([entry], recorded_at=now)
        except Conflict as exc:
            if exc.code != "ST415":
                raise
            continue
        return Decided(held=find(ctx, spec, after, one.id), sentence=entry.sentence, new=True, breaches=bad)
    raise _came_first(spec)


def _came_first(spec: SourceSpec) -> Conflict:
    return Conflict(
        "ST624",
        f"Rows of {spec.name} came from elsewhere {_ATTEMPTS} times at the same moment; nothing was changed. Do it again.",
        source=spec.name,
    )


def _may_decide(one: HeldWindow, part: Part | None) -> None:
    content = f"rows:{part.content}" if part else None
    if one.state in ("mended", "replaced") or (one.part is not None and one.part != content):
        raise _decided_otherwise(one)


def _decided_otherwise(one: HeldWindow) -> Conflict:
    why = {
        "mended": "the source gave rows since that hold, and they are in the table",
        "replaced": "the source gave other rows since, which are held in their place",
        "released": "it was released, and is in the table",
        "repaired": "it was repaired, and is in the table",
    }.get(one.state, "it was decided otherwise")
    return Conflict(
        "ST934",
        f"Nothing is to be decided about the window {_span(one)} of {one.source} ({one.id[:8]}): {why}. "
        f"`staytrue data {one.source}` lists what is held.",
        held=one.id,
        state=one.state,
    )


def _unfit(one: HeldWindow, why: str) -> Refused:
    return Refused(
        "ST931",
        f"The window {_span(one)} of {one.source} can't be let in as it is, no table can hold it: {why} "
        f"Mend it at the source, or with `staytrue data {one.source} --repair {one.id[:8]}`.",
        held=one.id,
    )


def _without(table: Table, one: HeldWindow) -> Table:
    """The table as it is without the window: what the rows of the window are held against."""
    kept = [part for part in table.parts if (part.since, part.until) != one.window]
    found = Table(
        source=table.source, time=table.time, key=table.key, label=table.label, schema=table.schema, chunks=()
    )
    return table if len(kept) == len(table.parts) else _appended(found, kept)


def _appended(table: Table, parts: list[Part]) -> Table:
    for part in parts:
        table = tables.append(table, part)
    return table


def _body(one: HeldWindow, by: str, because: str | None) -> dict[str, Any]:
    return {
        "source": one.source,
        "held": one.id,
        "since": one.since.isoformat(),
        "until": one.until.isoformat(),
        "rows": one.rows,
        "codes": sorted({b.code for b in one.breaches if b.severity == "refuse"}),
        "by": by,
        "because": because,
    }


def _because(sentence: str, because: str | None) -> str:
    return f"{sentence}: {because}" if because else f"{sentence}."


def _span(one: HeldWindow) -> str:
    short = one.until - one.since < timedelta(days=1)
    return f"{one.since:%Y-%m-%d %H:%M}" if short else f"{one.since:%Y-%m-%d}"


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


# ---------------------------------------------------------------- what is there


def document(store: Store, app: str, specs: Iterable[SourceSpec], *, now: datetime) -> dict[str, Any]:
    """What `staytrue data --json` prints: each source, and what is held back from training."""
    asked = _fetches(store, app)
    return {
        "app": app,
        "at": now.isoformat(),
        "sources": [source_document(store, app, spec, now=now, asked=asked) for spec in specs],
        "held_back": kept_back(store, app),
    }


def kept_sources(store: Store, app: str) -> list[SourceSpec]:
    """The sources that the store knows of, without running the app's code: as the loop last had them, else as their tables tell.

    Limit: without a loop, how long a window is, is read from the newest ones, and when labels are due is not known.
    """
    newest_of = {ref.name: ref.digest for ref in store.ledger.refs(app=app, kind="source")}
    lease = store.ledger.lease(app)
    declared = (lease.state if lease else {}).get("sources", ())
    found = {one["name"]: SourceSpec.from_document(one) for one in declared}
    for name, manifest in newest_of.items():
        if name not in found:
            found[name] = _kept(tables.load(store.objects, manifest))
    for name in _fetches(store, app):
        if name not in found:
            found[name] = SourceSpec(name=name, time=None, key=None, snapshot=True)
    return list(found.values())


def _fetches(store: Store, app: str) -> dict[str, Event]:
    """Source -> the newest time that it was asked, as far as the newest few hundred fetches tell."""
    asked = found_events(store.ledger, app, timelines=[DATA], kinds=["fetched", "fetch_failed"], limit=_FETCHES)
    found: dict[str, Event] = {}
    for event in asked:
        if source := event.body.get("source"):
            found.setdefault(source, event)
    return found


def _kept(table: Table) -> SourceSpec:
    lengths = Counter(part.until - part.since for part in table.chunks[-1].parts) if table.chunks else Counter()
    every = lengths.most_common(1)[0][0] if lengths else timedelta(days=1)
    snapshot = table.time is None or every <= timedelta(microseconds=1)
    return SourceSpec(
        name=table.source, time=table.time, key=table.key, label=table.label, every=every, snapshot=snapshot
    )


def source_document(
    store: Store, app: str, spec: SourceSpec, *, now: datetime, asked: Mapping[str, Event] | None = None
) -> dict[str, Any]:
    """A source: its table, how fresh it is, whether it failed when it was asked last, its contract and its quarantine."""
    ref = store.ledger.ref("source", spec.name, app=app)
    table = tables.load(store.objects, ref.digest) if ref else tables.empty(spec)
    known = quarantine(store.objects, store.ledger, app, spec.name, table)
    held = [one for one in known if one.state == "held"]
    behind = _behind(spec, table, now)
    last = (_fetches(store, app) if asked is None else asked).get(spec.name)
    failed = last if last and last.kind == "fetch_failed" else None
    return {
        "source": spec.name,
        "table": table.id if table.parts else None,
        "rows": table.rows,
        "parts": len(table.parts),
        "unlabelled": table.unlabelled,
        "since": table.since.isoformat() if table.since else None,
        "until": table.until.isoformat() if table.until else None,
        "every_s": spec.every.total_seconds(),
        "behind": behind,
        "gaps": _gaps(spec, table),
        "contract": kept_contract(store, app, spec.name).version,
        "failed": failed
        and {"at": failed.at.isoformat(), "sentence": failed.sentence, "code": failed.body.get("code")},
        "held": len(held),
        "quarantine": [one.document() for one in known],
        "sentence": _freshness(spec, table, behind, len(held), failed),
    }


def part_document(ctx: Context, spec: SourceSpec, which: str) -> dict[str, Any]:
    """One window: what was held of it, or else the part that the table has, column by column.

    Raises:
        NotFound: ST930, neither.    InvalidInput: ST936, as `find`.
    """
    table, _ = newest(ctx, spec)
    begins = _moment(which)
    part = next((p for p in table.parts if begins is not None and p.since <= begins < p.until), None)
    try:
        one = find(ctx, spec, table, part.since.isoformat() if part and begins else which)
    except NotFound:
        if part is None:
            raise
        alone = _appended(tables.empty(spec), [part])
        made = tables.sketches(ctx.store.objects, alone)
        return {
            "source": spec.name,
            "since": part.since.isoformat(),
            "until": part.until.isoformat(),
            "rows": part.rows,
            "unlabelled": part.unlabelled,
            "held": None,
            "columns": {name: describe(sketched) for name, sketched in made.items()},
        }
    rows = frames.read_parquet(ctx.store.objects.get(one.object))
    return {
        "source": spec.name,
        "since": one.since.isoformat(),
        "until": one.until.isoformat(),
        "rows": one.rows,
        "unlabelled": _unlabelled(rows, spec),
        "held": one.document(),
        "columns": {name: _described(frames.column(rows, name)) for name in rows.column_names},
    }


def _described(column: Column) -> dict[str, Any]:
    return describe(sketch(column.values, column.valid, kind_of(column.type)))


def _unlabelled(rows: Rows, spec: SourceSpec) -> int:
    if not spec.label or spec.label not in rows.column_names:
        return 0
    return int((~frames.column(rows, spec.label).valid).sum())


def _behind(spec: SourceSpec, table: Table, now: datetime) -> int:
    """How many windows are over and not there after the newest one."""
    if table.until is None or table.until >= now:
        return 0
    return (now - table.until) // spec.every


def _gaps(spec: SourceSpec, table: Table) -> int:
    """How many windows are missing between the first and the last."""
    if table.since is None or table.until is None or spec.snapshot:
        return 0
    return (table.until - table.since) // spec.every - len(table.parts)


def _freshness(spec: SourceSpec, table: Table, behind: int, held: int, failed: Event | None) -> str:
    wrong = f" {failed.sentence.rstrip('.')}." if failed else ""
    if table.until is None:
        return f"{spec.name}: nothing was fetched yet.{wrong}"
    late = f"{_windows(behind)} behind" if behind else "up to date"
    waiting = f", {table.unlabelled:,} without a label" if table.unlabelled else ""
    apart = f"; {_windows(held)} in quarantine" if held else ""
    return f"{spec.name}: {table.rows:,} rows in {len(table.parts)} parts{waiting}, {late}{apart}.{wrong}"


def _windows(count: int) -> str:
    return "1 window" if count == 1 else f"{count:,} windows"
