"""Spawn: a worker's process, before anybody knows what it will serve.

It loads its libraries while the server that asked for it still loads its own, and waits for its errand
(`serve/handshake.py`). So this module is light: it is the first thing that `staytrue up` does.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import TypeAlias

from staytrue.engines.guard import DETACHED
from staytrue.engines.job import environment

__all__ = ["Started", "start_worker"]

Started: TypeAlias = tuple[subprocess.Popen[bytes], socket.socket]
"""A worker's process, and our end of its control socket."""


def start_worker(root: Path, *, threads: int) -> Started:
    """A worker that loads its libraries and waits for its errand, leader of a group of its own, and our end of its socket.

    Args:
        root: the store's folder, for whoever looks at the list of processes.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        argv = [sys.executable, "-m", "staytrue.serve.worker", str(theirs.fileno()), str(root)]
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment(threads), **DETACHED
        )
    return process, ours
