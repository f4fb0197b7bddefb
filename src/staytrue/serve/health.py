"""Health: whether the champion is right, as metrics, beside those of the server itself (`serve/vitals.py`).

The loop decides it; here it is read from the ledger, in a thread, and only when the ledger's files or the controller's sign of
life have changed. The verdict is the one of `staytrue status`. What is not known has no sample, and what nobody watches is
unknown: a figure that stands still would look like one that is well.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias, get_args

from staytrue.errors import StaytrueError
from staytrue.kernel.health import State
from staytrue.kernel.incidents import KINDS, Open, fold
from staytrue.loop.lease import alive
from staytrue.loop.look import last_look, system_alarms, verdict
from staytrue.serve.metrics import Metrics
from staytrue.store.counts import answered_rows
from staytrue.store.ledger import LIVE
from staytrue.store.ledger_file import ledger_times

if TYPE_CHECKING:
    from staytrue.store.store import Store

__all__ = ["ALARMS", "DECISIONS", "STAGES", "Known", "PredictiveHealth"]

ALARMS: Final = ("harm", "shift", "fault", "silence")
DECISIONS: Final = ("retrain", "promoted", "rejected", "rolled_back")
STAGES: Final = ("backtest", "shadow", "canary")

Samples: TypeAlias = dict[tuple[str, ...], float]

_LOOK_S: Final = 5.0
_TRUST_S: Final = 60.0
"""For so long is believed what was read, though nothing moves or the ledger can't be read."""
_HOUR: Final = timedelta(hours=1)
_PAGE: Final = 1_000


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of the champion; by default nothing.

    Attributes:
        seen: as `Life.look` gives it; empty where nobody watches any more, or it is about another release.
    """

    state: State = "unknown"
    champion: str | None = None
    seen: Mapping[str, Any] = field(default_factory=dict)


class PredictiveHealth:
    """Reads the ledger now and then, and shows what it says. `run` it.

    Args:
        store: whose ledger, and where the controller gives its signs of life.
        app: which one.
        metrics: where it is shown; also tells whether anything was answered.
        wall: the time now.
        monotonic: seconds, by a clock that never jumps.
    """

    def __init__(
        self,
        store: Store,
        app: str,
        *,
        metrics: Metrics,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._app, self._metrics = store, app, metrics
        self._wall, self._monotonic = wall, monotonic
        self._mark: Any = None
        self._moved = True
        self._read_s = self._answered_s = float("-inf")
        self._answers: dict[tuple[str, ...], float] = {}
        self._open: Open = {}
        self._decided = dict.fromkeys(DECISIONS, 0)
        self._seq = 0
        self._show(Known())

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - who watches must go on watching, and be heard when he can't
                sys.stderr.write(traceback.format_exc())
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Once."""
        now_s = self._monotonic()
        self._note_answers(now_s)
        mark = (ledger_times(self._store.root), alive(self._store.root, self._app))
        # A commit moves the times before it can be read: after a move it is read once more at the next look.
        moved, self._moved = self._moved, mark != self._mark
        if not moved and not self._moved and now_s - self._read_s < _TRUST_S:
            return
        try:
            known = await asyncio.to_thread(self._read, now_s)
        except StaytrueError:  # said by the vitals, which read the ledger too
            self._moved = True
            if now_s - self._read_s >= _TRUST_S:
                self._show(Known())
            return
        except Exception:
            self._show(Known())  # of what can't be understood nothing is said
            raise
        self._mark, self._read_s = mark, now_s
        self._show(known)

    # ------------------------------------------------------------ reading

    def _read(self, now_s: float) -> Known:
        """In a thread: the ledger may take its time."""
        store, app, wall = self._store, self._app, self._wall()
        self._catch_up()
        role = store.ledger.role(app, LIVE, "champion")
        champion = role.release if role else None
        look = last_look(store, app, wall)
        # Whoever replays the past looks at it as of then. That is no word on the champion that answers now.
        now = look.judged_at(wall, "end" if look.runs else "now")
        found = verdict(
            look,
            champion,
            system=system_alarms(self._open.values()),
            now=now,
            answered=lambda: self._answered(now, now_s),
        )
        told = look.runs or found.state != "unknown"
        return Known(state=found.state, champion=champion, seen=look.at_release(champion) if told else {})

    def _catch_up(self) -> None:
        """Take in the events that came since: which incidents stand open, what was decided."""
        while events := self._store.ledger.events(self._app, LIVE, kinds=KINDS, after=self._seq, limit=_PAGE):
            for event in events:
                self._open, _ = fold(self._open, event)
                if event.kind in self._decided:
                    self._decided[event.kind] += 1
            self._seq = events[-1].seq

    # ------------------------------------------------------------ of a plain service

    def _note_answers(self, now_s: float) -> None:
        """Remember when rows were answered last; a shadow answers nobody."""
        answers = {key: child.value for key, child in self._metrics.predictions.items() if key[1] != "shadow"}
        if any(count > self._answers.get(key, 0.0) for key, count in answers.items()):
            self._answered_s = now_s
        self._answers = answers

    def _answered(self, now: datetime, now_s: float) -> int:
        """Whether rows were answered in the last hour; the log, which takes long to read, is asked only of an idle front."""
        if now_s - self._answered_s < _HOUR.total_seconds():
            return 1
        counts = answered_rows(self._store, self._app, now - _HOUR)
        return sum(rows for (_, arm), rows in counts.items() if arm != "shadow")

    # ------------------------------------------------------------ showing

    def _show(self, known: Known) -> None:
        metrics, seen = self._metrics, known.seen
        metrics.health.show({(state,): state == known.state for state in get_args(State)})
        metrics.champion.show({(known.champion,): 1.0} if known.champion else {})
        low, high = _pair(seen.get("loss_interval"))
        for family, value in (
            (metrics.loss, seen.get("loss")),
            (metrics.loss_low, low),
            (metrics.loss_high, high),
            (metrics.loss_rows, seen.get("rows")),
            (metrics.fresh_loss, seen.get("fresh_loss")),
            (metrics.rows_since, seen.get("rows_since")),
            (metrics.data_until, _unix_s(seen.get("until"))),
        ):
            family.show(_one(value))
        metrics.predictive_alarm.show(_alarms(seen.get("alarms")))
        metrics.trial.show(_trial(seen))
        metrics.incidents.show(Counter((one.kind, one.state) for one in self._open.values()))
        metrics.decisions.show({(kind,): count for kind, count in self._decided.items()})


def _alarms(kinds: Any) -> Samples:
    if not isinstance(kinds, list | tuple):
        return {}
    return {(kind,): float(kind in kinds) for kind in ALARMS}


def _trial(seen: Mapping[str, Any]) -> Samples:
    if "trial" not in seen:
        return {}
    trial = seen["trial"]
    now_in = trial.get("stage") if isinstance(trial, Mapping) else None
    return {(stage,): float(stage == now_in) for stage in STAGES}


def _pair(bounds: Any) -> tuple[Any, Any]:
    return (bounds[0], bounds[1]) if isinstance(bounds, list | tuple) and len(bounds) == 2 else (None, None)


def _unix_s(moment: Any) -> float | None:
    try:
        at = datetime.fromisoformat(moment)
    except (TypeError, ValueError):
        return None
    return at.timestamp() if at.tzinfo else None


def _one(value: Any) -> Samples:
    """A sample of what is a number; nothing of anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        return {}
    with suppress(OverflowError):  # a whole number that no float holds
        return {(): float(value)}
    return {}
