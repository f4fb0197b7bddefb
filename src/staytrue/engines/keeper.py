"""Keeper: a parent that keeps a few child processes alive, and ends them together. What `staytrue up` is.

It must not die itself, so it does next to nothing: one thread, no library, no store, no user code. A child is forked from
it, so it is there within milliseconds, and is ended and replaced when it is silent for too long (stopped, or hanging): it
gives a sign of life over its line, a pair of sockets, or by changing a file. What dies is started again at once; what dies
at once again and again is given growing pauses, and its sibling does not notice.

When the keeper itself is killed, the kernel ends its children (Linux); elsewhere they see it by their line.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias

from staytrue.engines.guard import KILL, die_with_parent, signal_group
from staytrue.errors import StaytrueError

__all__ = ["AGAIN", "Child", "Failure", "Keeper", "Line", "Notice", "file_sign"]

AGAIN: Final = 75
"""The exit code of a child that wants to be started again at once (EX_TEMPFAIL of sysexits.h)."""
Notice: TypeAlias = dict[str, Any]
"""What happened to a child: `by` (the keeper), `number` (of the incident), `what` (the child's name), `state` (opened or
resolved), `why`, `restarts`, `at` (seconds since 1970)."""

_LOOK_S: Final = 0.5
_AT_ONCE_S: Final = 1.0
"""One that ends within this after its first sign of life has ended at once."""
_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 30.0
_NOTICES: Final = 50
_FAILED: Final = 70
_LINE: Final = "STAYTRUE_LINE"
_SIGNALS: Final = ("SIGTERM", "SIGINT", "SIGHUP", "SIGCHLD")


class Line:
    r"""A child's end of the line to its keeper: `beat` at least every second, say what it must know, hear what happened.

    Example:
        >>> ours, theirs = socket.socketpair()
        >>> line = Line(theirs)
        >>> line.beat(), ours.recv(10)
        (True, b'\n')
        >>> ours.close()
        >>> line.beat()
        False
        >>> line.close()
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)
        self._heard = b""

    @classmethod
    def inherited(cls) -> Line | None:
        """The line of a process that was started by `Child.run` with `exec`; None when nobody keeps this process."""
        number = os.environ.pop(_LINE, "")
        if not number.isdigit():
            return None
        try:
            sock = socket.socket(fileno=int(number))
        except OSError:
            return None
        sock.set_inheritable(False)
        return cls(sock)

    def pass_on(self) -> None:
        """Let the program that this process becomes have the line: see `inherited`."""
        self.sock.set_inheritable(True)
        os.environ[_LINE] = str(self.sock.fileno())

    def beat(self) -> bool:
        """A sign of life. False: the keeper is gone, and so should be who asked."""
        return self._send(b"\n")

    def tell(self, document: dict[str, Any]) -> bool:
        """Something that the keeper has to know; false: it is gone."""
        return self._send(json.dumps(document).encode() + b"\n")

    def heard(self) -> list[Notice]:
        """What the keeper has told since the last call."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while data := self.sock.recv(1 << 16):
                self._heard += data
        *whole, self._heard = self._heard.split(b"\n")
        return [json.loads(one) for one in whole if one]

    def close(self) -> None:
        """Let go of it."""
        self.sock.close()

    def _send(self, data: bytes) -> bool:
        try:
            self.sock.send(data)
        except BlockingIOError:  # the keeper is stopped; it will read what is there, and that is enough
            return True
        except OSError:
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class Child:
    """What is to be kept alive.

    Args:
        name: one word, for notices.
        run: called in the forked process, leader of a session of its own; gives the exit code. It may become another
            program (`os.execv`).
        starts_s: how long it may take until its first sign of life.
        silent_s: how long it may give none afterwards.
        sign: pid -> what changes while it lives, in place of its line or beside it.
        grace_s: how long it may take to end when it is asked to.
        needed: whether the end of it before its first sign of life is the end of everything.
        heard: called with what it tells.
        matters: whether what happens to it is an incident, to be told; else it is only said.
        waits: asked before it is started: whether others come first.
    """

    name: str
    run: Callable[[Line], int]
    starts_s: float
    silent_s: float
    grace_s: float
    sign: Callable[[int], object] = lambda _pid: None
    needed: Callable[[], bool] = lambda: False
    heard: Callable[[dict[str, Any]], None] = lambda _document: None
    matters: bool = True
    waits: Callable[[], bool] = lambda: False


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a keeper gave up: a child that was needed did not come up. `error`: the document of what it raised, if of ours."""

    name: str
    exit_code: int
    error: dict[str, Any] | None


class Keeper:
    """Runs children until it is asked to end (SIGTERM, SIGINT, SIGHUP), or one that is needed does not come up.

    Args:
        children: in the order in which they are started.
        say: called with a sentence whenever one died, and when it is well again.
        told: name of the child that is given the notices, those from before it was there too: it may get one twice.
        ending: called once, when the end begins.
        steady_s: a child that was up for so long is well again.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        say: Callable[[str], None],
        told: str = "",
        ending: Callable[[], None] = lambda: None,
        steady_s: float = 5.0,
    ) -> None:
        self._kept = [_Kept(child=child) for child in children]
        self._say, self._told, self._ending, self._steady_s = say, told, ending, steady_s
        self._id = secrets.token_hex(6)
        self._notices: list[Notice] = []
        self._incidents = 0
        self._ends_s: float | None = None
        self._failure: Failure | None = None
        self._looked_s = time.monotonic()

    def run(self) -> Failure | None:
        """Until all children have ended; None: because it was asked to end."""
        with _signals() as wake:
            try:
                while self._ends_s is None or any(one.pid for one in self._kept):
                    self._turn(wake)
            finally:
                for one in self._kept:
                    if one.pid:  # asked twice, or a fault of ours: nothing may stay
                        one.kill()
                        os.waitpid(one.pid, 0)
                    one.forget()
        return self._failure

    # ------------------------------------------------------------ turns

    def _turn(self, wake: int) -> None:
        lines = {one.line.fileno(): one for one in self._kept if one.line is not None}
        readable, _, _ = select.select([wake, *lines], [], [], self._pause_s())
        now_s = time.monotonic()
        if now_s - self._looked_s > 2 * _LOOK_S + 1:
            # Who did not look (it was stopped, or the machine slept) can't say that nobody moved.
            for one in self._kept:
                one.sign_s = now_s
        self._looked_s = now_s
        for number in readable:
            if number in lines:
                self._read(lines[number], now_s)
        if wake in readable:
            for signum in os.read(wake, 4096):
                if signum != signal.SIGCHLD:
                    self._asked_to_end(now_s)
        for one in self._kept:
            self._look_after(one, now_s)

    def _pause_s(self) -> float:
        dues = [one.due_s for one in self._kept if not one.pid and self._ends_s is None]
        return max(0.0, min([_LOOK_S, *(due - time.monotonic() for due in dues)]))

    def _look_after(self, one: _Kept, now_s: float) -> None:
        if one.pid:
            status = one.reaped()
            if status is not None:
                self._read(one, now_s)  # its last words
                self._ended(one, os.waitstatus_to_exitcode(status), now_s)
        if one.pid:
            sign = one.child.sign(one.pid)
            if sign is not None and sign != one.sign:
                one.sign = sign
                self._alive(one, now_s)
            self._judge(one, now_s)
        elif self._ends_s is None and one.due_s <= now_s:
            if one.child.waits():
                one.due_s = now_s + _PAUSE_S
            else:
                one.start(self._kept, now_s)

    def _judge(self, one: _Kept, now_s: float) -> None:
        """End who is silent or late; close the incident of who is well again."""
        child = one.child
        if self._ends_s is not None:
            if now_s - self._ends_s > child.grace_s:
                one.kill()
            return
        # One that is stopped while it starts is not busy with starting.
        patience_s = child.silent_s if one.up_s or one.is_stopped else child.starts_s
        if now_s - one.sign_s > patience_s and not one.killed:
            one.killed = f"gave no sign of life for {patience_s:g} s"
            one.kill()
        elif one.up_s and now_s - one.up_s > self._steady_s:
            one.deaths = 0
            if one.incident:
                self._notice(one, "resolved", f"has been up for {self._steady_s:g} s again")
                one.incident = one.restarts = 0

    # ------------------------------------------------------------ what children do

    def _read(self, one: _Kept, now_s: float) -> None:
        for said in one.said():
            if said.get("is") == "failed":
                one.error = said["error"]
                continue
            self._alive(one, now_s)
            if said:
                one.child.heard(said)

    def _alive(self, one: _Kept, now_s: float) -> None:
        one.sign_s, one.up_ever = now_s, True
        if not one.up_s:
            one.up_s = now_s
            if one.child.name == self._told:
                for notice in self._notices:
                    one.tell(notice)

    def _ended(self, one: _Kept, code: int, now_s: float) -> None:
        child = one.child
        why = one.killed or _words(code)
        up_s = now_s - one.up_s if one.up_s else 0.0
        error, one.error = one.error, None
        signal_group(one.pid, KILL)  # whatever it left in its group
        one.forget()
        if self._ends_s is not None:
            return
        if code >= 0 and code != AGAIN and not one.up_ever and child.needed():
            self._failure = Failure(name=child.name, exit_code=code, error=error)
            self._end(now_s)
            return
        at_once = up_s < _AT_ONCE_S
        one.deaths = one.deaths + 1 if at_once else 0
        pause_s = min(_LONGEST_PAUSE_S, _PAUSE_S * 2 ** min(one.deaths - 2, 20)) if one.deaths > 1 else 0.0
        one.due_s = now_s + pause_s
        if code == AGAIN:
            return
        one.restarts += 1
        if error:
            why = f"{why}: {error['code']} {error['message']}"
        self._say(f"The {child.name} {why}; it is started again{f' in {pause_s:g} s' if pause_s else ''}.")
        if not one.incident and child.matters:
            self._incidents += 1
            one.incident = self._incidents
            self._notice(one, "opened", why)

    def _notice(self, one: _Kept, state: str, why: str) -> None:
        """Write it down for the child that keeps the record; it may be the one that died."""
        notice: Notice = {
            "by": self._id,
            "what": one.child.name,
            "number": one.incident,
            "state": state,
            "why": why,
            "restarts": one.restarts,
            "at": time.time(),
        }
        self._notices = [*self._notices, notice][-_NOTICES:]
        if state == "resolved":
            self._say(f"The {one.child.name} {why}.")
        for listener in self._kept:
            if listener.child.name == self._told and listener.up_s:
                listener.tell(notice)

    # ------------------------------------------------------------ the end

    def _asked_to_end(self, now_s: float) -> None:
        if self._ends_s is None:
            self._end(now_s)
        else:
            for one in self._kept:
                one.kill()

    def _end(self, now_s: float) -> None:
        self._ends_s = now_s
        self._ending()
        for one in self._kept:
            one.ask_to_end()


@dataclass(kw_only=True, eq=False)
class _Kept:
    """A child as its keeper sees it; times are monotonic, 0.0: never.

    Attributes:
        pid: 0: none runs, and the next one is started at `due_s`.
        sign_s: of its last sign of life, or when it was started. up_s: of its first.
        up_ever: whether any one of its lives gave a sign.
        deaths: how often in a row it ended at once.
        incident, restarts: the number of the incident that is open (0: none), and how often it was started in it.
    """

    child: Child
    pid: int = 0
    line: socket.socket | None = None
    sign: object = None
    sign_s: float = 0.0
    up_s: float = 0.0
    up_ever: bool = False
    is_stopped: bool = False
    due_s: float = 0.0
    deaths: int = 0
    incident: int = 0
    restarts: int = 0
    killed: str = ""
    error: dict[str, Any] | None = field(default=None)
    _heard: bytes = field(default=b"")

    def start(self, siblings: Sequence[_Kept], now_s: float) -> None:
        """Fork it."""
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # else both would write what is in the buffer
        # A signal for the child must not meet our handlers, which it has until it has put its own in place.
        asked = {getattr(signal, name) for name in _SIGNALS}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, asked)
        with warnings.catch_warnings():
            # `staytrue up` has one thread; a test that calls it has others, none of which the child needs.
            warnings.filterwarnings("ignore", ".* is multi-threaded, use of fork", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            ours.close()
            for one in siblings:
                if one.line is not None:
                    one.line.close()
            _be_the_child(self.child, Line(theirs), parent, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        ours.setblocking(False)
        self.pid, self.line, self.sign_s, self.up_s = pid, ours, now_s, 0.0
        self.is_stopped, self.killed, self._heard = False, "", b""
        self.sign = self.child.sign(pid)

    def said(self) -> Iterator[dict[str, Any]]:
        """What came over the line; an empty document: a sign of life."""
        data = b""
        if self.line is not None:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                while piece := self.line.recv(1 << 16):
                    data += piece
        if not data:
            if self.line is not None and self._is_over():
                self.line.close()
                self.line = None
            return
        *whole, self._heard = (self._heard + data).split(b"\n")
        yield from (json.loads(one) if one else {} for one in whole)

    def _is_over(self) -> bool:
        """Whether the child has closed its end: else a line at its end would wake us for ever."""
        with contextlib.suppress(OSError):
            return self.line is not None and self.line.recv(1, socket.MSG_PEEK) == b""
        return False

    def tell(self, document: Notice) -> None:
        """Say something to it; one that just died is told again when it is back."""
        if self.line is not None:
            with contextlib.suppress(OSError):
                self.line.send(json.dumps(document).encode() + b"\n")

    def reaped(self) -> int | None:
        """The wait status with which it ended; None: it has not. Sees also whether it is stopped."""
        found, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if found and not (os.WIFSTOPPED(status) or os.WIFCONTINUED(status)):
            return status
        if found:
            self.is_stopped = os.WIFSTOPPED(status)
        return None

    def ask_to_end(self) -> None:
        if self.pid:
            for signum in (signal.SIGTERM, signal.SIGCONT):  # one that is stopped would not hear
                os.kill(self.pid, signum)

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, KILL)  # it is not reaped yet, so the number is still its own

    def forget(self) -> None:
        if self.line is not None:
            self.line.close()
        self.pid, self.line, self.up_s = 0, None, 0.0


def _be_the_child(child: Child, line: Line, parent: int, mask: Iterable[int]) -> NoReturn:
    code = _FAILED
    try:
        signal.set_wakeup_fd(-1)
        for name in _SIGNALS:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.setsid()  # a Ctrl-C in the terminal is for the keeper, who decides what comes of it
        die_with_parent(parent)
        code = child.run(line)
    except StaytrueError as exc:
        line.tell({"is": "failed", "error": exc.document()})
        code = exc.exit_code
    except BaseException:  # noqa: BLE001 - the outermost frame of this process
        sys.stderr.write(traceback.format_exc())
    finally:
        # Not `exit`: what the parent has registered to be torn down is the parent's.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # closed, or a pipe that nobody reads any more
                stream.flush()
        os._exit(code)


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """Within this block signals do nothing but make this descriptor readable; each is a byte, its number."""
    wake, waker = os.pipe()
    for end in (wake, waker):
        os.set_blocking(end, False)
    # `nohup` has SIGHUP ignored, and means it.
    heeded = [name for name in _SIGNALS if name != "SIGHUP" or signal.getsignal(signal.SIGHUP) != signal.SIG_IGN]
    before = {name: signal.signal(getattr(signal, name), lambda *_: None) for name in heeded}
    woken = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    try:
        yield wake
    finally:
        signal.set_wakeup_fd(woken)
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
        os.close(wake)
        os.close(waker)


def file_sign(folder: Path) -> Callable[[int], object]:
    """A sign of life by file: the child with this pid rewrites a `*.beat` in the folder that holds its pid as JSON.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> sign = file_sign(folder)
        >>> _ = (folder / "rates.beat").write_text('{"pid": 7, "count": 1}')
        >>> sign(7) is not None, sign(8)
        (True, None)
    """

    def sign(pid: int) -> object:
        found = None
        with contextlib.suppress(OSError):
            for file in folder.glob("*.beat"):
                with contextlib.suppress(
                    OSError, ValueError
                ):  # just being written: what stood before counts as silence
                    text = file.read_bytes()
                    if json.loads(text).get("pid") == pid:
                        found = (text, file.stat().st_mtime_ns)
        return found

    return sign


def _words(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
