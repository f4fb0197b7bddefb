"""Is it right now? One function decides, and command line, API and page all call it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

__all__ = ["Health", "health"]

State = Literal["right", "harmed", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Health:
    """A verdict and the sentence that says why."""

    state: State
    sentence: str
    evidence: dict[str, Any]


def health(  # noqa: PLR0911 - one return for each thing that may be unknown reads best
    *,
    rows: int,
    loss: float | None,
    interval: Sequence[float] | None,
    fresh_loss: float | None,
    alarms: Sequence[str],
    looked_at: datetime | None,
    now: datetime,
    runs: bool = True,
    answered: int | None = None,
    stale_after: timedelta = timedelta(days=9),
) -> Health:
    """Whether the champion is right, as far as evidence goes. Nothing is called right without labels.

    Args:
        rows: labelled rows that the loss rests on; loss: their mean; interval: its 95 % bounds.
        fresh_loss: what the champion lost when fresh.
        alarms: kinds of open alarms.
        answered: of a plain service, which has no labels: requests of the last hour that were answered.
        runs: whether whoever makes the numbers is still at work. A watch that is dead sees nothing, so nothing is right.
        looked_at: when the numbers were made; older than `stale_after` at `now`, they say nothing about today.

    Example:
        >>> from datetime import UTC
        >>> now = datetime(2026, 3, 1, tzinfo=UTC)
        >>> health(rows=0, loss=None, interval=None, fresh_loss=None, alarms=(), looked_at=now, now=now).sentence
        'unknown: 0 labels were seen'
    """
    evidence = {
        "rows": rows,
        "loss": loss,
        "interval": list(interval) if interval else None,
        "fresh_loss": fresh_loss,
        "alarms": list(alarms),
    }
    if looked_at is None:
        return Health(state="unknown", sentence="unknown: nobody has looked yet", evidence=evidence)
    if now - looked_at > stale_after:
        days = (now - looked_at) / timedelta(days=1)
        return Health(state="unknown", sentence=f"unknown: last looked {days:.0f} days ago", evidence=evidence)
    if not runs:
        when = f"{looked_at:%Y-%m-%d %H:%M} UTC"
        return Health(state="unknown", sentence=f"unknown: nobody watches; last looked {when}", evidence=evidence)
    system = [name for name in alarms if name.startswith("system")]
    if system:
        return Health(state="harmed", sentence=f"harmed: {', '.join(system)} alarm open", evidence=evidence)
    if answered is not None:
        return _of_service(answered, evidence)
    if not rows or loss is None or interval is None:
        return Health(state="unknown", sentence=f"unknown: {rows} labels were seen", evidence=evidence)
    bounds = f"{loss:.4g} a row ({interval[0]:.4g} .. {interval[1]:.4g}, {rows:,} rows)"
    if alarms:
        return Health(
            state="harmed", sentence=f"harmed: {', '.join(alarms)} alarm open; loss {bounds}", evidence=evidence
        )
    if fresh_loss is None:
        return Health(
            state="unknown",
            sentence=f"unknown: loss {bounds}, but too few rows say what it was when fresh",
            evidence=evidence,
        )
    if interval[0] > fresh_loss:
        return Health(state="harmed", sentence=f"harmed: loss {bounds}, {fresh_loss:.4g} when fresh", evidence=evidence)
    return Health(state="right", sentence=f"right: loss {bounds}, {fresh_loss:.4g} when fresh", evidence=evidence)


def _of_service(answered: int, evidence: dict[str, Any]) -> Health:
    if not answered:
        return Health(state="unknown", sentence="unknown: nobody asked in the last hour", evidence=evidence)
    said = f"right: {answered:,} rows answered in the last hour, no alarm open"
    return Health(state="right", sentence=said, evidence=evidence | {"answered": answered})
