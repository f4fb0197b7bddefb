"""A server as the processes that it is made of: started, asked, weighed, stopped. Linux, standard library only.

The harness stays as light as this on purpose: memory that two processes share is split between them in PSS, so a harness
that had numpy loaded would make every server look smaller.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK") if sys.platform == "linux" else 100
POLL_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request that a server answers with predictions."""

    path: str
    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that has answered once."""

    name: str
    pid: int
    port: int
    first_answer_s: float

    def pids(self) -> list[int]:
        """It and all that came of it: descendants, and whoever is in its session (a parent may be gone)."""
        parents: dict[int, int] = {}
        found = {self.pid}
        for pid, fields in _stats():
            parents[pid] = int(fields[1])
            if int(fields[3]) == self.pid:
                found.add(pid)
        grown = True
        while grown:
            more = {pid for pid, parent in parents.items() if parent in found} - found
            grown = bool(more)
            found |= more
        return sorted(found & (parents.keys() | {self.pid}))

    def cpu_s(self) -> float:
        """User plus system time of the tree so far, with that of children that have ended."""
        own = set(self.pids())
        return sum(sum(map(int, fields[11:15])) for pid, fields in _stats() if pid in own) / TICKS

    def pss_mb(self) -> float:
        """Memory of the tree; what is shared with others counts by its share."""
        total_kb = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):  # ended between the list and the look
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total_kb += int(line.split()[1])
        return total_kb / 1024

    def settle(self, *, still_s: float = 0.5, deadline_s: float = 10) -> None:
        """Wait until the tree has used next to no CPU for a while: start-up work goes on after the first answer."""
        end = time.monotonic() + deadline_s
        since, spent = time.monotonic(), self.cpu_s()
        while time.monotonic() < end and time.monotonic() - since < still_s:
            time.sleep(POLL_S)
            if (now := self.cpu_s()) > spent + 2 / TICKS:
                since, spent = time.monotonic(), now


@contextlib.contextmanager
def running(
    name: str,
    command: list[str],
    *,
    port: int,
    probe: Request,
    log: Path,
    folder: Path,
    environment: dict[str, str],
    accepts: Callable[[bytes], bool],
    deadline_s: float = 120,
) -> Iterator[Server]:
    """Start a server, wait until it predicts, and stop all of it in the end.

    Args:
        accepts: whether a body with status 200 is an answer; anything else means: not there yet.
    """
    begun = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    server = Server(name=name, pid=process.pid, port=port, first_answer_s=0)
    try:
        last = "no connection"
        while True:
            status, body = _answer(port, probe)
            if status == http.client.OK and accepts(body):
                break
            last = f"{status} {body[:300]!r}" if status else last
            if process.poll() is not None or time.monotonic() > begun + deadline_s:
                tail = log.read_text(errors="replace")[-2000:]
                what = f"ended with {process.poll()}" if process.poll() is not None else f"still: {last}"
                raise SystemExit(f"{name} did not answer ({what}): {' '.join(command)}\n{tail}")
            time.sleep(POLL_S)
        yield Server(name=name, pid=process.pid, port=port, first_answer_s=time.monotonic() - begun)
    finally:
        _stop(process, server)


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answer(port: int, request: Request) -> tuple[int, bytes]:
    """Status and body; 0 without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", request.path, request.body, {"content-type": request.content_type})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes], server: Server) -> None:
    """Ask politely, then end whatever is left."""
    ours = _starts(server)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    # By start time too: a process id may have been given to somebody else since.
    ours |= _starts(server)
    for pid, fields in _stats():
        if pid != server.pid and ours.get(pid) == fields[19]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _starts(server: Server) -> dict[int, str]:
    """Process id -> when it started, of the whole tree."""
    own = set(server.pids())
    return {pid: fields[19] for pid, fields in _stats() if pid in own}


def _stats() -> Iterator[tuple[int, list[str]]]:
    """Process id and the fields of /proc/PID/stat after the name: 1 parent, 3 session, 11-14 CPU ticks, 19 start."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                text = Path(entry.path, "stat").read_text(errors="replace")
                yield int(entry.name), text.rpartition(")")[2].split()
