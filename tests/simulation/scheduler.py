"""A scheduler of threads on simulated time: one of them runs at a time, and a seed decides which goes on, and when.

A thread gives the baton away only where it calls `sleep`: so the same seed gives the same history, step by step.
"""

from __future__ import annotations

import hashlib
import heapq
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

__all__ = ["Crash", "Scheduler", "Stop"]

_SHOWN = 20


class Crash(BaseException):
    """Power is cut, here. No `except Exception` of the code under test sees it."""


class Stop(BaseException):
    """The simulation is over."""


@dataclass
class _Actor:
    name: str
    body: Callable[[], None] | None = None
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    thread: threading.Thread | None = None


class Scheduler:
    """Simulated time, in seconds, and those who live in it. Whoever makes it is the first of them, `world`."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now_s = 0.0
        self.steps = 0
        self.last: deque[str] = deque(maxlen=_SHOWN)
        self.failure: BaseException | None = None
        self._hash = hashlib.blake2b(digest_size=16)
        self._main = self._running = _Actor("world")
        self._others: list[_Actor] = []
        self._waiting: list[tuple[float, int, _Actor]] = []
        self._order = 0
        self._over = False

    @property
    def who(self) -> str:
        """The name of the one that runs."""
        return self._running.name

    @property
    def fingerprint(self) -> str:
        """A digest of all steps so far."""
        return self._hash.hexdigest()

    def spawn(self, name: str, body: Callable[[], None]) -> None:
        """One more, which begins as soon as the baton is its."""
        actor = _Actor(name, body)
        actor.thread = threading.Thread(target=self._live, args=(actor,), name=name, daemon=True)
        self._others.append(actor)
        actor.thread.start()
        self._push(actor, self.now_s)

    def note(self, step: str) -> None:
        """Write a step down: it belongs to the history."""
        line = f"{self.steps:>7} {self.now_s:10.3f} {self._running.name:<7} {step}"
        self.steps += 1
        self._hash.update(line.encode())
        self.last.append(line)

    def sleep(self, seconds: float) -> None:
        """Let simulated time pass for the caller; others go on meanwhile."""
        me = self._running
        self._push(me, self.now_s + max(seconds, 0.0))
        self._hand_over()
        if self._over and me is not self._main:
            raise Stop
        if me is self._main and self.failure is not None:
            raise self.failure
        if self._running is not me:
            raise RuntimeError(f"{me.name} goes on, though it is the turn of {self._running.name}")

    def end(self) -> None:
        """Stop all others, wherever they are."""
        self._over = True
        for actor in self._others:
            actor.go.release()
            if actor.thread is not None:
                actor.thread.join(timeout=60)
                if actor.thread.is_alive():
                    raise RuntimeError(f"{actor.name} does not end")

    def _push(self, actor: _Actor, at_s: float) -> None:
        self._order += 1
        heapq.heappush(self._waiting, (at_s, self._order, actor))

    def _hand_over(self) -> None:
        me = self._running
        at_s, _, chosen = heapq.heappop(self._waiting)
        self.now_s = max(self.now_s, at_s)
        if chosen is me:
            return
        self._running = chosen
        chosen.go.release()
        me.go.acquire()

    def _live(self, actor: _Actor) -> None:
        actor.go.acquire()
        try:
            if self._over or actor.body is None:
                return
            actor.body()
            self.failure = RuntimeError(f"{actor.name} came to its end")
        except Stop:
            return
        except BaseException as exc:  # noqa: BLE001 - the one who waits in `sleep` raises it
            self.failure = exc
        self._running = self._main
        self._main.go.release()
