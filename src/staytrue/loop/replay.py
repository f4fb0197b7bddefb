"""Replay: the loop on the app's own past, on a simulated clock, with no look into the future.

At each tick the champion answers the tick's rows before their labels are seen; a label becomes visible `label_after` later;
challengers are trained on what was known, backtested on the newest of it, and shadow and canary on the rows that come next.
Trainings are real and run once: what a recipe gave is found again, by this replay, by another policy's, and by the live loop.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from staytrue.engines.process import ProcessPool
from staytrue.errors import Conflict, StaytrueError
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.policy import policy as named_policy
from staytrue.kernel.policy import variant
from staytrue.kernel.release import Digest
from staytrue.loop.chronicle import Chronicle
from staytrue.loop.context import Context
from staytrue.loop.jobs import Steps, drive
from staytrue.loop.lease import Tenancy
from staytrue.loop.life import Life, mean_interval
from staytrue.loop.memory import remember
from staytrue.loop.past import Past
from staytrue.loop.train import Trained
from staytrue.settings import setting
from staytrue.store.ledger import LIVE, Fence, Ref
from staytrue.store.objects import digest

__all__ = ["replay"]


def replay(
    ctx: Context,
    policies: Sequence[str],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    live: str | None = None,
    tenancy: Tenancy | None = None,
    moved_on: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Live through the past once per policy, and say side by side what each would have cost.

    Args:
        policies: specs such as `payback`, `never`, `every:7d window=90d`; `app` is the app's own function.
        since, until: the ticks to live through; by default from where a fifth of the rows is history to the end.
        live: the policy whose story is written as the app's live timeline (for a demo); the others write a timeline of
            their own.
        tenancy: of the app's loop, held: a controller goes on from where the live story ends.
        moved_on: called with policy, ticks lived and ticks in all.

    Returns:
        `{"app", "since", "until", "rows", "policies": [...], "timeline": [...]}`, as documented in docs/replay.md.

    Raises:
        InvalidInput: ST601 too little past; ST104 an unknown policy; what the first training raises.
    """
    table = ctx.store.table(_source(ctx), app=ctx.app.name).table
    past = Past.of(ctx, table, since=since, until=until)
    names = list(dict.fromkeys(policies))
    lives = {name: _life(ctx, past, name, live=name == live) for name in names}
    if live is not None and tenancy is not None:
        lives[live].chronicle.fence = lambda: _handed_over(lives[live], tenancy)
    stories = {name: story for name, life in lives.items() if (story := _told(ctx, life.chronicle)) is not None}
    moved = moved_on or (lambda _name, _done, _all: None)
    fresh = {name: _live(life, moved) for name, life in lives.items() if name not in stories}
    if fresh:
        with ProcessPool(ctx.store.work / "jobs", slots=int(setting("slots")) or None) as pool:
            lived = drive(fresh, pool)
        stories |= {name: _tell(past, one, lives[name].chronicle) for name, one in lived.items()}
    return {
        "app": ctx.app.name,
        "since": past.ticks[past.first].part.since.isoformat(),
        "until": past.ticks[past.until - 1].part.until.isoformat(),
        "rows": sum(past.ticks[t].rows for t in range(past.first, past.until)),
        "policies": [stories[name]["result"] for name in names],
        "timeline": sorted(
            (entry for name in names for entry in stories[name]["timeline"]),
            key=lambda e: (e["at"], names.index(e["policy"])),
        ),
    }


def _told(ctx: Context, chronicle: Chronicle) -> dict[str, Any] | None:
    """The story of this very replay, if it was told to the end before: same code, rows, policy, settings and loop."""
    ref = ctx.store.ledger.ref("replay", chronicle.run, app=ctx.app.name, timeline=chronicle.timeline)
    if ref is None or not ctx.store.objects.has(ref.digest):
        return None
    story = json.loads(ctx.store.objects.get_document(ref.digest)["story"])
    story["result"] |= {"trained": 0, "seconds": 0.0}
    return dict(story)


def _tell(past: Past, lived: _Lived, chronicle: Chronicle) -> dict[str, Any]:
    """Keep the story that was lived to its end, so that asking again costs nothing."""
    counts = lived.life.counts
    story = {"result": _document(past, lived), "timeline": lived.life.timeline}
    # As text: an id that stands bare in a document is taken for an object that must be kept. And fields keep their order.
    text = json.dumps(story, ensure_ascii=False)
    kept = past.ctx.store.objects.put_document({"kind": "replay", "story": text})
    chronicle.tell(
        "replayed",
        f"Replayed {lived.life.name}: {counts['retrains']} retrainings, {counts['promoted']} promoted, "
        f"{counts['rejected']} rejected.",
        at=past.ticks[past.until - 1].part.until,
        body={"policy": lived.life.name, "run": chronicle.run},
        refs=(Ref(kind="replay", name=chronicle.run, digest=kept),),
    )
    chronicle.write()
    return story


def _source(ctx: Context) -> str:
    labelled = ctx.app.check().labelled
    return labelled.spec.name if labelled else ""


@dataclass(frozen=True, kw_only=True)
class _Lived:
    """What became of one policy."""

    life: Life
    fresh_loss: float
    """What a row cost when the first champion was fresh: the unit of `retrain_cost`, the same for all policies."""
    seconds: float


def _live(life: Life, moved_on: Callable[[str, int, int], None]) -> Steps[_Lived]:
    """Tick by tick to the end."""
    began, past = time.perf_counter(), life.past
    yield from life.begin()
    first = life.champion
    for tick in range(past.first, past.until):
        yield from life.tick(tick)
        moved_on(life.name, tick + 1 - past.first, past.until - past.first)
    life.looked()
    fresh_loss = yield from _fresh_loss(past, first, life.watch.books.warm)
    return _Lived(life=life, fresh_loss=fresh_loss, seconds=time.perf_counter() - began)


def _fresh_loss(past: Past, first: Trained, rows: int) -> Steps[float]:
    """The first champion's mean loss over its first rows, whoever answered them in the end."""
    stop = past.first + 1
    while stop < past.until and past.rows(past.first, stop) < rows:
        stop += 1
    yield from past.answered([first], past.first, stop)
    losses = []
    for tick in range(past.first, stop):
        with suppress(StaytrueError):  # ticks that it could not answer say nothing of its loss
            losses.append(past.losses(first, tick))
    found = np.concatenate([np.empty(0), *losses])
    return float(found.mean()) if len(found) else 0.0


def _life(ctx: Context, past: Past, name: str, *, live: bool) -> Life:
    own = ctx.app.retraining
    spec, settings = variant(name, ctx.app.settings)
    chosen = own if spec == "app" and own is not None else named_policy(settings.retrain if spec == "app" else spec)
    run = _run_id(ctx, past, name)
    timeline = LIVE if live else f"replay/{name}/{run[:12]}"
    return Life(
        ctx=ctx,
        past=past,
        name=name,
        policy=chosen,
        settings=settings,
        chronicle=Chronicle(ctx=ctx, timeline=timeline, run=run[:16]),
    )


def _handed_over(life: Life, tenancy: Tenancy) -> Fence:
    """What the live story leaves to the controller that goes on from it, with each write of it."""
    if tenancy.epoch is None:
        raise Conflict("ST800", f"This replay does not run the loop of {tenancy.app}.", app=tenancy.app)
    looked_at = life.now(life.lived, begins=True).isoformat()
    return Fence(app=tenancy.app, epoch=tenancy.epoch, state={"looked_at": looked_at, "life": remember(life)})


def _run_id(ctx: Context, past: Past, name: str) -> Digest:
    """All that a replay's story depends on, as one digest."""
    settings = {f: getattr(ctx.app.settings, f) for f in ctx.app.settings.__dataclass_fields__}
    document = {
        "loop": _own_code(),
        "code": ctx.code,
        "env": ctx.env,
        "table": past.table.id,
        "first": past.first,
        "until": past.until,
        "policy": name,
        "settings": settings,
    }
    return digest(canonical_json(document))


@cache
def _own_code() -> Digest:
    """The loop's own code: another way to decide is another story, also between two releases of staytrue."""
    root = Path(__file__).parents[1]
    files = sorted(path for folder in ("kernel", "loop") for path in (root / folder).rglob("*.py"))
    return digest(b"".join(path.name.encode() + b"\0" + path.read_bytes() for path in files))


def _document(past: Past, lived: _Lived) -> dict[str, Any]:
    """One policy's line of the replay document."""
    ctx, life = past.ctx, lived.life
    losses = list(life.by_tick.values())
    rows = np.concatenate([np.empty(0), *losses])
    summary = ctx.metric.summary
    # No mean is below the least loss: so the root of an interval of squares exists.
    bounds = (
        [max(bound, float(rows.min())) for bound in mean_interval([(len(x), float(x.sum())) for x in losses])]
        if len(rows)
        else []
    )
    counts = life.counts
    return {
        "policy": life.name,
        "loss": round(summary(rows), 6) if len(rows) else None,
        "loss_interval": [round(summary(np.array([bound])), 6) for bound in bounds] or None,
        **counts,
        "bad_days": len(life.bad),
        "cost": round(float(rows.sum()) + counts["retrains"] * ctx.app.settings.retrain_cost * lived.fresh_loss, 6),
        "seconds": round(lived.seconds, 2),
        "weekly": _weekly(past, life),
    }


def _weekly(past: Past, life: Life) -> list[list[Any]]:
    """[monday, rows, mean loss] of every week with labels: what a chart is drawn from."""
    weeks: dict[str, list[np.ndarray]] = {}
    for tick, losses in life.by_tick.items():
        day = past.ticks[tick].part.since.date()
        weeks.setdefault((day - timedelta(days=day.weekday())).isoformat(), []).append(losses)
    joined = {week: np.concatenate(each) for week, each in sorted(weeks.items())}
    return [[week, len(x), round(float(x.mean()), 6)] for week, x in joined.items() if len(x)]
