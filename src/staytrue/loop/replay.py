"""Replay: the loop on the app's own past, on a simulated clock, with no look into the future.

At each tick the champion answers the tick's rows before their labels are seen; a label becomes visible `label_after` later;
challengers are trained on what was known, backtested on the newest of it, and shadow and canary on the rows that come next.
Trainings are real and run once: what a recipe gave is found again, by this replay, by another policy's, and by the live loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from staytrue.engines.process import ProcessPool
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.policy import policy as named_policy
from staytrue.kernel.release import Digest
from staytrue.loop.chronicle import Chronicle
from staytrue.loop.context import Context
from staytrue.loop.jobs import drive
from staytrue.loop.life import Life, Lived, mean_interval
from staytrue.loop.past import Past
from staytrue.settings import setting
from staytrue.store.ledger import LIVE, Ref
from staytrue.store.objects import digest

__all__ = ["replay"]


def replay(
    ctx: Context,
    policies: Sequence[str],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    live: str | None = None,
    moved_on: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Live through the past once per policy, and say side by side what each would have cost.

    Args:
        policies: specs such as `payback`, `never`, `every:7d`; `app` is the app's own function.
        since, until: the ticks to live through; by default from where a fifth of the rows is history to the end.
        live: the policy whose story is written as the app's live timeline (for a demo); the others write a timeline of
            their own.
        moved_on: called with policy, ticks lived and ticks in all.

    Returns:
        `{"app", "since", "until", "rows", "policies": [...], "timeline": [...]}`, as documented in docs/replay.md.

    Raises:
        InvalidInput: ST601 too little past; ST104 an unknown policy; what the first training raises.
    """
    table = ctx.store.table(_source(ctx), app=ctx.app.name).table
    past = Past.of(ctx, table, since=since, until=until)
    names = list(dict.fromkeys(policies))
    lines = {name: _line(ctx, past, name, live=name == live, moved_on=moved_on) for name in names}
    stories = {name: story for name, line in lines.items() if (story := _told(ctx, line.chronicle)) is not None}
    fresh = {name: line.live() for name, line in lines.items() if name not in stories}
    if fresh:
        with ProcessPool(ctx.store.work / "jobs", slots=int(setting("slots")) or None) as pool:
            lived = drive(fresh, pool)
        stories |= {name: _tell(past, one, lines[name].chronicle) for name, one in lived.items()}
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


def _tell(past: Past, lived: Lived, chronicle: Chronicle) -> dict[str, Any]:
    """Keep the story that was lived to its end, so that asking again costs nothing."""
    story = {"result": _document(past, lived), "timeline": lived.timeline}
    # As text: an id that stands bare in a document is taken for an object that must be kept. And fields keep their order.
    text = json.dumps(story, ensure_ascii=False)
    kept = past.ctx.store.objects.put_document({"kind": "replay", "story": text})
    chronicle.tell(
        "replayed",
        f"Replayed {lived.name}: {lived.retrains} retrainings, {lived.promoted} promoted, {lived.rejected} rejected.",
        at=past.ticks[past.until - 1].part.until,
        body={"policy": lived.name, "run": chronicle.run},
        refs=(Ref(kind="replay", name=chronicle.run, digest=kept),),
    )
    chronicle.write()
    return story


def _source(ctx: Context) -> str:
    labelled = ctx.app.check().labelled
    return labelled.spec.name if labelled else ""


def _line(ctx: Context, past: Past, name: str, *, live: bool, moved_on: Callable[[str, int, int], None] | None) -> Life:
    settings = ctx.app.settings
    own = ctx.app.retraining
    chosen = own if name == "app" and own is not None else named_policy(settings.retrain if name == "app" else name)
    run = _run_id(ctx, past, name)
    timeline = LIVE if live else f"replay/{name}/{run[:12]}"
    return Life(
        ctx=ctx,
        past=past,
        name=name,
        policy=chosen,
        settings=settings,
        chronicle=Chronicle(ctx=ctx, timeline=timeline, run=run[:16]),
        moved_on=moved_on or (lambda _name, _done, _all: None),
    )


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
    files = sorted(path for folder in ("kernel", "loop") for path in (root / folder).glob("*.py"))
    return digest(b"".join(path.name.encode() + b"\0" + path.read_bytes() for path in files))


def _document(past: Past, lived: Lived) -> dict[str, Any]:
    """One policy's line of the replay document."""
    ctx = past.ctx
    rows = np.concatenate([np.empty(0), *lived.losses])
    summary = ctx.metric.summary
    # No mean is below the least loss: so the root of an interval of squares exists.
    bounds = [max(bound, float(rows.min())) for bound in mean_interval(lived.losses)] if len(rows) else []
    return {
        "policy": lived.name,
        "loss": round(summary(rows), 6) if len(rows) else None,
        "loss_interval": [round(summary(np.array([bound])), 6) for bound in bounds] or None,
        "retrains": lived.retrains,
        "trained": lived.trained,
        "promoted": lived.promoted,
        "rejected": lived.rejected,
        "bad_days": lived.bad_days,
        "cost": round(float(rows.sum()) + lived.retrains * ctx.app.settings.retrain_cost * lived.fresh_loss, 6),
        "seconds": round(lived.seconds, 2),
        "weekly": _weekly(past, lived),
    }


def _weekly(past: Past, lived: Lived) -> list[list[Any]]:
    """[monday, rows, mean loss] of every week with labels: what a chart is drawn from."""
    weeks: dict[str, list[np.ndarray]] = {}
    for tick, losses in lived.by_tick.items():
        day = past.ticks[tick].part.since.date()
        weeks.setdefault((day - timedelta(days=day.weekday())).isoformat(), []).append(losses)
    joined = {week: np.concatenate(each) for week, each in sorted(weeks.items())}
    return [[week, len(x), round(float(x.mean()), 6)] for week, x in joined.items() if len(x)]
