"""A running `staytrue up` and a client that hides nothing: for the stories about serving.

with serving(store_path) as server:
    server.predict({"size": 2.0, "city": "porto"}).json["predictions"]
    server.talk(b"GET /healthz HTTP/1.1\\r\\nhost: localhost\\r\\n\\r\\n")       # byte by byte
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil

T = TypeVar("T")
CONTROLLER = "staytrue.loop.process"
PAGE = "staytrue.dashboard.process"
PATIENCE_S = 30.0
"""For what must happen at all; a busy machine is not a bug."""

HISTORY = '''
"""10 days of sales, 20 a day."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd

START = datetime(2026, 1, 1, tzinfo=UTC)


def history():
    rng = np.random.default_rng(7)
    n = 200
    at = [START + timedelta(hours=1.2 * i) for i in range(n)]
    size = rng.uniform(1, 5, n).round(3)
    return pd.DataFrame({
        "at": pd.to_datetime(at),
        "id": np.arange(n),
        "size": size,
        "rooms": rng.integers(1, 5, n),
        "city": rng.choice(["lisbon", "porto"], n),
        "kind": rng.choice(["flat", "house"], n),
        "lift": rng.integers(0, 2, n).astype(bool),
        "built": [None if i % 7 == 0 else date(1950 + i % 70, 3, 1) for i in range(n)],
        "note": [f"note {i}" for i in range(n)],
        "rate": (20 + 3 * size + rng.normal(0, 1, n)).round(3),
    })


ROWS = history()


def between(since, until):
    return ROWS[(ROWS["at"] >= since) & (ROWS["at"] < until)]
'''

SHOP = """
import os
import time

from shop_history import between

import numpy as np

from staytrue import App

app = App("shop")
app.policy(holdout=20, cooldown="0s")
FEATURES = ["size", "rooms", "city", "kind", "lift", "built", "note"]


@app.data(time="at", key="id", label="rate", every="1d", features=FEATURES)
def sales(since, until):
    return between(since, until)


@app.train
def fit(sales):
    return np.polyfit(sales["size"], sales["rate"], 1).tolist()


INPUTS = {
    "rooms": {"range": "refuse", "unit": "refuse"},
    "kind": {"category": "refuse"},
    "lift": {"missing": "accept"},
    "built": {"missing": "accept"},
    "note": {"missing": "accept"},
}


@app.predict(metric="mae", inputs=INPUTS)
def quote(model, rows):
    notes = set(rows["note"])
    if "raise" in notes:
        raise ValueError("no quote for this one")
    if "die" in notes:
        os._exit(9)
    if "slow" in notes:
        time.sleep(0.4)
    return np.polyval(model, rows["size"])
"""
"""A column of every kind, the contract changed for some of them; what stands in `note` makes trouble."""

SINCE, UNTIL = "2026-01-01", "2026-01-11"
ROW = {"size": 2.0, "rooms": 2, "city": "porto", "kind": "flat"}
"""A row like training."""
_CLIENT = {"content-type": "application/json"}


def until(condition: Callable[[], T], what: str = "", *, seconds: float = PATIENCE_S) -> T:
    """What `condition()` gives as soon as it is something; fails when that takes too long."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"still not after {seconds:g} s: {what or condition.__name__}"
        time.sleep(0.01)


@dataclass(frozen=True)
class Answer:
    """One answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def release(self) -> str:
        return self.headers.get("staytrue-release", "")

    @property
    def code(self) -> str:
        return str(self.json.get("code", ""))

    @property
    def errors(self) -> dict[str, dict[str, Any]]:
        """What was refused, by field."""
        return {one["field"]: one for one in self.json.get("errors", [])}

    @property
    def flags(self) -> dict[str, str]:
        """What was answered all the same: field -> fault."""
        return {one["field"]: one["fault"] for one in self.json.get("flags", [])}


@dataclass
class Server:
    """A process that serves, and where."""

    process: subprocess.Popen[bytes]
    store_path: Path
    stderr_path: Path
    url: str = ""
    release: str = ""
    token: str = ""
    trust: Path | None = None

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    # ------------------------------------------------------------ asking

    def ask(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None, timeout: float = 30
    ) -> Answer:
        """One request over a connection of its own; a body that is no bytes goes as JSON."""
        sent = dict(_CLIENT) if body is not None else {}
        if self.token:
            sent["authorization"] = f"Bearer {self.token}"
        sent |= {name.lower(): value for name, value in (headers or {}).items()}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if self.trust is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        else:
            trusted = ssl.create_default_context(cafile=str(self.trust))
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=timeout, context=trusted)
        with contextlib.closing(connection):
            connection.request(method, path, body=data, headers=sent)
            got = connection.getresponse()
            return Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())

    def get(self, path: str, **more: Any) -> Answer:
        return self.ask("GET", path, **more)

    def post(self, path: str, body: Any, **more: Any) -> Answer:
        return self.ask("POST", path, body, **more)

    def predict(self, *rows: Any, **more: Any) -> Answer:
        return self.post("/predict", {"rows": list(rows)}, **more)

    @contextlib.contextmanager
    def connection(self) -> Iterator[Talk]:
        """A connection on which every byte is the caller's."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as sock, sock.makefile("rb") as incoming:
            yield Talk(sock, incoming)

    def talk(self, data: bytes, *, answers: int = 1) -> list[Answer]:
        """The answers to these very bytes."""
        with self.connection() as connection:
            connection.send(data)
            return [connection.answer() for _ in range(answers)]

    def answered_by(self, release: str, *, seconds: float = PATIENCE_S, row: Any = None) -> float:
        """How long until this release answers."""
        began = time.monotonic()
        until(lambda: self.predict(row or ROW).release == release, f"{release[:8]} does not answer", seconds=seconds)
        return time.monotonic() - began

    def metric(self, name: str) -> float:
        """A figure of /metrics, summed over its labels."""
        lines = [line for line in self.get("/metrics").body.decode().splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines if line[len(name)] in " {")

    # ------------------------------------------------------------ processes

    def front(self) -> psutil.Process | None:
        """The process that talks HTTP, a fork of the one that keeps it alive."""
        children = psutil.Process(self.process.pid).children()
        return next((one for one in children if not _runs(one, CONTROLLER) and not _runs(one, PAGE)), None)

    def controller(self) -> psutil.Process | None:
        """The process that lives the loop."""
        children = psutil.Process(self.process.pid).children()
        return next((one for one in children if _runs(one, CONTROLLER)), None)

    def page(self) -> psutil.Process | None:
        """The process that draws."""
        children = psutil.Process(self.process.pid).children()
        return next((one for one in children if _runs(one, PAGE)), None)

    def workers(self) -> list[psutil.Process]:
        """One for each release."""
        front = self.front()
        return [one for one in (front.children() if front else []) if _runs(one, "staytrue.serve.worker")]

    def lanes(self) -> list[psutil.Process]:
        """What the workers have forked."""
        return [lane for worker in self.workers() for lane in worker.children()]

    def end(self, signum: int = signal.SIGTERM) -> int:
        """The exit code, after this signal."""
        self.process.send_signal(signum)
        return self.process.wait(timeout=PATIENCE_S)


def _runs(process: psutil.Process, module: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return module in process.cmdline()
    return False


class Talk:
    """One connection, byte by byte."""

    def __init__(self, sock: socket.socket, incoming: Any) -> None:
        self.sock, self._incoming = sock, incoming

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def line(self) -> bytes:
        return self._incoming.readline()

    def answer(self, *, to_head: bool = False) -> Answer:
        """The next answer; `to_head`: to a HEAD request, so without a body."""
        status = int(self.line().split()[1])
        headers = {}
        while (line := self.line()) not in {b"\r\n", b""}:
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        if to_head or status == 100:
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, b"".join(self._chunks()))
        return Answer(status, headers, self._incoming.read(int(headers["content-length"])))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.line(), 16):
            yield self._incoming.read(size)
            self.line()
        self.line()

    @property
    def is_over(self) -> bool:
        """Whether the other end closes, once all it said is read."""
        return self._incoming.read(1) == b""


def post(path: str, body: Any, **headers: str) -> bytes:
    """The bytes of a request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n{more}\r\n".encode() + data


@contextlib.contextmanager
def serving(
    store_path: Path,
    *arguments: str,
    token: str = "",
    trust: Path | None = None,
    program: tuple[str, ...] = ("-m", "staytrue"),
) -> Iterator[Server]:
    """`staytrue up` on a free port, once it answers; ended afterwards."""
    out_path, stderr_path = store_path.parent / "up.out", store_path.parent / "up.err"
    command = [
        sys.executable,
        *program,
        "up",
        "--store",
        str(store_path),
        "--port",
        "0",
        "--json",
        *arguments,
    ]  # the last one given holds
    with out_path.open("wb") as out, stderr_path.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdout=out, stderr=stderr, stdin=subprocess.DEVNULL, env={**os.environ, "NO_COLOR": "1"}
        )
    server = Server(process, store_path, stderr_path, token=token, trust=trust)
    try:
        said = until(lambda: _said(process, out_path), "no document on stdout")
        server.url, server.release = said["url"], said["release"]
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _said(process: subprocess.Popen[bytes], out_path: Path) -> Any:
    assert process.poll() is None, f"it ended: {out_path.read_text()} {out_path.with_suffix('.err').read_text()}"
    with contextlib.suppress(ValueError):
        return json.loads(out_path.read_text())
    return None
