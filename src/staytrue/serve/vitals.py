"""Vitals: how the server itself is: disk, ledger, clock, errors, latency, worker. Looked at once a second.

What is measured becomes metrics; what is wrong becomes an `alarm` event of kind `system`, one when it opens and one when
it is resolved, with the numbers seen and a sentence. An alarm that was open when a front died is resolved by the next one.
"""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from staytrue.errors import StaytrueError
from staytrue.kernel.alarm import Alarm, seen
from staytrue.serve.metrics import DURATION_BUCKETS, Metrics
from staytrue.store.ledger import LIVE, Entry
from staytrue.store.reserve import Disk, DiskState, keep_reserve

if TYPE_CHECKING:
    from collections.abc import Callable

    from staytrue.store.store import Store

__all__ = ["Figures", "Reading", "Sample", "Vitals", "What", "p99_s", "readings"]

What = Literal["disk", "ledger", "clock", "errors", "latency", "worker"]

_LOOK_S: Final = 1.0
_WINDOW_S: Final = 60.0
_PREDICT: Final = ("/predict", "/invocations", "/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")
_JUMP_S: Final = 1.0
_MB: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the server says of itself.

    Attributes:
        there: whether a request can be answered.
        restarts: of the champion's lanes, since the front began.
        queue_rows: that wait.
        read_s: how long the ledger took to be read; None: it could not be.
    """

    there: bool
    restarts: int
    queue_rows: float
    read_s: float | None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """All that was counted up to a moment, and what was measured at it.

    Attributes:
        now_s: monotonic. wall_s: since 1970.
        figures: what the server said.
        answers: predictions asked for, by status.
        buckets: how long those took that were answered, as counts between the bounds of `DURATION_BUCKETS`.
        append_s: how long the ledger took to be written, last time.
        disk: None where the file system does not say.
    """

    now_s: float
    wall_s: float
    figures: Figures
    answers: Mapping[str, int]
    buckets: Sequence[int]
    append_s: float
    disk: Disk | None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a look says of one thing: bad, well or neither (None), the numbers, and both in words."""

    is_bad: bool | None
    evidence: Mapping[str, Any]
    bad: str
    well: str


_HOLD_S: Final[Mapping[What, tuple[float, float]]] = {
    "disk": (0.0, 3.0),
    "ledger": (2.0, 10.0),
    "clock": (0.0, 0.0),
    "errors": (0.0, 30.0),
    "latency": (5.0, 30.0),
    "worker": (0.0, 10.0),
}
"""How long it has to be bad to open, and well to be resolved."""


def readings(now: Sample, window: Sequence[Sample], usual_p99_s: float | None) -> dict[What, Reading]:
    """What a look at the newest sample says, beside those of the last minute, oldest first.

    Args:
        usual_p99_s: of the minutes before; None: not known yet.
    """
    first = window[0] if window else now
    return {
        "disk": _disk(now),
        "ledger": _ledger(now),
        "clock": _clock([*window, now]),
        "errors": _errors(now, first),
        "latency": _latency(now, first, usual_p99_s),
        "worker": _worker(now, first),
    }


def _disk(now: Sample) -> Reading:
    if now.disk is None:
        return Reading(is_bad=True, evidence={}, bad="The store's disk does not say how much room there is.", well="")
    state = now.disk.state
    room = now.disk.room_bytes
    shed = {"well": "", "low": "No training is begun.", "full": "Predictions are not logged and labels refused."}[state]
    return Reading(
        is_bad=state != "well",
        evidence={"state": state, "free_bytes": now.disk.free_bytes, "reserve_bytes": now.disk.held_bytes},
        bad=f"The store's disk has {room // _MB:,} MiB left. {shed} Free some space (`staytrue gc`).",
        well=f"The store's disk has {room // _MB:,} MiB left again.",
    )


def _ledger(now: Sample) -> Reading:
    read_s, append_s = now.figures.read_s, now.append_s
    slow = read_s is None or read_s > 1.0 or append_s > 5.0
    took = "can't be read" if read_s is None else f"took {read_s:.2f} s to be read, {append_s:.2f} s to be written"
    return Reading(
        is_bad=True if slow else None if read_s is not None and read_s > 0.25 else False,
        evidence={"read_s": None if read_s is None else round(read_s, 4), "append_s": round(append_s, 4)},
        bad=f"The ledger {took}. Requests are answered; roles and events wait.",
        well=f"The ledger answers again ({took}).",
    )


def _clock(samples: Sequence[Sample]) -> Reading:
    offsets = [one.wall_s - one.now_s for one in samples]
    jumps = [after - before for before, after in pairwise(offsets)]
    jump_s = max(jumps, key=abs, default=0.0)
    is_bad = abs(jump_s) > _JUMP_S
    return Reading(
        is_bad=is_bad,
        evidence={"jump_s": round(jump_s, 3)},
        bad=f"The clock jumped by {jump_s:+.1f} s: it was set, or the machine slept. Order is kept by the ledger's numbers.",
        well="The clock has run evenly for a minute.",
    )


def _errors(now: Sample, first: Sample) -> Reading:
    asked = _since(now.answers, first.answers)
    count = sum(asked.values())
    failed = sum(n for status, n in asked.items() if status.startswith("5"))
    ratio = failed / count if count else 0.0
    is_bad = True if failed >= 10 and ratio >= 0.05 else None if ratio >= 0.01 else False
    return Reading(
        is_bad=is_bad,
        evidence={"asked": count, "failed": failed, "by_status": asked, "queue_rows": now.figures.queue_rows},
        bad=f"{failed:,} of {count:,} predictions of the last minute failed ({ratio:.1%}).",
        well=f"Predictions are answered again: {failed:,} of {count:,} failed in the last minute.",
    )


def _latency(now: Sample, first: Sample, usual_s: float | None) -> Reading:
    buckets = [a - b for a, b in zip(now.buckets, first.buckets, strict=True)]
    count = sum(buckets)
    last_s = p99_s(buckets)
    known = usual_s is not None and last_s is not None and count >= 100
    slow = known and last_s is not None and usual_s is not None and last_s > max(0.25, 4 * usual_s)
    well = not known or (last_s is not None and usual_s is not None and last_s < max(0.25, 2 * usual_s))
    shown = {name: None if v is None else round(v, 4) for name, v in (("p99_s", last_s), ("usual_p99_s", usual_s))}
    return Reading(
        is_bad=True if slow else False if well else None,
        evidence={**shown, "answers": count, "queue_rows": now.figures.queue_rows},
        bad=f"1 of 100 predictions took over {last_s or 0:.2f} s in the last minute; usual are {usual_s or 0:.2f} s.",
        well=f"Predictions are as fast as usual: 99 of 100 within {last_s or 0:.2f} s.",
    )


def _worker(now: Sample, first: Sample) -> Reading:
    restarts = now.figures.restarts - first.figures.restarts
    is_bad = True if restarts >= 5 else None if restarts else False
    return Reading(
        is_bad=is_bad,
        evidence={"restarts": restarts, "there": now.figures.there},
        bad=f"The champion's process died {restarts} times in the last minute. The server's log tells more.",
        well="The champion's process has lived through the last minute.",
    )


def _since(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {key: n - before.get(key, 0) for key, n in sorted(now.items()) if n > before.get(key, 0)}


def p99_s(buckets: Sequence[int]) -> float | None:
    """The 99th percentile, evenly spread within its bucket; the last bound beyond all; None of nothing.

    Args:
        buckets: counts between the bounds of `DURATION_BUCKETS`.

    Example:
        >>> p99_s([0, 100] + [0] * 13)
        0.00995
    """
    wanted = 0.99 * sum(buckets)
    if not wanted:
        return None
    low = at = 0.0
    for high, count in zip(DURATION_BUCKETS, buckets, strict=False):
        if at + count >= wanted:
            return low + (high - low) * (wanted - at) / count
        at += count
        low = high
    return DURATION_BUCKETS[-1]


class Vitals:
    """Looks, counts, and tells. `run` it.

    Args:
        store: whose disk and ledger.
        app: whose events.
        metrics: what was counted, and where figures go.
        figures: asked at every look, in a thread.
        shed: told at every look whether predictions are not to be logged, because the disk is nearly full.
        say: called with a sentence for the person who runs the server.

    Attributes:
        disk: how it stands with the disk.
    """

    def __init__(
        self,
        store: Store,
        app: str,
        *,
        metrics: Metrics,
        figures: Callable[[], Figures],
        shed: Callable[[bool], None],
        say: Callable[[str], None],
    ) -> None:
        self.disk: DiskState = "well"
        self._store, self._app, self._metrics = store, app, metrics
        self._figures, self._shed, self._say = figures, shed, say
        self._began_s = time.monotonic()
        self._window: deque[Sample] = deque()
        self._usual: deque[float] = deque(maxlen=60)
        self._minute_s = self._began_s
        self._alarms: dict[What, Alarm] = {what: Alarm() for what in get_args(What)}
        self._opened_at: dict[What, datetime] = {}
        self._untold: deque[Entry] = deque(maxlen=100)
        self._adopted = False
        self._found: Mapping[What, Reading] = {}
        metrics.up.follow(lambda: time.monotonic() - self._began_s)
        metrics.ready.follow(lambda: float(figures().there))

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
        if not self._adopted:
            self._adopted = await asyncio.to_thread(self._adopt)
        self._look(await asyncio.to_thread(self._sampled))
        if self._untold and self._adopted:
            await asyncio.to_thread(self._tell)

    def shown(self) -> Mapping[str, Any]:
        """What the last look found, for pages: of each thing whether it is bad, and the numbers; empty before the first look."""
        return {
            what: {
                "is_bad": one.is_bad,
                "sentence": one.bad if one.is_bad else None,
                "since": at.isoformat() if (at := self._opened_at.get(what)) else None,
                "evidence": one.evidence,
            }
            for what, one in self._found.items()
        }

    # ------------------------------------------------------------ looking

    def _sampled(self) -> Sample:
        """In a thread: a disk may take its time."""
        try:
            disk = keep_reserve(self._store.root)
        except (StaytrueError, OSError):
            disk = None  # the alarm says so
        families = self._metrics.duration.items()
        predicted = [(values[2], child.counts) for values, child in families if values[1] in _PREDICT]
        counts: dict[str, int] = {}
        for status, found in predicted:
            counts[status] = counts.get(status, 0) + sum(found)
        well = [found for status, found in predicted if status == "200"]
        return Sample(
            now_s=time.monotonic(),
            wall_s=time.time(),
            figures=self._figures(),
            answers=counts,
            buckets=[sum(column) for column in zip(*well, strict=True)] or [0] * (len(DURATION_BUCKETS) + 1),
            append_s=self._metrics.ledger_append.value,
            disk=disk,
        )

    def _look(self, now: Sample) -> None:
        usual_s = median(self._usual) if len(self._usual) >= 5 else None
        found = readings(now, self._window, usual_s)
        self._measure(now, found)
        self._found = found
        for what, reading in found.items():
            open_after_s, close_after_s = _HOLD_S[what]
            self._alarms[what], turn = seen(
                self._alarms[what],
                now.now_s,
                is_bad=reading.is_bad,
                open_after_s=open_after_s,
                close_after_s=close_after_s,
            )
            if turn is not None:
                self._note(what, turn, reading)
        while self._window and now.now_s - self._window[0].now_s >= _WINDOW_S:
            self._window.popleft()
        self._window.append(now)

    def _measure(self, now: Sample, found: Mapping[What, Reading]) -> None:
        metrics = self._metrics
        errors, p99 = found["errors"].evidence, found["latency"].evidence["p99_s"]
        metrics.error_ratio.set(errors["failed"] / errors["asked"] if errors["asked"] else 0.0)
        metrics.p99.set(p99 or 0.0)
        metrics.ledger_read.set(now.figures.read_s or 0.0)
        before = self._window[-1] if self._window else now
        if not now.figures.there:
            metrics.unready.inc(now.now_s - before.now_s)
        metrics.clock_jumps.inc(abs(now.wall_s - now.now_s - before.wall_s + before.now_s) > _JUMP_S)
        if now.disk is not None:
            metrics.disk_free.set(now.disk.free_bytes)
            metrics.disk_reserve.set(now.disk.held_bytes)
            self.disk = now.disk.state
            self._shed(self.disk == "full")
        if p99 is not None and now.now_s - self._minute_s >= _WINDOW_S:
            self._minute_s = now.now_s
            if not self._alarms["latency"].is_open:
                self._usual.append(p99)

    # ------------------------------------------------------------ telling

    def _note(self, what: What, turn: Literal["opened", "resolved"], reading: Reading) -> None:
        now = datetime.now(UTC)
        opened_at = self._opened_at.setdefault(what, now) if turn == "opened" else self._opened_at.pop(what, now)
        self._metrics.alarm.labels(what).set(float(turn == "opened"))
        sentence = reading.bad if turn == "opened" else reading.well
        self._say(sentence)
        self._untold.append(
            Entry(
                app=self._app,
                key=f"alarm:system:{what}:{opened_at:%Y%m%dT%H%M%S%fZ}:{turn}",
                at=now,
                kind="alarm",
                sentence=sentence,
                body={
                    "alarm": "system",
                    "what": what,
                    "state": turn,
                    "opened_at": opened_at.isoformat(),
                    "evidence": dict(reading.evidence),
                },
            )
        )

    def _tell(self) -> None:
        """Write down what is untold, in order; what the ledger does not take now it is told later."""
        while self._untold:
            began_s = time.monotonic()
            try:
                self._store.ledger.append([self._untold[0]], recorded_at=datetime.now(UTC))
            except StaytrueError:
                return  # said already; the ledger's own alarm tells of a ledger that takes nothing
            self._metrics.ledger_append.set(time.monotonic() - began_s)
            self._untold.popleft()

    def _adopt(self) -> bool:
        """Take over the alarms that a front before has left open; False: the ledger can't be read now."""
        try:
            events = self._store.ledger.events(self._app, LIVE, kinds=["alarm"])
        except StaytrueError:
            return False  # asked again at the next look
        for event in events:
            what = event.body.get("what")
            if event.body.get("alarm") != "system" or what not in self._alarms:
                continue
            is_open = event.body.get("state") == "opened"
            self._alarms[what] = Alarm(is_open=is_open)
            self._metrics.alarm.labels(what).set(float(is_open))
            if is_open:
                self._opened_at[what] = event.at
            else:
                self._opened_at.pop(what, None)
        return True
