"""Deploy: what a change is held against, and a candidate that passed its check on its way to the champion's place, by hand."""

from __future__ import annotations

from pathlib import Path

from staytrue.errors import Conflict, NotFound
from staytrue.loop.checked import Base, Candidate
from staytrue.loop.comparison import Comparison
from staytrue.loop.deliver import Delivered, champion_epoch, delivery
from staytrue.loop.jobs import Steps
from staytrue.loop.past import Past
from staytrue.loop.proposal import Proposal, described_context, described_release, of_commit
from staytrue.loop.service import let_in
from staytrue.store.git import open_repository
from staytrue.store.store import KeptRelease, Store

__all__ = ["base_of_release", "base_of_revision", "deliver_candidate"]


def base_of_release(release: KeptRelease, home: Path) -> Steps[Base]:
    """A kept release, to hold a change against.

    Raises:
        StaytrueError: as `described_release`: its code does not import any more.
    """
    ctx = yield from described_release(release.store, release.release, home=home)
    return Base(ctx=ctx, release=release, name=f"release {release.id[:8]}")


def base_of_revision(store: Store, revision: str, file: Path) -> Steps[Base]:
    """What a git revision holds, to hold a change against: the newest release with that code, if there is one.

    Args:
        file: the app's file in the user's work tree.

    Raises:
        NotFound: ST842, it is no revision of the app's repository.    StaytrueError: as `of_commit` and `described_context`.
    """
    try:
        repository = open_repository(file.parent)
        commit = repository.commit(revision)
    except NotFound as exc:
        raise NotFound(
            "ST842",
            f"--against {revision}: neither a release of this store nor a revision of a git repository around {file.parent}. "
            "`staytrue log` lists releases; a shallow clone lacks older commits.",
            against=revision,
        ) from exc
    proposal: Proposal = of_commit(store, repository, commit, file)
    released = [kept for kept in store.releases(timeline=None) if kept.release.code == proposal.code]
    ctx = yield from described_context(store, proposal.code, home=file.parent)
    mine = [kept for kept in released if kept.release.app == ctx.app.name]
    return Base(ctx=ctx, release=mine[-1] if mine else None, name=f"{revision} ({commit[:12]})")


def deliver_candidate(candidate: Candidate, base: Base | None, *, now: bool) -> Steps[Delivered]:
    """Hold a candidate against the champion that it was checked against, and let it in on evidence, as `staytrue train` does.

    Args:
        base: that champion; None: there was none.
        now: without a trial.

    Raises:
        Conflict: ST843, ST641, there is another champion by now.
    """
    epoch = champion_epoch(candidate.ctx)
    case = delivery(candidate.ctx, candidate.release, candidate.refs, kind="deployed", epoch=epoch)
    before = base.release.id if base and base.release else None
    after = case.champion.id if case.champion else None
    if before != after:
        text = f"Release {case.id[:8]} was checked, but not delivered: there is another champion since. Deploy again."
        raise Conflict("ST843", text, release=case.id, checked_against=before, champion=after)
    if case.champion is None or base is None:
        return case.unopposed("the first release: nothing to compare it with yet")
    if candidate.release.is_service:
        return (yield from let_in(case, now=now))
    if now:
        return case.unopposed("deployed by hand and let in without a trial")
    if candidate.same_answers:
        return case.unopposed("other code, the same model and the same golden answers")
    if case.champion.release.is_service:
        why = "the champion is a plain service, and no labelled row can be held against it; --now lets the new one in"
        return case.kept_out(f"tried:{case.id}:{case.champion.id}:model", "undecided", why, {})
    past = Past.whole(base.ctx)
    return (yield from case.tried(past, candidate.comparison or Comparison(held_out=past.until)))
