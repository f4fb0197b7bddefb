"""Worker: the process of one release. It loads code and model once, proves them on golden rows, and forks lanes.

    python -m staytrue.serve.worker CONTROL_FD STORE

Importing pandas and scikit-learn takes seconds, a fork takes milliseconds: so a lane that dies is replaced before its
callers notice. Where a fork is not safe (threads run after loading), the worker itself becomes the lane, and the front
starts another process when it dies.

Over the control socket, JSON behind 4 bytes of length (`engines/launcher.py`): in comes the errand, what to load; out
comes `ready` with all that the front has to know of the release, or `failed` with an error document; in comes `lane`, with
a socket to answer on beside it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from staytrue.engines.guard import fork_is_safe, limit_this_process
from staytrue.engines.launcher import read_frame, write_frame
from staytrue.errors import StaytrueError
from staytrue.serve.answerer import Answerer, open_answerer
from staytrue.serve.handshake import Errand
from staytrue.serve.lane import Log, run_lane
from staytrue.store.segment import SegmentWriter, Syncer, traffic_folder

__all__ = ["main"]


def main() -> None:
    """Load the release and hand out lanes until the front is gone."""
    control = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(control.fileno(), False)
    said = read_frame(control.fileno())
    if said is None:
        return  # the front ended before it knew what to serve
    errand = Errand.from_document(said)
    limit_this_process(oom_score=300)  # after the jobs, which have 900
    os.dup2(2, 1)  # whatever a predict function prints is for the server's log
    try:
        answerer = open_answerer(errand)
        os.chdir(errand.root / "work" / "code" / answerer.release.code)
    except StaytrueError as exc:
        with contextlib.suppress(BrokenPipeError):  # the front ended meanwhile
            write_frame(control.fileno(), {"is": "failed", "error": exc.document()})
        sys.exit(1)
    forks = fork_is_safe()
    if forks:
        # What is loaded stays, and is shared with the lanes as long as nobody touches it.
        gc.collect()
        gc.freeze()
    try:
        write_frame(control.fileno(), {"is": "ready", "forks": forks, **_told(answerer)})
    except BrokenPipeError:
        return
    _Worker(control, answerer, errand.root, forks=forks).serve()


def _told(answerer: Answerer) -> dict[str, Any]:
    labelled = answerer.app.labelled
    return {
        "app": answerer.app.name,
        "signature": answerer.signature.document(),
        "label": {"name": labelled.spec.label if labelled else None, "type": answerer.label_type},
        "example": answerer.example,
        "is_async": answerer.is_async,
        "in_pieces": answerer.in_pieces,
        "log": answerer.app.settings.log,
        "durable": answerer.app.settings.durable,
    }


class _Worker:
    """Hands out lanes, and reaps those that end."""

    def __init__(self, control: socket.socket, answerer: Answerer, store_path: Path, *, forks: bool) -> None:
        self._control, self._answerer, self._forks = control, answerer, forks
        self._store_path = store_path
        self._wake, self._waker = os.pipe()
        for end in (self._wake, self._waker):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for ignored in (signal.SIGINT, signal.SIGTERM):
            # The front decides when it is over: a Ctrl-C in the terminal must not break answers under way.
            signal.signal(ignored, signal.SIG_IGN)

    def serve(self) -> None:
        while True:
            readable, _, _ = select.select([self._control.fileno(), self._wake], [], [])
            if self._wake in readable:
                os.read(self._wake, 4096)
                self._reap()
            if self._control.fileno() in readable:
                sock = self._asked()
                if sock is None:
                    return
                self._begin(sock)

    def _asked(self) -> socket.socket | None:
        """The socket of the lane that is wanted; None when the front is gone."""
        with contextlib.suppress(ConnectionError):
            data, descriptors, _, _ = socket.recv_fds(self._control, 4096, 1)
            if data and descriptors and json.loads(data[4:])["is"] == "lane":
                return socket.socket(fileno=descriptors[0])
        return None

    def _begin(self, sock: socket.socket) -> None:
        if not self._forks:
            self._run(sock)
            sys.exit(0)
        if os.fork():
            sock.close()
            return
        code = 1
        try:
            self._control.close()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._run(sock)
            code = 0
        finally:
            # Not `exit`: nothing that belongs to the worker may be torn down twice.
            sys.stderr.flush()
            os._exit(code)

    def _run(self, sock: socket.socket) -> None:
        answerer = self._answerer
        header = {
            "kind": "predictions",
            "app": answerer.app.name,
            "release": answerer.id,
            "columns": [list(column) for column in answerer.layout.schema],
            "key": answerer.signature.key,
            "time": answerer.signature.time,
            "layout": 1,
        }
        writer = SegmentWriter(traffic_folder(self._store_path, answerer.app.name, "predictions"), header)
        durable = answerer.app.settings.durable
        Syncer(writer)  # of a durable lane it only closes a segment that grew old
        with contextlib.suppress(StaytrueError), writer:  # what can't be synced at the very end was not promised to be
            run_lane(sock, answerer, Log(writer=writer, durable=durable))

    @staticmethod
    def _reap() -> None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


if __name__ == "__main__":
    main()
