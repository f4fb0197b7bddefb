"""Server: a `staytrue up` that is a child of this process. The demo and the drills start it; it does not outlive them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from staytrue.engines.guard import DETACHED, Guard

__all__ = ["said", "serving"]

_ENDS_S = 60.0


@contextlib.contextmanager
def serving(
    words: Sequence[str], *, folder: Path, log: Path, out: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`staytrue up WORDS` while this block lasts; ended in order afterwards, and killed with us if we are killed.

    Args:
        folder: where it runs. log, out: the files that take what it says; without `out` all goes into `log`.
    """
    command = [sys.executable, "-W", "ignore", "-m", "staytrue", "up", *words]
    with Guard() as guard, log.open("ab") as err, contextlib.ExitStack() as files:
        stdout = files.enter_context(out.open("wb")) if out else err
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=stdout, stderr=err, stdin=subprocess.DEVNULL, **DETACHED
        )
        guard.watch(process.pid)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(timeout=_ENDS_S)
            guard.forget(process.pid)


def said(log: Path) -> str:
    """The last of what it said to people."""
    with contextlib.suppress(OSError):
        return log.read_text(errors="replace")[-2000:]
    return ""
