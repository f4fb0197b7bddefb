"""Refresh: the newest rows, and the champion's own code retrained on them. What stands in the user's folder is not asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from staytrue.errors import InvalidInput, NotFound, StaytrueError, Unavailable
from staytrue.kernel.release import Digest, Release
from staytrue.loop.comparison import trained_stop
from staytrue.loop.context import Context
from staytrue.loop.deliver import Delivered, train_by_hand
from staytrue.loop.fetch import Fetched, fetch, newest
from staytrue.loop.jobs import Steps, tells_of_the_job
from staytrue.loop.lease import alive
from staytrue.loop.orders import ask
from staytrue.loop.outlook import next_training, on_trial
from staytrue.loop.past import Past
from staytrue.loop.trial import inputs
from staytrue.store.store import KeptRelease
from staytrue.store.tables import Table

__all__ = ["News", "Refreshed", "asked", "news", "refresh", "rehearsed", "sources_of"]


@dataclass(frozen=True, kw_only=True)
class News:
    """What there is that the champion has not learned from.

    Attributes:
        rows: labelled rows since its training.
        corrected: rows that it was trained on are others now, or there are other rows to join with.
    """

    rows: int
    corrected: bool
    learned_until: datetime | None
    newest: datetime | None

    def __bool__(self) -> bool:
        return self.rows > 0 or self.corrected

    @property
    def sentence(self) -> str:
        """It, in words."""
        learned, last = (f"{at:%Y-%m-%d}" if at else "never" for at in (self.learned_until, self.newest))
        if not self:
            return (
                f"There is nothing newer than what the champion learned from (up to {learned}); the source last gave rows for "
                f"{last}."
            )
        came = f"{self.rows:,} labelled rows came since what the champion learned from (up to {learned})"
        return f"{came}, and earlier ones were corrected." if self.corrected else f"{came}."


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """What came of a refresh: of each source, what it gave or why it did not, and of the training."""

    fetched: tuple[Fetched, ...]
    failed: dict[str, StaytrueError]
    news: News
    delivered: Delivered | None
    trained: bool
    sentence: str

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "fetched": [one.document() for one in self.fetched],
            "failed": {name: exc.document() for name, exc in self.failed.items()},
            "rows": self.news.rows,
            "corrected": self.news.corrected,
            "learned_until": _iso(self.news.learned_until),
            "newest": _iso(self.news.newest),
            "trained": self.trained,
            "delivered": self.delivered.document() if self.delivered else None,
            "sentence": self.sentence,
        }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def sources_of(ctx: Context, wanted: Sequence[str]) -> list[str]:
    """The sources to ask: those wanted, or all, the labelled one last, so that it finds the others' rows.

    Raises:
        InvalidInput: ST983, a plain service has none.    NotFound: ST620, no such source.
    """
    sources = ctx.app.sources
    if ctx.app.is_service:
        raise InvalidInput(
            "ST983",
            f"{ctx.app.name} is a plain service: it learns from no rows, so that there is nothing to refresh.",
            app=ctx.app.name,
        )
    for name in wanted:
        if name not in sources:
            known = ", ".join(sources)
            raise NotFound("ST620", f"App {ctx.app.name} has no source {name!r}; there are {known}.", source=name)
    return sorted(wanted or sources, key=lambda name: bool(sources[name].spec.label))


def news(ctx: Context, past: Past, champion: Release) -> News:
    """What there is in the tables that this release's model has not learned from."""
    stop = trained_stop(ctx, champion, past)
    _, recipe = champion.trained()
    learned = ctx.store.recipe(recipe).tables
    whole = ctx.store.table_by_id(learned[past.spec.name]).table if past.spec.name in learned else None
    # Rows that were held back from the training are no news: what is there of the same windows is compared.
    known = {(part.since, part.until): part.content for part in whole.parts} if whole else {}
    now = {(part.since, part.until): part.content for part in past.table.parts if (part.since, part.until) in known}
    joined = any(table.id != learned.get(name) for name, table in _others(ctx, past, whole, stop).items())
    return News(
        rows=past.rows(stop, past.until),
        corrected=now != known or joined,
        learned_until=whole.until if whole else None,
        newest=_last_rows(past),
    )


def _others(ctx: Context, past: Past, whole: Table | None, stop: int) -> dict[str, Table]:
    """The rows to join with as a training of the same time would be given them now; of snapshots the newest one."""
    begins = sum(tick.part.since < whole.since for tick in past.ticks) if whole and whole.since else 0
    then, newly = inputs(past, min(begins, max(stop - 1, 0)), stop or past.until), inputs(past, 0, past.until)
    snapshots = {name for name, source in ctx.app.sources.items() if source.spec.snapshot}
    return {name: (newly if name in snapshots else then)[name] for name in then if name != past.spec.name}


def _last_rows(past: Past) -> datetime | None:
    """The end of the last window that has rows."""
    return next((tick.part.until for tick in reversed(past.ticks) if tick.rows), None)


def asked(
    ctx: Context, sources: Sequence[str], *, now: datetime, said: Callable[[str], None]
) -> Steps[tuple[tuple[Fetched, ...], dict[str, StaytrueError]]]:
    """What each source gave, or why it did not; one that is down keeps no other from being asked.

    Args:
        said: called with a sentence for each source.
    """
    found: list[Fetched] = []
    failed: dict[str, StaytrueError] = {}
    for name in sources:
        try:
            one = yield from fetch(ctx, name, now=now)
        except StaytrueError as exc:
            if not (isinstance(exc, Unavailable) or tells_of_the_job(exc)):
                raise
            failed[name] = exc
            said(f"{name} gave nothing, and it goes on with what is there of it: {exc}")
            continue
        found.append(one)
        kept = f"; {one.quarantined} windows went into quarantine" if one.quarantined else ""
        said(f"{name}: {one.rows:,} rows in {one.parts} windows, up to {one.until:%Y-%m-%d %H:%M} UTC{kept}.")
    return tuple(found), failed


def refresh(
    ctx: Context,
    champion: KeptRelease,
    sources: Sequence[str],
    *,
    now: bool,
    by: str,
    why: str | None,
    said: Callable[[str], None] = lambda _: None,
) -> Steps[Refreshed]:
    """Ask the sources, then retrain the champion's code with its params on the newest rows, and deliver what comes out.

    Args:
        ctx: the app as the champion has it.
        now: make it champion without a trial. Else, where the loop lives, it is asked to retrain; it tries what comes out.
        said: called with what each source gave.

    Raises:
        As `train_by_hand`.    NotFound: ST475, nothing was ever fetched.
    """
    fetched, failed = yield from asked(ctx, sources, now=datetime.now(UTC), said=said)
    past = Past.whole(ctx)
    found = news(ctx, past, champion.release)
    if not found:
        return _told(fetched, failed, found, None, found.sentence)
    if alive(ctx.store.root, ctx.app.name) and not now:
        done = _ordered(ctx, champion.id, by=by, why=why)
        return _told(fetched, failed, found, done, f"{found.sentence} {done.sentence}")
    about = {"refreshed": list(sources), "by": by, "why": why}
    delivered, trained = yield from train_by_hand(ctx, past, now=now, about=about)
    said(f"Trained model {trained.model[:8]} on {trained.rows:,} rows.")
    sentence = delivered.sentence if delivered else "The champion is this code and this model already."
    return _told(fetched, failed, found, delivered, f"{found.sentence} {sentence}", trained=trained.ran)


def _told(
    fetched: tuple[Fetched, ...],
    failed: dict[str, StaytrueError],
    found: News,
    delivered: Delivered | None,
    sentence: str,
    *,
    trained: bool = False,
) -> Refreshed:
    return Refreshed(
        fetched=fetched, failed=failed, news=found, delivered=delivered, trained=trained, sentence=sentence
    )


def _ordered(ctx: Context, champion: Digest, *, by: str, why: str | None) -> Delivered:
    """Ask the loop to retrain, unless somebody is on trial: it would decline."""
    app, store = ctx.app.name, ctx.store
    challenger = on_trial(store, app)
    if challenger is not None:
        sentence = (
            f"Challenger {challenger[:8]} is on trial, and the loop tries one at a time: nothing is trained now. "
            "`staytrue reject` ends the trial, --now trains and lets in at once."
        )
        return Delivered(release=challenger, promoted=False, verdict="busy", sentence=sentence, evidence={})
    order = ask(store.ledger, app, "retrain", by=by, now=datetime.now(UTC), why=why or "refresh")
    sentence = f"The loop of {app} is asked to retrain, and tries what comes out. `staytrue log --follow` tells of it."
    return Delivered(release=champion, promoted=False, verdict="ordered", sentence=sentence, evidence={}, order=order)


def rehearsed(ctx: Context, champion: Release, sources: Sequence[str], *, now: bool, at: datetime) -> dict[str, Any]:
    """What a refresh would do, as a document with sentences. No source is asked."""
    past = Past.whole(ctx)
    found, lives = news(ctx, past, champion), alive(ctx.store.root, ctx.app.name)
    sentences = []
    for name in sources:
        table, _ = newest(ctx, ctx.app.sources[name].spec)
        sentences.append(f"{name} would be asked for rows up to {at:%Y-%m-%d %H:%M} UTC; {_there(table)}.")
    sentences += [found.sentence, _would(ctx, found, now=now, lives=lives), next_training(ctx, whose="the champion's")]
    return {"rows": found.rows, "corrected": found.corrected, "sources": list(sources), "sentences": sentences}


def _there(table: Table) -> str:
    return f"{table.rows:,} are there, up to {table.until:%Y-%m-%d}" if table.until else "nothing is there yet"


def _would(ctx: Context, found: News, *, now: bool, lives: bool) -> str:
    if not found:
        return "If the sources give nothing newer, nothing is trained."
    if now:
        return "The champion's code is trained on the newest rows, and champion at once, without a trial (--now)."
    challenger = on_trial(ctx.store, ctx.app.name)
    if lives and challenger:
        return f"Challenger {challenger[:8]} is on trial, so that nothing would be trained now."
    if lives:
        return "The loop, which is alive, is asked to retrain, and tries what comes out on live rows."
    return "The champion's code is trained on the newest rows, and held against the champion on rows that neither learned from."
