"""Requests from a process of its own, so that what they cost the client is not taken from what a test measures.

    python asker.py again PORT FILE PAUSE_S      the request in FILE, again and again: status and seconds of each
    python asker.py halves PORT FILE COUNT CUT DRIP_S     so many at once, cut after CUT bytes, then DRIP_S for each
                                                 byte (0: nothing more): seconds until closed and status of each

It says `ready` before it begins, and goes on (`again`) until its stdin ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from load import ask, half_sent

_TIMEOUT_S = 60.0
_HALVES_S = 25.0


@contextlib.contextmanager
def apart(what: str, port: int, request: Path, *more: object) -> Iterator[list[tuple[float, ...]]]:
    """One of the above beside this block; the list holds its lines once the block has ended."""
    command = [sys.executable, __file__, what, str(port), str(request), *map(str, more)]
    lines: list[tuple[float, ...]] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asker:
        assert asker.stdout is not None
        assert asker.stdout.readline() == "ready\n"
        yield lines
        said, _ = asker.communicate()
    assert asker.returncode == 0
    lines += [tuple(map(float, line.split())) for line in said.splitlines()]


def main() -> None:
    os.nice(15)  # a client is on another machine, and takes no turn from the server
    what, port, request = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]).read_bytes()
    print("ready", flush=True)
    if what == "again":
        while not select.select([sys.stdin], [], [], float(sys.argv[4]))[0]:
            began = time.monotonic()
            reply = ask(port, request, timeout_s=_TIMEOUT_S)
            print(reply.status, time.monotonic() - began, flush=True)
    else:
        count, cut, drip_s = int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6])
        for one in half_sent(port, request, count, sent=cut, drip_s=drip_s or None, deadline_s=_HALVES_S):
            print(one.closed_s, one.status)


if __name__ == "__main__":
    main()
