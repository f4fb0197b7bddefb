"""Few labels: what those of the newest predictions say, found by the loop in a job, and kept in what it remembers.

Command line, `/metrics` and page read it there. So they say the same, and none of them reads the traffic or runs an app's metric.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from staytrue.app import load
from staytrue.engines.process import Job
from staytrue.errors import StaytrueError
from staytrue.kernel.confidence import Calibration
from staytrue.kernel.duration import duration
from staytrue.kernel.health import FewKnown
from staytrue.loop.context import Context
from staytrue.loop.jobs import Steps, result_of
from staytrue.loop.label import Judge, standing
from staytrue.store.segment import Kind, segments, traffic_folder
from staytrue.store.store import Store, open_store
from staytrue.store.traffic import TIMELINE

__all__ = ["FEW_ROWS", "are_few", "ask", "asked_for", "few_known", "traffic_mark"]

FEW_ROWS: Final = 400
"""Labelled rows of late below which a verdict asks what the newest predictions' labels say."""
_SPAN: Final = timedelta(days=28)
_KINDS: Final[tuple[Kind, ...]] = ("predictions", "labels")


def are_few(seen: Mapping[str, Any]) -> bool:
    """Whether a look (`Life.look`) rests on too few labels to be believed by itself."""
    return bool(seen) and not seen.get("service") and (seen["rows"] < FEW_ROWS or "silence" in seen.get("alarms", ()))


def traffic_mark(store: Store, app: str) -> tuple[int, int]:
    """What moves when anything is answered, labelled or compacted; (0, 0): nobody was ever answered."""
    compacted = store.ledger.events(app, TIMELINE, newest_first=True, limit=1)
    times = [0]
    for kind in _KINDS:
        for path in segments(traffic_folder(store.root, app, kind)):
            with contextlib.suppress(FileNotFoundError):  # compacted meanwhile
                times.append(path.stat().st_mtime_ns)
    return max(times), compacted[0].seq if compacted else 0


def ask(ctx: Context, calibration: Calibration | None, *, now: datetime) -> Steps[tuple[dict[str, Any], float]]:
    """What the labels of the newest predictions say, as JSON, and how many seconds that took.

    Whatever goes wrong with it is part of what is said: then nothing is known of these labels.
    """
    app, labelled = ctx.app, ctx.app.labelled
    job = Job(
        key=f"few labels:{app.name}:{now.isoformat()}",
        task="staytrue.loop.few_labels:asked_for",
        payload=ctx.payload(
            app=app.name,
            metric=None if callable(app.metric) else app.metric,
            own_key=labelled.spec.key if labelled else None,
            calibration=calibration.document() if calibration else None,
            now=now.isoformat(),
        ),
        workspace=ctx.tree,
        timeout_s=duration(app.settings.timeout).total_seconds(),
        memory_bytes=app.settings.memory_mb * 2**20 if app.settings.memory_mb else None,
        interpreter=ctx.interpreter,
        app=app.name,
        purpose="the verdict",
    )
    outcome = (yield [job])[0]
    try:
        found = result_of(outcome, doing="ask what few labels say")
    except StaytrueError as exc:
        found = {"failed": str(exc)[:500]}
    return found | {"at": now.isoformat()}, outcome.seconds


def asked_for(payload: Mapping[str, Any], outbox: Path) -> dict[str, Any]:  # noqa: ARG001 (every task is given an outbox)
    """The task of `ask`: the code of the app is imported only if its metric is a function of its own."""
    metric = payload["metric"] or load(payload["entry"])[0].metric
    state = payload["calibration"]
    judge = Judge(
        metric=metric, key=payload["own_key"], calibration=Calibration.from_document(state) if state else None
    )
    store = open_store(payload["store"], must_exist=True)
    try:
        now = datetime.fromisoformat(payload["now"])
        found = standing(store, payload["app"], now=now, span=_SPAN, judge=judge)
    finally:
        store.close()
    best, expected = found.few.best if found.few else None, found.expected
    return {
        "predictions": found.rows,
        "labels": found.labelled,
        "loss": best and _number(best.mean),
        "interval": best and [_number(best.lo), _number(best.hi)],
        "expected": expected and _number(expected.mean),
        "expected_interval": expected and [_number(expected.lo), _number(expected.hi)],
        "newest_label_at": found.newest_label_at and found.newest_label_at.isoformat(),
    }


def few_known(kept: Mapping[str, Any], belief: Any) -> FewKnown:
    """What is known of few labels, from what `ask` gave; empty: nobody has looked.

    Args:
        belief: what labels say of the estimate, as in the look.
    """
    if "labels" not in kept:
        return FewKnown(looked=False)
    newest, expected, between = kept["newest_label_at"], kept["expected"], kept["expected_interval"]
    bounded = expected is not None and between is not None and None not in between
    return FewKnown(
        expected=expected,
        expected_interval=between if bounded else None,
        belief=belief,
        late_rows=kept["labels"],
        newest_label_at=datetime.fromisoformat(newest) if newest else None,
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
