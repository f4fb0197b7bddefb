"""Blame: which of code, data, settings, environment or model made a release lose more, by re-running mixtures of two.

Both releases and every mixture answer the same newest labelled rows, which none of them was trained on. What is asked is
decided by `kernel/blame.py`; a mixture is trained and asked as any release is (`loop/mixture.py`), so that asking again
costs nothing. What came out is an event, with the whole report as an object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from staytrue.errors import Conflict, InvalidInput, NotFound, Refused, Unavailable
from staytrue.kernel.blame import Repair, repair, shares
from staytrue.kernel.blame_report import BlameReport, Loss
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.gain import Cell, Change, Lost, blocks_of
from staytrue.kernel.incidents import ENDS
from staytrue.kernel.release import Digest
from staytrue.kernel.rise import rise
from staytrue.loop.comparison import NEW_ROWS, trained_stop
from staytrue.loop.culprits import culprits_of
from staytrue.loop.environments import in_environment
from staytrue.loop.jobs import Steps
from staytrue.loop.mixture import Budget, Mixtures, Side, side_of
from staytrue.loop.past import Past
from staytrue.loop.trial import inputs
from staytrue.store import tables
from staytrue.store.env import env_diff
from staytrue.store.ledger import LIVE, Entry, Ref
from staytrue.store.objects import digest
from staytrue.store.store import KeptRelease, Store
from staytrue.store.tables import Table

__all__ = ["Asked", "Search", "blame", "known", "prepared", "rising_since"]

_VERSION: Final = 2
"""Of the method: another one asks anew."""
_ROWS: Final = 2000
"""So many of the newest labelled rows are today."""
_SMALLEST: Final = 0.02
"""A gain of less than this share of today's loss is not worth looking for."""
_STALE: Final = 0.05
"""The newest rows are worth a training of their own when there are this share more of them."""
_FEWEST_LEFT: Final = 500
"""Rows since the training up to which all of them are today's, and none are left to train on."""
_MOVED: Final = 0.25
"""From this share of moved rows on a column counts as moved by an event upstream."""

_ORDER: Final = ("serving code", "settings", "seed", "training code", "environment", "data", "model")
"""In which order changes are preferred where two repair alike: what is cheapest to take back, and stays so, first."""
_CODE: Final = frozenset({Change(axis="training code"), Change(axis="serving code")})
_DATA: Final = Change(axis="data")
_FRESH: Final = Change(axis="data", how="fresh")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question: which two releases, how many trainings it may cost, and which of the newest rows are today's.

    `since`: when the loss began to rise, if anybody knows: rows before it would only dilute what is looked for.
    """

    good: Digest
    bad: Digest
    trainings: int = 12
    rows: int = _ROWS
    since: datetime | None = None

    def key(self, store: Store) -> str:
        """The same question on the same rows has the same key."""
        release = store.release_document(self.bad)
        newest = {name: store.ledger.ref("source", name, release.app) for name in sorted(release.tables)}
        rows = {name: ref.digest if ref else None for name, ref in newest.items()}
        since = self.since.isoformat() if self.since else None
        said = [_VERSION, self.good, self.bad, self.trainings, self.rows, since, rows]
        return f"blamed:{digest(canonical_json(said))}"


def known(store: Store, asked: Asked) -> Mapping[str, Any] | None:
    """The report on the same question about the same rows, if it was asked before."""
    key, app = asked.key(store), store.release_document(asked.bad).app
    for event in store.ledger.events(app, LIVE, kinds=["blamed"], newest_first=True):
        if event.key == key:
            return store.objects.get_document(Digest(event.body["report"]))
    return None


def rising_since(store: Store, app: str, release: str) -> datetime | None:
    """When the release's loss began to rise, as its harm alarm says that stands open; None where none does."""
    for event in store.ledger.events(app, LIVE, kinds=["alarm", *ENDS], newest_first=True):
        if event.kind != "alarm":
            return None
        if event.body.get("alarm") == "harm":
            since = event.body.get("evidence", {}).get("since")
            opened = event.body.get("state") != "resolved" and event.body.get("release") == release
            return datetime.fromisoformat(since) if opened and since else None
    return None


def blame(
    store: Store,
    asked: Asked,
    *,
    home: Path,
    over: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _said: None,
    now: datetime | None = None,
) -> Steps[Mapping[str, Any]]:
    """The report (`BlameReport.document`) on what made the bad release worse than the good one.

    Args:
        home: the user's own folder, where the repository is looked for.
        over: whether the time for it is over.    say: called with a sentence now and then.
        now: when it is said to have happened (default: now).

    Raises:
        Refused: ST809, too few labelled rows are newer than what both learned from.
        InvalidInput: ST810, the two are of two apps, or nothing could be tried.    And as `side_of`.
    """
    before = known(store, asked)
    if before is not None:
        return before
    search = yield from prepared(store, asked, home=home, over=over, say=say)
    report = yield from search.run()
    return _kept(store, asked, report, now or datetime.now(UTC))


def _kept(store: Store, asked: Asked, report: BlameReport, now: datetime) -> Mapping[str, Any]:
    document = report.document()
    if report.repair.cut_short:
        return document  # what its mixtures gave is kept; the question stays open
    made = store.objects.put_document(document)
    entry = Entry(
        app=report.app,
        key=asked.key(store),
        at=now,
        kind="blamed",
        sentence=f"Blame: {report.sentence()}",
        body={"good": report.good, "bad": report.bad, "outcome": report.outcome, "report": made},
        refs=(Ref(kind="blame", name=f"{report.good}:{report.bad}", digest=made),),
    )
    with suppress(Conflict):  # somebody else asked the same at the same time, and was first
        store.ledger.append([entry], recorded_at=datetime.now(UTC))
    return document


# ---------------------------------------------------------------- what differs, and on which rows it is asked


def prepared(
    store: Store,
    asked: Asked,
    *,
    home: Path,
    over: Callable[[], bool],
    say: Callable[[str], None],
) -> Steps[Search]:
    """The search, with all that is to be known before: the same for the same question. Raises as `blame`."""
    kept = {
        which: KeptRelease(store, id_, store.release_document(id_))
        for which, id_ in (("good", asked.good), ("bad", asked.bad))
    }
    _check(kept["good"], kept["bad"])
    bad = yield from side_of(store, kept["bad"], home=home)
    good = yield from side_of(store, kept["good"], home=home, metric=bad.ctx.app.metric)
    past = Past.whole(bad.ctx)
    start, fresh = _today(past, good, bad, asked)
    differing, untried, interpreters = yield from _differing(good, bad)
    if fresh is not None:
        differing.append(_FRESH)
    if not differing and not untried:
        text = (
            f"Blaming: nothing differs from {good.id[:8]} to {bad.id[:8]}, and there are no newer rows to learn from."
        )
        raise InvalidInput("ST810", text, good=good.id, bad=bad.id)
    mixtures = Mixtures(
        past=past,
        good=good,
        bad=bad,
        start=start,
        until=past.until,
        budget=Budget(trainings=asked.trainings, over=over),
        fresh=fresh,
        interpreters=interpreters,
        say=say,
    )
    changes = sorted(differing, key=lambda change: (_ORDER.index(change.axis), change.how))
    return Search(asked=asked, mixtures=mixtures, changes=tuple(changes), untried=untried)


def _check(good: KeptRelease, bad: KeptRelease) -> None:
    if good.release.app != bad.release.app:
        text = (
            f"Blaming: {good.id[:8]} is of {good.release.app}, {bad.id[:8]} of {bad.release.app}. Take two of one app."
        )
        raise InvalidInput("ST810", text, good=good.id, bad=bad.id)
    if good.id == bad.id:
        text = (
            f"Blaming: both releases are {good.id[:8]}. Say which was good and which is bad; `staytrue log` lists them."
        )
        raise InvalidInput("ST810", text, good=good.id, bad=bad.id)


def _today(past: Past, good: Side, bad: Side, asked: Asked) -> tuple[int, Mapping[str, Table] | None]:
    """The tick from which on rows are today's, and the tables that could be trained on if the newest before them were taken."""
    seen = max(trained_stop(past.ctx, side.release, past) for side in (good, bad))
    since = past.rows(seen, past.until)
    if since < NEW_ROWS:
        text = (
            f"Blaming: {since} labelled rows are newer than what {good.id[:8]} and {bad.id[:8]} learned from, {NEW_ROWS} are "
            "needed to compare them. Wait for labels (`staytrue status`), `staytrue fetch`, or take older releases."
        )
        raise Refused("ST809", text, rows=since, needed=NEW_ROWS)
    start = past.back(past.until, min(asked.rows, max(since // 2, min(since, _FEWEST_LEFT))), not_before=seen)
    if asked.since is not None:
        rose = sum(tick.part.until <= asked.since for tick in past.ticks)
        if past.rows(max(start, rose), past.until) >= NEW_ROWS:
            start = max(start, rose)
    newer = past.rows(trained_stop(past.ctx, bad.release, past), start)
    labelled = bad.tables[past.spec.name]
    if newer < max(NEW_ROWS, _STALE * (labelled.rows - labelled.unlabelled)):
        return start, None
    return start, inputs(past, 0, start)


def _differing(good: Side, bad: Side) -> Steps[tuple[list[Change], dict[str, str], dict[Digest, Path]]]:
    """The changes that may be taken back, those that can't be tried and why, and interpreters of other environments."""
    ours, theirs = good.recipe, bad.recipe
    differs = {
        "training code": ours.training_code != theirs.training_code,
        "serving code": good.release.code != bad.release.code,
        "settings": dict(ours.params) != dict(theirs.params),
        "seed": ours.seed != theirs.seed,
        "environment": good.release.env != bad.release.env,
        "data": dict(ours.tables) != dict(theirs.tables),
    }
    untried: dict[str, str] = {}
    interpreters: dict[Digest, Path] = {}
    # Where both are of one env, no mixture asks for another: they all run in this one.
    for env in {good.release.env, bad.release.env} - {bad.ctx.env} if differs["environment"] else ():
        try:
            there = (yield from in_environment(bad.ctx, env)).interpreter
        except (InvalidInput, NotFound, Refused, Unavailable) as exc:
            untried["environment"] = str(exc)
            differs["environment"] = False
        else:
            if there is not None:
                interpreters[env] = there
    differs["model"] = good.release.model != bad.release.model and not any(differs.values()) and not untried
    return [Change(axis=axis) for axis in _ORDER if differs[axis]], untried, interpreters


# ---------------------------------------------------------------- the search


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is asked of the mixtures of two releases: the changes that may be made, and those that can't be tried."""

    asked: Asked
    mixtures: Mixtures
    changes: tuple[Change, ...]
    untried: Mapping[str, str]

    def run(self) -> Steps[BlameReport]:
        """Search, look inside what was found, and report."""
        mixtures, past = self.mixtures, self.mixtures.past
        now = yield from self._now()
        blocks = blocks_of([past.rows(t, t + 1) for t in range(mixtures.start, mixtures.until)])
        smallest = max(_SMALLEST * float(np.abs(now).mean()), 1e-12)
        groups = [_CODE] if set(self.changes) >= _CODE else []
        found = yield from self._found(blocks, smallest, groups)
        loss = yield from self._loss(now)
        together = self._together()
        culprits = yield from culprits_of(mixtures, found, blocks)
        parts, estimated = self._shares(found)
        return BlameReport(
            app=past.ctx.app.name,
            good=self.asked.good,
            bad=self.asked.bad,
            loss=loss,
            repair=found,
            details=self._details(),
            untried=self.untried,
            shares=parts,
            estimated=estimated,
            together=together,
            culprits=culprits,
            remarks=self._remarks(),
            trainings=mixtures.budget.spent,
            mixtures=len(found.lost),
        )

    def _found(self, blocks: np.ndarray, smallest: float, groups: Sequence[Cell]) -> Steps[Repair]:
        """The repair. Data that lose to older ones are not stale but wrong, whatever newer rows would win."""
        found = yield from self._driven(repair(self.changes, blocks, smallest=smallest, groups=groups))
        if _FRESH not in found.changes or _DATA not in self.changes:
            return found
        changed = [change for change in self.changes if change != _FRESH]
        other = yield from self._driven(repair(changed, blocks, smallest=smallest, groups=groups))
        if _DATA not in other.changes:
            return found
        either = (*other.alternatives, _FRESH) if len(other.changes) == 1 else other.alternatives
        return replace(other, singles=found.singles, alternatives=either, lost={**found.lost, **other.lost})

    def _now(self) -> Steps[np.ndarray]:
        """What the bad release loses on today's rows: those since its loss rose, where nobody said since when but it shows."""
        mixtures, past = self.mixtures, self.mixtures.past
        plain = mixtures.mixed(frozenset())
        (now,) = yield from mixtures.outcomes([plain])
        if isinstance(now, np.ndarray) and self.asked.since is None:
            ticks = range(mixtures.start, mixtures.until)
            rows = [past.rows(t, t + 1) for t in ticks]
            served = mixtures.server(plain)
            means = [float(past.losses(served, t).mean()) if n else 0.0 for t, n in zip(ticks, rows, strict=True)]
            rose = rise(means, rows, fewest_rows=NEW_ROWS)
            if rose is not None:
                mixtures.start += rose
                (now,) = yield from mixtures.outcomes([plain])
        if not isinstance(now, np.ndarray):
            raise Refused("ST811", f"Blaming: {self.asked.bad[:8]} itself does not run: {now}", bad=self.asked.bad)
        return now

    def _driven(self, search: Any) -> Steps[Repair]:
        """Have the search's mixtures run until it is done."""
        wanted: Sequence[Cell] = next(search)
        while True:
            outcomes: Mapping[Cell, Lost] = yield from self.mixtures.lost(wanted)
            try:
                wanted = search.send(outcomes)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]

    def _loss(self, now: np.ndarray) -> Steps[Loss]:
        mixtures, past = self.mixtures, self.mixtures.past
        (good,) = yield from mixtures.outcomes([mixtures.good_as_it_is()])
        then, rows_then = yield from self._then(good)
        ticks = past.ticks[mixtures.start : mixtures.until]
        metric = past.ctx.app.metric
        return Loss(
            metric=metric if isinstance(metric, str) else getattr(metric, "__name__", "loss"),
            bad=float(now.mean()),
            good=float(good.mean()) if isinstance(good, np.ndarray) else None,
            good_then=then,
            rows=len(now),
            rows_then=rows_then,
            since=ticks[0].part.since.isoformat(),
            until=ticks[-1].part.until.isoformat(),
        )

    def _then(self, good: Lost | None) -> Steps[tuple[float | None, int]]:
        """What the good release lost on the first rows after its training, before today's: what it was when it was good."""
        mixtures, past = self.mixtures, self.mixtures.past
        first = trained_stop(past.ctx, mixtures.good.release, past)
        last = min(mixtures.start, past.until)
        rows = past.rows(first, last)
        if not isinstance(good, np.ndarray) or rows < NEW_ROWS:
            return None, 0
        while rows > 2 * self.asked.rows and last - first > 1:
            last = first + (last - first) // 2
            rows = past.rows(first, last)
        served = mixtures.server(mixtures.good_as_it_is())
        yield from past.answered([served], first, last)
        return float(past.losses_between(served, first, last).mean()), rows

    # ------------------------------------------------------------ to explain

    def _shares(self, found: Repair) -> tuple[dict[str, float], bool]:
        back = [change for change in self.changes if change.how == "back"]
        means = {cell: float(lost.mean()) for cell, lost in found.lost.items() if isinstance(lost, np.ndarray)}
        if not back or frozenset() not in means or frozenset(back) not in means:
            return {}, False
        made, whole = shares(means, back)
        return {axis: round(share, 9) for axis, share in made.items()}, not whole

    def _together(self) -> list[str]:
        """Columns that moved from the good release's rows to the bad one's, and in the traffic too."""
        mixtures, past = self.mixtures, self.mixtures.past
        name, objects = past.spec.name, past.ctx.store.objects
        stop = trained_stop(past.ctx, mixtures.good.release, past)
        if Change(axis="data") not in self.changes or not past.rows(stop, mixtures.start):
            return []
        old, new = mixtures.good.tables[name], mixtures.bad.tables[name]
        since = old.until
        added = tables.window(objects, new, since, new.until) if since and new.until and new.until > since else new
        today = past.window(mixtures.start, mixtures.until)
        # Time moves by itself, and so does any other column that holds one.
        times = {column for column, kind in new.schema if kind.startswith(("timestamp", "date"))}
        roles = {past.spec.time, past.spec.key, past.spec.label, *times}
        moved = [
            {
                column
                for column, distance in tables.diff(objects, old, other)["columns"].items()
                if distance["moved"] >= _MOVED and column not in roles
            }
            for other in (added, today)
        ]
        return sorted(moved[0] & moved[1])

    def _remarks(self) -> list[str]:
        here, sides = self.mixtures.past.ctx.env, (self.mixtures.good, self.mixtures.bad)
        elsewhere = {side.release.env for side in sides} - {here} - set(self.mixtures.interpreters)
        return (
            ["What was trained for this was trained in today's environment, which is another one."] if elsewhere else []
        )

    def _details(self) -> dict[str, str]:
        good, bad = self.mixtures.good, self.mixtures.bad
        objects = self.mixtures.past.ctx.store.objects
        said: dict[str, str] = {}
        ours, theirs = dict(good.recipe.params), dict(bad.recipe.params)
        keys = [key for key in sorted({*ours, *theirs}) if ours.get(key, ...) != theirs.get(key, ...)]
        if keys:
            said["settings"] = ", ".join(f"{key} {_value(ours, key)} -> {_value(theirs, key)}" for key in keys)
        if good.recipe.seed != bad.recipe.seed:
            said["seed"] = f"{good.recipe.seed} -> {bad.recipe.seed}"
        if good.release.env != bad.release.env:
            differs = env_diff(
                objects.get_document(good.release.env), objects.get_document(bad.release.env)
            ).sentences()
            said["environment"] = ", ".join(differs[:5]) + (f" and {len(differs) - 5} more" if len(differs) > 5 else "")
        return said


def _value(params: Mapping[str, Any], key: str) -> str:
    return repr(params[key])[:40] if key in params else "absent"
