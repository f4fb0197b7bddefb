"""Check: what has to hold of a change of the code before it may be tried: imports, tests, contract, release, backtest, requests.

It stops before anything is delivered, and records nothing but trainings. The steps go from cheap to dear; the first that
fails ends it. The same code against the same release and rows is not checked twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from staytrue.errors import NotFound, StaytrueError
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.duration import duration
from staytrue.kernel.release import Digest, Release, trained_by
from staytrue.kernel.trial import Judgement
from staytrue.loop.checked import Base, Candidate, Checked
from staytrue.loop.checking.app_tests import command_of, tested
from staytrue.loop.checking.change import Change, identified, reusing
from staytrue.loop.checking.memory import recalled, remember
from staytrue.loop.checking.requests import differences, recent_requests, server_of
from staytrue.loop.checking.sources import sources_checked
from staytrue.loop.checking.step import Step, StepFailedError, skipped
from staytrue.loop.comparison import NEW_ROWS, Comparison, compared, without_newest
from staytrue.loop.context import Context
from staytrue.loop.jobs import Steps, tells_of_the_job
from staytrue.loop.past import Past
from staytrue.loop.proposal import Proposal, described_context
from staytrue.loop.release import answered_release, checked_out, golden_of, kept, release_refs, same_answers
from staytrue.loop.service import answers_differ, service_release
from staytrue.loop.train import Trained, train
from staytrue.loop.trial import Backtest, inputs
from staytrue.store.env import env_id
from staytrue.store.ledger import LIVE, Ref
from staytrue.store.objects import digest
from staytrue.store.store import Store

__all__ = ["REQUESTS", "STEPS", "check"]

STEPS: Final = ("import", "tests", "contract", "identity", "release", "backtest", "requests")
REQUESTS: Final = 500
"""So many logged requests are asked of both releases."""

_FORM = 1


def check(
    store: Store,
    proposal: Proposal,
    base: Base | None,
    *,
    now: datetime,
    past: Past | None = None,
    stop: int | None = None,
    number: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    requests: int = REQUESTS,
    scratch: bool = False,
    again: bool = False,
    moved: Callable[[str], None] | None = None,
) -> Steps[Checked]:
    """Take new code through every step that comes before a trial.

    Args:
        base: None: there is nothing to hold it against; then it is imported, tested, asked for rows and trained.
        past, stop: the rows, as the loop has them, and the tick before which labels are known; default: all that was fetched.
        number: of the trial, for its share of the error budget; default: the next one.
        since, until: the span to ask a source for that has no table; default: the newest 30 windows.
        requests: most logged requests to ask both releases.
        scratch: the store was made for this check: rows that pass their contract are kept, and trained on.
        again: don't believe what an earlier check of the same code found.
        moved: called with the name of each step before it begins.

    Raises:
        StaytrueError: what tells of this machine, or of a source that nobody can ask now, and not of the change: nothing
            may be concluded; the same check goes on later. ST840 is such.
    """
    run = _Check(
        store=store,
        proposal=proposal,
        base=base,
        now=now,
        past=past,
        stop=stop,
        number=number,
        span=(since, until),
        requests=requests,
        scratch=scratch,
        again=again,
        moved=moved or (lambda _name: None),
    )
    return (yield from run.checked())


@dataclass(kw_only=True)
class _Check:
    store: Store
    proposal: Proposal
    base: Base | None
    now: datetime
    past: Past | None
    stop: int | None
    number: int | None
    span: tuple[datetime | None, datetime | None]
    requests: int
    scratch: bool
    again: bool
    moved: Callable[[str], None]

    ctx: Context = field(init=False)
    change: Change = "recipe"
    candidate: Candidate | None = None
    old: Trained | None = None
    """Who answers for the base; None in a plain service and without a base."""
    refs: tuple[Ref, ...] = ()

    def checked(self) -> Steps[Checked]:
        known = None if self.again else self._recall(self._key())
        if known is not None:
            return known
        methods: Mapping[str, Callable[[], Steps[Step]]] = {
            "import": self._import, "tests": self._tests, "contract": self._contract, "identity": self._identity,
            "release": self._release, "backtest": self._backtest, "requests": self._requests,
        }  # fmt: skip
        steps: list[Step] = []
        for name in STEPS:
            failed = next((step for step in steps if step.status == "failed"), None)
            if failed:
                steps.append(Step(name=name, status="skipped", sentence=f"Not run: {failed.name} failed."))
                continue
            self.moved(name)
            began = time.perf_counter()
            step = yield from self._one(name, methods[name])
            steps.append(replace(step, seconds=round(time.perf_counter() - began, 3)))
        found = Checked(
            key=self._key(),
            app=self.ctx.app.name if hasattr(self, "ctx") else self.base.ctx.app.name if self.base else "",
            proposal=self.proposal,
            against=self.base.name if self.base else None,
            base=self.base.id if self.base else None,
            steps=tuple(steps),
            refs=self.refs,
        )
        found = replace(found, candidate=self.candidate if found.passed else None)
        if not found.passed:
            remember(self.store, found.key, found.document())
        return found

    def _one(self, name: str, method: Callable[[], Steps[Step]]) -> Steps[Step]:
        try:
            return (yield from method())
        except StepFailedError as exc:
            return Step(name=name, status="failed", sentence=exc.sentence, numbers=exc.numbers)
        except StaytrueError as exc:
            if not (tells_of_the_job(exc) or isinstance(exc, NotFound)):
                raise
            first, _, more = exc.message.partition("\n")
            numbers = {"error": exc.code, **({"tail": more} if more else {})}
            return Step(name=name, status="failed", sentence=first, numbers=numbers)

    # ------------------------------------------------------------ what was found before

    def _key(self) -> Digest:
        """The same code, against the same release, on the same rows: the same check."""
        rows = {ref.name: ref.digest for ref in self.store.ledger.refs(kind="source")}
        base = self.base.id if self.base else None
        about = {"form": _FORM, "code": self.proposal.code, "env": env_id(self.store.objects), "base": base}
        return digest(canonical_json({**about, "rows": rows}))

    def _recall(self, key: Digest) -> Checked | None:
        document = recalled(self.store, key)
        if document is None:
            return None
        return Checked(
            key=key,
            app=document["app"],
            proposal=self.proposal,
            against=self.base.name if self.base else None,
            base=self.base.id if self.base else None,
            steps=tuple(Step(**step) for step in document["steps"]),
            remembered=True,
        )

    # ------------------------------------------------------------ import, tests

    def _import(self) -> Steps[Step]:
        judge = self.base.ctx.app.metric if self.base else None
        self.ctx = yield from described_context(self.store, self.proposal.code, home=self.proposal.home, metric=judge)
        app = self.ctx.app
        if self.base and app.name != self.base.ctx.app.name:
            was = self.base.ctx.app.name
            raise StepFailedError(
                f"The app is called {app.name!r} here and {was!r} in {self.base.name}: one app, one name."
            )
        sentence = " ".join([f"{self.ctx.file.name} imports: {app!r}.", *self.proposal.remarks])
        return Step(name="import", status="passed", sentence=sentence, numbers={"remarks": list(self.proposal.remarks)})

    def _tests(self) -> Steps[Step]:
        command = command_of(self.ctx)
        key = digest(canonical_json({"form": _FORM, "code": self.ctx.code, "env": self.ctx.env, "tests": command}))
        known = None if self.again else recalled(self.store, key)
        if known is not None:
            return Step(**{**known, "sentence": f"{known['sentence']} (As found before.)"})
        step, self.refs = yield from tested(self.ctx, command)
        if step.status == "passed":
            remember(self.store, key, asdict(step))
        return step

    def _contract(self) -> Steps[Step]:
        old = self.base.ctx if self.base else None
        return (yield from sources_checked(self.ctx, old, now=self.now, span=self.span, scratch=self.scratch))

    # ------------------------------------------------------------ identity, release

    def _identity(self) -> Steps[Step]:
        yield from ()
        step = identified(self.ctx, self.base.ctx if self.base else None, self._released())
        self.change = step.numbers["change"]
        return replace(step, numbers={**step.numbers, "against": self.base.id if self.base else None})

    def _released(self) -> Release | None:
        return self.base.release.release if self.base and self.base.release else None

    def _release(self) -> Steps[Step]:
        if self.change == "same" and self._released():
            return skipped("release", "It is the release already.")
        parents = (self.base.release.id,) if self.base and self.base.release else ()
        if self.ctx.app.is_service:
            release = yield from service_release(self.ctx, parents=parents)
            self._found(release, release_refs(self.ctx, release), None)
            return self._told_release(release, "it answers its examples, twice and alike", {})
        if not self._has_rows():
            return skipped("release", "Nothing was fetched yet, so there is nothing to train on.")
        past = self._ticks()
        stop = past.until if self.stop is None else self.stop
        was = self._released()
        if was and not was.is_service and self.change in ("docs", "code"):
            release = yield from self._reused(was, parents)
            self._found(release, release_refs(self.ctx, release), checked_out(self.ctx, release))
            return self._told_release(release, f"model {str(release.model)[:8]} is reused", {"trained": False})
        start = _first(past, stop, self.ctx.app.settings.window)
        mine = self._as_asked_for(past)
        before = was.model if was else None
        if self.base and was is None:
            self.old = yield from train(self.base.ctx, inputs(past, start, stop))
        trained = yield from train(self.ctx, inputs(mine, start, stop), previous=before)
        release, refs = yield from answered_release(self.ctx, trained, parents=parents)
        self._found(release, refs, trained)
        how = f"trained on {trained.rows:,} rows" if trained.ran else "its recipe was trained before"
        return self._told_release(release, how, {"trained": trained.ran, "rows": trained.rows})

    def _reused(self, was: Release, parents: tuple[Digest, ...]) -> Steps[Release]:
        """The old model under the new code."""
        release = replace(reusing(self.ctx, was), parents=parents)
        _, recipe = release.trained()
        release = replace(release, as_trained=trained_by(release, self.store.recipe(recipe)))
        return replace(release, golden=(yield from golden_of(self.ctx, release)))

    def _found(self, release: Release, refs: tuple[Ref, ...], trained: Trained | None) -> None:
        id_ = kept(self.ctx, release)
        self.candidate = Candidate(
            ctx=self.ctx, release=release, id=id_, refs=refs, change=self.change, trained=trained
        )

    def _told_release(self, release: Release, how: str, numbers: Mapping[str, Any]) -> Step:
        id_ = kept(self.ctx, release)
        about = {"release": id_, "model": release.model, "golden": release.golden, **numbers}
        return Step(name="release", status="passed", sentence=f"Release {id_[:8]}: {how}.", numbers=about)

    def _has_rows(self) -> bool:
        if self.past is not None:
            return self.past.rows(0, self.past.until if self.stop is None else self.stop) > 0
        names = {name for name, source in self.ctx.app.sources.items() if source.spec.label}
        return any(self.store.ledger.ref("source", name, app=self.ctx.app.name) for name in names)

    def _ticks(self) -> Past:
        """The rows as the base asks for them: its metric and its segments judge."""
        if self.past is None:
            self.past = Past.whole(self.base.ctx if self.base and not self.base.ctx.app.is_service else self.ctx)
        return self.past

    def _as_asked_for(self, past: Past) -> Past:
        """The same ticks, as the new code asks for them."""
        return Past(
            ctx=self.ctx, table=past.table, spec=past.spec, ticks=past.ticks, first=past.first, until=past.until
        )

    # ------------------------------------------------------------ backtest, requests

    def _backtest(self) -> Steps[Step]:
        new = self.candidate
        if new is None or self.base is None:
            return skipped("backtest", "There is nothing to compare.")
        was = self._released()
        if self.ctx.app.is_service or self.base.ctx.app.is_service:
            return (yield from self._service_compared(new, was))
        self.candidate = new = replace(new, same_answers=bool(was and same_answers(self.ctx, was, new.release)))
        if self.change in ("same", "docs") and (new.same_answers or self.change == "same"):
            return skipped("backtest", "Nothing that answers differs.")
        past = self._ticks()
        stop = past.until if self.stop is None else self.stop
        how = yield from self._how(new, past, stop)
        rows = past.rows(how.held_out, stop)
        self.candidate = new = replace(new, comparison=how)
        if rows < NEW_ROWS or how.servers is None:
            return skipped(
                "backtest", f"{rows} labelled rows are newer than what both were trained on, {NEW_ROWS} are needed."
            )
        number = self.number or 1 + len(self._trials())
        settings = self.base.ctx.app.settings
        found = yield from compared(past, settings, how.servers, cut=how.held_out, stop=stop, number=number)
        apart = bool(found.pairs.overall.sums[:, 2].any())  # the sum of squares
        # More rows know more than the golden ones: whom they tell apart, those who ask can tell apart.
        self.candidate = replace(new, tested=found, same_answers=new.same_answers and not apart)
        numbers = _numbers(found)
        losses = f"{found.challenger_loss:.4g} against {found.champion_loss:.4g}"
        # With one model for both it is what the code changed, whoever saw the rows.
        unseen = "" if was and was.model == new.release.model else " that neither saw"
        said = f"It loses {losses} on {found.held_out:,} rows{unseen}"
        judged = found.judgement
        worse = judged.verdict == "worse" or (
            judged.verdict == "undecided" and found.pairs.overall.mean > found.pairs.margin
        )
        if worse:
            beyond = (
                "worse" if judged.verdict == "worse" else f"in the mean beyond the margin of {found.pairs.margin:.3g}"
            )
            raise StepFailedError(f"{said}: {beyond}. {judged.sentence[:1].upper()}{judged.sentence[1:]}.", numbers)
        said += f": {judged.sentence}" if apart else ": not one differs"
        return Step(name="backtest", status="passed", sentence=f"{said}.", numbers=numbers)

    def _how(self, new: Candidate, past: Past, stop: int) -> Steps[Comparison]:
        was = self._released()
        if self.base is None or new.trained is None:
            return Comparison(held_out=stop)
        if was and was.model == new.release.model:
            # Both have seen these rows alike: they tell what the code changed.
            cut = past.back(stop, self.base.ctx.app.settings.holdout, not_before=0)
            return Comparison(held_out=cut, servers=(checked_out(self.ctx, was), new.trained))
        mine = self._as_asked_for(past)
        return (yield from without_newest(self.ctx, past, stop, old=self.base.ctx, release=was, new_past=mine))

    def _service_compared(self, new: Candidate, was: Release | None) -> Steps[Step]:
        if was is None:
            return skipped("backtest", "The old code was never released: its answers are not known.")
        differs = yield from answers_differ(self.ctx, was, new.release)
        self.candidate = replace(new, same_answers=differs is None)
        sentence = f"Other answers to the examples: {differs}." if differs else "The same answers to every example."
        return Step(name="backtest", status="passed", sentence=sentence, numbers={"differs": differs})

    def _trials(self) -> list[Any]:
        return self.store.ledger.events(self.ctx.app.name, LIVE, kinds=["promoted", "rejected", "tried"])

    def _requests(self) -> Steps[Step]:
        new, base = self.candidate, self.base
        if new is None or base is None:
            return skipped("requests", "There is nothing to compare.")
        if self.change == "docs" and new.same_answers:
            return skipped("requests", "Nothing that answers differs.")
        rows = recent_requests(self.store, self.ctx.app.name, most=self.requests, now=self.now)
        if rows is None:
            return skipped("requests", "No request was logged yet.")
        was = self._released()
        before = self.old if was is None else None if was.is_service else checked_out(self.ctx, was)
        if before is None and not base.ctx.app.is_service:
            return skipped("requests", "The old code has no model to answer with.")
        found = yield from differences(self.ctx, server_of(base.ctx, before), server_of(self.ctx, new.trained), rows)
        numbers = found.document()
        if found.failing:
            why = found.failures[0]["error"]
            raise StepFailedError(
                f"{found.failing} of {found.rows} logged requests fail, and did not before: {why}", numbers
            )
        self.candidate = replace(new, same_answers=new.same_answers and not found.differ and not found.mended)
        apart = (
            f", by {found.by['p50']:.3g} in the middle and {found.by['max']:.3g} at most"
            if found.by and found.differ
            else ""
        )
        sentence = f"{found.differ} of {found.rows} logged requests are answered otherwise{apart}."
        return Step(name="requests", status="passed", sentence=sentence, numbers=numbers)


def _first(past: Past, stop: int, window: str) -> int:
    """The first tick to train on, as the policy's window says."""
    # Limit: `auto` trains on all rows; which window does best is for the next retraining to find out.
    if window in ("all", "auto"):
        return 0
    since = past.ticks[stop - 1].part.until - duration(window)
    return sum(tick.part.since < since for tick in past.ticks[:stop])


def _numbers(found: Backtest) -> dict[str, Any]:
    judged: Judgement = found.judgement
    return {
        "verdict": judged.verdict,
        "rows": found.held_out,
        "champion_loss": float(f"{found.champion_loss:.6g}"),
        "challenger_loss": float(f"{found.challenger_loss:.6g}"),
        "evidence": dict(judged.evidence),
    }
