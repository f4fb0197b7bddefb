"""Outlook: what a revert or a refresh would do, in sentences, before anybody does it. Nothing is kept, and no source is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from staytrue.kernel.release import Digest, Release, describe_axes
from staytrue.loop.comparison import NEW_ROWS, unseen
from staytrue.loop.context import Context, as_released
from staytrue.loop.jobs import Steps
from staytrue.loop.lease import alive
from staytrue.loop.past import Past
from staytrue.loop.release import golden_answers, golden_of
from staytrue.loop.revert import Plan
from staytrue.loop.service import answers_differ
from staytrue.store import models
from staytrue.store.ledger import LIVE
from staytrue.store.models import Golden
from staytrue.store.store import Store

__all__ = ["Outlook", "Way", "foreseen", "foretold", "next_training", "on_trial", "settings_of"]

Way = Literal["now", "same", "loop", "rows", "few", "canary", "kinds"]
"""How a release would come in: by hand without a trial; since nobody can tell it from the champion; through the loop's trial; on
the newest labelled rows, or not, since they are few; of a plain service, only on a share of the traffic; or only by hand,
between a plain service and an app that trains."""


_TODAY: Final = "The loop, which is alive, looks at today's rows too: if they tell the two apart, it is tried there."


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What would happen.

    Attributes:
        release: the release that would answer, when it is there already.
        differs: from the champion, a sentence for each difference.
        rows: labelled rows that would count in a trial; None where none is needed.
    """

    champion: Digest
    release: Digest | None
    differs: tuple[str, ...]
    way: Way
    rows: int | None
    sentences: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "champion": self.champion,
            "release": self.release,
            "differs": list(self.differs),
            "trains": False,
            "way": self.way,
            "rows": self.rows,
            "sentences": list(self.sentences),
        }


def foreseen(ctx: Context, plan: Plan, *, now: bool) -> Steps[Outlook]:
    """What that revert would do.

    Raises:
        Corrupt: ST640, the golden rows of the release to take from do not hold any more. And what its code raises.
    """
    champion, release = plan.champion.release, plan.release
    yield from golden_of(ctx, plan.to.release)
    way, rows = yield from _way(ctx, plan, now=now)
    differs = describe_axes(champion, release)
    lives = alive(ctx.store.root, ctx.app.name)
    sentences = [
        *_made(ctx.store, plan),
        _said(way, rows, on_trial(ctx.store, ctx.app.name) if way == "loop" else None),
        *([_TODAY] if way == "same" and lives else []),
        _next(ctx, release),
    ]
    return Outlook(
        champion=plan.champion.id,
        release=plan.known.id if plan.known else None,
        differs=differs,
        way=way,
        rows=rows,
        sentences=tuple(sentences),
    )


def foretold(store: Store, app: str, plan: Plan) -> tuple[list[str], bool]:
    """What that revert would do as far as what is kept tells, asking neither release; and whether that is all there is to tell.

    Asked has to be whose answers were not compared yet; and counted are the rows of a comparison where no loop lives.
    """
    champion, release, lives = plan.champion.release, plan.release, alive(store.root, app)
    same = None if champion.is_service else _known_alike(store, champion, release)
    way: Way | None = "same" if same else "loop" if same is False and lives else None
    if champion.is_service != release.is_service:
        way = "kinds"
    said = _made(store, plan)
    if way is not None:
        today = [_TODAY] if way == "same" and lives else []
        return [*said, _said(way, None, on_trial(store, app) if way == "loop" else None), *today], True
    tried = (
        "the loop, which is alive, tries it on live traffic"
        if lives
        else "it is held against the champion on rows that neither learned from, and kept out if these are too few"
    )
    if same is False:
        return [*said, f"{tried[0].upper()}{tried[1:]}."], False
    return [*said, f"It is champion at once if nobody can tell its answers from the champion's; else {tried}."], False


def _made(store: Store, plan: Plan) -> list[str]:
    """What a plan makes, in sentences."""
    champion, release = plan.champion.release, plan.release
    named = f"the champion {plan.champion.id[:8]} with {plan.words}"
    return [
        f"Release {plan.known.id[:8]} would answer again: it is what {named} would be."
        if plan.known
        else f"A release would be made: {named}.",
        "From the champion it differs in "
        + "; ".join([*describe_axes(champion, release), *_tables(store, champion, release)])
        + ".",
        "Nothing is trained: " + ("there is no model." if release.is_service else "its model is in the store."),
    ]


def _known_alike(store: Store, champion: Release, release: Release) -> bool | None:
    """Whether both gave the same golden answers; None: one of them was not asked yet."""
    if release.model != champion.model or champion.golden is None:
        return False
    if release.golden is None:
        return None
    old, new = (Golden.from_document(store.objects.get_document(one)) for one in (champion.golden, release.golden))
    return models.answers_equal(old.answers, new.answers) is None


def _way(ctx: Context, plan: Plan, *, now: bool) -> Steps[tuple[Way, int | None]]:
    champion, release = plan.champion.release, plan.release
    if now:
        return "now", None
    if champion.is_service != release.is_service:
        return "kinds", None
    lives = alive(ctx.store.root, ctx.app.name)
    if release.is_service:
        same = (yield from answers_differ(ctx, champion, release)) is None
        return ("same" if same else "loop" if lives else "canary"), None
    if (yield from _answers_alike(ctx, champion, release)):
        return "same", None
    past = Past.whole(ctx)
    rows = past.rows(unseen(ctx, past, champion, release, stop=past.until), past.until)
    return ("loop" if lives else "rows" if rows >= NEW_ROWS else "few"), rows


def _answers_alike(ctx: Context, champion: Release, release: Release) -> Steps[bool]:
    alike = _known_alike(ctx.store, champion, release)
    if alike is not None or champion.golden is None:
        return bool(alike)
    known = Golden.from_document(ctx.store.objects.get_document(champion.golden))
    found = yield from golden_answers(ctx, release)
    return found is not None and models.answers_equal(known.answers, found.answers) is None


def _said(way: Way, rows: int | None, challenger: Digest | None) -> str:
    made_room = f" Challenger {challenger[:8]}, on trial now, makes room for it." if challenger else ""
    counted = f", with {rows:,} labelled rows that neither learned from to begin with" if rows else ""
    return {
        "now": "It is champion at once, without a trial (--now).",
        "same": "It is champion at once: nobody can tell its answers from the champion's.",
        "loop": f"The loop, which is alive, tries it on live traffic{counted}; it is champion when it has shown that it is no "
        f"worse.{made_room}",
        "rows": f"It is held against the champion on {rows or 0:,} labelled rows, and is champion if it is no worse there.",
        "few": f"It is kept, and the champion stays: {rows or 0} labelled rows are newer than what both learned from, and "
        f"{NEW_ROWS} are needed. --now lets it in all the same.",
        "canary": "It is kept, and the champion stays: it answers otherwise, and only a share of the traffic can tell (while "
        "`staytrue up` runs). --now lets it in at once.",
        "kinds": "It is kept, and the champion stays: one of the two is a plain service, and nothing compares them. --now lets "
        "it in.",
    }[way]


def on_trial(store: Store, app: str) -> Digest | None:
    """The challenger."""
    role = store.ledger.role(app, LIVE, "challenger")
    return Digest(role.release) if role and role.release else None


def _tables(store: Store, a: Release, b: Release) -> Sequence[str]:
    """How the tables of a release differ from another one's, in rows and days."""
    found = []
    for name in sorted({*a.tables} & {*b.tables}):
        if a.tables[name] != b.tables[name]:
            old, new = (store.table_by_id(one.tables[name]).table for one in (a, b))
            ends = [f"{one.rows:,} rows up to {one.until:%Y-%m-%d}" if one.until else "no rows" for one in (new, old)]
            found.append(f"{name}: {ends[0]} instead of {ends[1]}")
    return found


def _next(ctx: Context, release: Release) -> str:
    if release.is_service:
        return "The next change of the code is held against it."
    return next_training(as_released(ctx, release), whose="its")


def next_training(ctx: Context, *, whose: str) -> str:
    """What a retraining would learn from now, as a sentence."""
    past = Past.whole(ctx)
    ends = f" up to {past.ticks[past.until - 1].part.until:%Y-%m-%d}" if past.until else ""
    return (
        f"The next retraining takes the newest rows ({past.spec.name}{ends}, {past.rows(0, past.until):,} with a label), {whose} "
        f"code{settings_of(ctx)}; other code, by a commit or a deploy, brings its own."
    )


def settings_of(ctx: Context) -> str:
    """Params and seed in words, where there are any."""
    named = ", ".join(f"{name}={json.dumps(value)}" for name, value in sorted(ctx.params.items()))
    params = f", its params {named}" if named else ""
    return f"{params} and its seed {ctx.seed}" if ctx.seed else params
