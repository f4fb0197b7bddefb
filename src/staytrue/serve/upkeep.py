"""Upkeep: what a server does beside answering: its closed log segments become Parquet now and then."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from staytrue.engines.guard import DETACHED, Guard
from staytrue.engines.process import environment
from staytrue.store.segment import backlog_bytes

__all__ = ["Upkeep"]

_LOOK_S: Final = 20.0
_EVERY_S: Final = 3600.0
_BYTES: Final = 64 << 20
"""Closed segments are compacted when there are so many bytes of them, or when the last time is so long ago."""


class Upkeep:
    """Compacts an app's traffic in a process of its own, at low priority: a server at rest keeps no Arrow in memory.

    Args:
        root: the store's folder.
        app: whose traffic.
        guard: kills what is under way when the server is gone; a compaction that is killed loses nothing.
        say: called with a sentence when something went wrong.
    """

    def __init__(self, root: Path, app: str, *, guard: Guard, say: Callable[[str], None]) -> None:
        self._root, self._app, self._guard, self._say = root, app, guard, say
        self._done_s = time.monotonic()

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if await asyncio.to_thread(self._is_due):
                await self.compact()

    async def compact(self) -> None:
        """Compact what is closed now."""
        self._done_s = time.monotonic()
        argv = [sys.executable, "-m", "staytrue.store.compaction", str(self._root), self._app]
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment(1), **DETACHED
        )
        self._guard.watch(process.pid)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        finally:
            self._guard.forget(process.pid)
        if code:
            self._say(f"Compacting the traffic of {self._app} failed (exit code {code}); it is tried again later.")

    def _is_due(self) -> bool:
        size = backlog_bytes(self._root, self._app)
        return size >= _BYTES or (size > 0 and time.monotonic() - self._done_s >= _EVERY_S)
