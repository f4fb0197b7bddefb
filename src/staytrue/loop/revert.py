"""Revert: a new release with exactly the named axes of an older one. Nothing is trained, nothing is rewritten."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from staytrue.errors import NotFound, StaytrueError
from staytrue.kernel.release import AXES, Axis, Digest, Release, same_thing
from staytrue.kernel.release import revert as mixed
from staytrue.loop.comparison import Comparison, unseen
from staytrue.loop.context import Context
from staytrue.loop.deliver import Delivered, Delivery, champion_epoch, delivery
from staytrue.loop.jobs import Steps, tells_of_the_job
from staytrue.loop.lease import alive
from staytrue.loop.orders import ask
from staytrue.loop.past import Past
from staytrue.loop.proposal import described_release
from staytrue.loop.release import golden_of, made_of, release_refs, same_answers
from staytrue.loop.service import let_in
from staytrue.store.ledger import LIVE, Ref
from staytrue.store.store import KeptRelease, Store

__all__ = ["Plan", "before", "champion_of", "context_of", "hand_over", "made", "planned", "revert"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a revert is about to make.

    Attributes:
        epoch: of the champion that it starts from.
        release: what is made; its golden rows are not answered yet, unless it is there already.
        known: the kept release that it is: the same code, data and model, which were together before.
    """

    champion: KeptRelease
    epoch: int
    to: KeptRelease
    axes: tuple[Axis, ...]
    release: Release
    known: KeptRelease | None

    @property
    def words(self) -> str:
        """What is done, as the end of a sentence."""
        return f"{', '.join(self.axes)} taken from {self.to.id[:8]}"


def champion_of(store: Store, app: str) -> KeptRelease:
    """The champion.

    Raises:
        NotFound: ST650, there is none.
    """
    champion = store.champion(app)
    if champion is None:
        raise NotFound(
            "ST650",
            f"{app} has no champion yet: there is nothing to revert. `staytrue train` or `staytrue deploy` makes one.",
            app=app,
        )
    return champion


def before(store: Store, app: str) -> KeptRelease:
    """The release that answered before the champion.

    Raises:
        NotFound: ST136, there is none.
    """
    role = store.ledger.role(app, LIVE, "previous")
    if role is None or not role.release:
        raise NotFound(
            "ST136", "There is no release before the champion: say which to take from. `staytrue log` lists them."
        )
    return store.release(role.release)


def planned(store: Store, app: str, to: KeptRelease, axes: Collection[Axis]) -> Plan:
    """What a revert of the champion would make. Nothing is asked, run or written.

    Raises:
        NotFound: ST650, there is no champion.    InvalidInput: ST452 to ST454, ST866, as `kernel.release.revert`.
    """
    role = store.ledger.role(app, LIVE, "champion")
    champion = champion_of(store, app)
    recipes = {id_: store.recipe(id_) for id_ in (champion.release.recipe, to.release.recipe) if id_}
    release = mixed(champion.release, to.release, frozenset(axes), current_id=champion.id, recipes=recipes)
    known = _known(store, app, release, to)
    return Plan(
        champion=champion,
        epoch=role.epoch if role else 0,
        to=to,
        axes=tuple(axis for axis in AXES if axis in axes),
        release=known.release if known else release,
        known=known,
    )


def _known(store: Store, app: str, release: Release, to: KeptRelease) -> KeptRelease | None:
    """The release that is made of the same already: under its id it may be warm, and its answers are known."""
    previous = store.ledger.role(app, LIVE, "previous")
    alike = {ref.digest for ref in store.ledger.refs(app, "made_of", made_of(release), LIVE)}
    kept_ones = [KeptRelease(store, id_, store.release_document(id_)) for id_ in sorted(alike)]
    if same_thing(to.release, release):
        kept_ones.append(to)
    warm = previous.release if previous else None
    return max(kept_ones, key=lambda one: (one.id == warm, one.id == to.id), default=None)


def context_of(store: Store, releases: Collection[KeptRelease], *, home: Path) -> Steps[Context]:
    """The app as the first of these releases has it whose code still imports; what stands in the user's folder is not asked.

    Raises:
        StaytrueError: as `described_release` for the first one, when none of them imports.
    """
    wrong: StaytrueError | None = None
    for one in releases:
        try:
            return (yield from described_release(store, one.release, home=home))
        except StaytrueError as exc:
            if not (tells_of_the_job(exc) or isinstance(exc, NotFound)):
                raise
            wrong = wrong or exc
    raise wrong or NotFound("ST650", "There is no release whose code could be asked.")


def revert(
    ctx: Context, to: KeptRelease, axes: Collection[Axis], *, now: bool, by: str = "somebody", why: str | None = None
) -> Steps[Delivered]:
    """Make the release that the champion is with `axes` taken from `to`, and hand it over.

    Args:
        now: make it champion without a trial.    by, why: who asks, and the reason, for the log.

    Raises:
        Corrupt: ST640, the golden rows of `to` do not hold any more. Otherwise as `planned` and `hand_over`.
    """
    about = {"axes": [axis for axis in AXES if axis in axes], "to": to.id, "by": by, "why": why}
    before = _done_before(ctx.store, ctx.app.name, about)
    if before is not None:
        return before
    plan = planned(ctx.store, ctx.app.name, to, axes)
    release = yield from made(ctx, plan)
    said = f"{plan.words} ({why})" if why else plan.words
    return (
        yield from hand_over(
            ctx,
            release,
            release_refs(ctx, release),
            kind="reverted",
            why=said,
            now=now,
            by=by,
            about=about,
            epoch=plan.epoch,
        )
    )


def _done_before(store: Store, app: str, about: Mapping[str, Any]) -> Delivered | None:
    """What became of the same revert when it was the last thing that changed the champion: asked again, as after a kill."""
    role = store.ledger.role(app, LIVE, "champion")
    newest = store.ledger.events(app, LIVE, kinds=["reverted"], newest_first=True, limit=1)
    for event in newest:
        same = all(event.body.get("about", {}).get(name) == about[name] for name in ("axes", "to"))
        epoch = next((change.expect_epoch + 1 for change in event.roles if change.role == "champion"), None)
        if same and role is not None and role.epoch == epoch:
            said = f"Done before, nothing was changed: {event.sentence}"
            id_ = Digest(event.body["release"])
            return Delivered(release=id_, promoted=True, verdict="same", sentence=said, evidence={})
    return None


def made(ctx: Context, plan: Plan) -> Steps[Release]:
    """The release of a plan, its golden rows answered and checked. Raises Corrupt: ST640, those of `to` do not hold any more."""
    yield from golden_of(ctx, plan.to.release)
    if plan.known is not None and plan.known.release.golden is not None:
        if plan.known.id != plan.to.id:
            yield from golden_of(ctx, plan.known.release)
        return plan.known.release
    release = replace(plan.release, golden=None)
    release = replace(release, golden=(yield from golden_of(ctx, release)))
    yield from golden_of(ctx, release)  # a second process must give the same answers as the first
    return release


# ---------------------------------------------------------------- any release on its way


def hand_over(
    ctx: Context,
    release: Release,
    refs: tuple[Ref, ...],
    *,
    kind: str,
    why: str,
    now: bool,
    by: str = "somebody",
    about: Mapping[str, Any] | None = None,
    how: Comparison | None = None,
    epoch: int | None = None,
) -> Steps[Delivered]:
    """Bring a release that a person asked for to the champion's place.

    With `now` it is champion at once. Else, where a controller lives, it is handed to it: kept together with the order that
    asks to try it, and whoever is on trial makes room; a release that nobody can tell from the champion takes its place. Where
    none lives, the same is decided here, on the newest labelled rows.

    Args:
        ctx: any context of the app: a release is asked with its own code.
        release: the whole document, golden rows answered; its model is in the store.
        refs: what keeps it (`release_refs`, and those of its training).
        kind: of the event that makes it champion, such as `reverted`.    why: what it is, as the end of a sentence.
        about: what the event says beside that.
        how: on which rows it is held against the champion without a controller (default: on those that neither learned from).
        epoch: of the champion that the release was made against; default: the one now.

    Raises:
        Conflict: ST641, there is another champion by now.
    """
    case = delivery(ctx, release, refs, kind=kind, epoch=champion_epoch(ctx) if epoch is None else epoch, about=about)
    if case.champion is None:
        return case.unopposed("the first release: nothing to compare it with yet")
    if case.champion.id == case.id:
        sentence = f"Release {case.id[:8]} is champion already: nothing was changed."
        return Delivered(release=case.id, promoted=True, verdict="same", sentence=sentence, evidence={})
    if now:
        return case.unopposed(f"{why}, without a trial")
    return (yield from _through_the_gate(case, why=why, by=by, how=how))


def _through_the_gate(case: Delivery, *, why: str, by: str, how: Comparison | None) -> Steps[Delivered]:
    """Hand it to the loop where that lives; else decide here."""
    ctx, release = case.ctx, case.release
    champion = case.champion.release if case.champion else release
    one_kind = release.is_service == champion.is_service
    if one_kind and alive(ctx.store.root, ctx.app.name):
        return _ordered(case, why=why, by=by)
    if release.is_service or not one_kind:
        return (yield from let_in(case, now=False))
    if same_answers(ctx, champion, release):
        return case.unopposed(f"{why}; the model and the golden answers are the same")
    past = Past.whole(ctx)
    rows = how or Comparison(held_out=unseen(ctx, past, champion, release, stop=past.until))
    return (yield from case.tried(past, rows))


def _ordered(case: Delivery, *, why: str, by: str) -> Delivered:
    app, id_ = case.ctx.app.name, case.id
    order = ask(
        case.ctx.store.ledger,
        app,
        "try",
        by=by,
        now=datetime.now(UTC),
        release=id_,
        kind=case.kind,
        why=why,
        refs=case.refs,
    )
    sentence = (
        f"Release {id_[:8]} is handed to the loop of {app}: champion at once if it answers as the champion does, else tried on "
        "live rows. `staytrue log --follow` tells of it."
    )
    return Delivered(release=id_, promoted=False, verdict="ordered", sentence=sentence, evidence={}, order=order)
