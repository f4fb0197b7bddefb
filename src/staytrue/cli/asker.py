"""Asker: callers of a server over HTTP, on connections that stay open. Each request is counted, and what is wrong with it.

The demo and the drills ask with it.
"""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Asker", "Quote"]

HOST = "127.0.0.1"
_PAUSE_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Quote:
    """The answer to one row."""

    id: str
    answer: Any
    release: str


@dataclass
class Asker:
    """Asks from so many connections at once; safe to be used by several threads.

    Attributes:
        timeout_s: so long is waited for an answer.
        patience_s: so long is asked again what failed; without patience each failure counts.
        took_s: how long each request took that was answered.
        failed: what was wrong with each one that was not answered as it should be.
        retried: what was wrong with those that were asked again.
        answered: rows by the release that answered them. ids: of all these predictions.
        labels: how many were accepted.
    """

    port: int
    connections: int = 4
    timeout_s: float = 30.0
    patience_s: float = 0.0
    took_s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    ids: list[str] = field(default_factory=list)
    labels: int = 0
    _local: threading.local = field(default_factory=threading.local)
    _open: list[http.client.HTTPConnection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._threads = ThreadPoolExecutor(self.connections)

    def quotes(self, rows: Sequence[Mapping[str, Any]]) -> list[Quote | None]:
        """The answer to each row, asked one by one; None where there is something wrong with it."""
        return list(self._threads.map(self.quote, rows))

    def releases(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Who answers these rows, asked in one request."""
        said = self._asked("/predict", {"rows": rows})
        if said is None:
            return []
        return list(said.get("releases") or [said["release"]] * len(rows))

    def label(self, labels: Mapping[Any, Any]) -> None:
        """Tell labels by the keys of their rows."""
        if labels:
            told = [{"key": key, "label": label} for key, label in labels.items()]
            said = self._asked("/labels", {"labels": told})
            if said is not None and said["accepted"] != len(told):
                self.failed.append(f"of {len(told)} labels {said['accepted']} were accepted")
            self.labels += len(told)

    def quote(self, row: Mapping[str, Any]) -> Quote | None:
        """The answer to one row; None where there is something wrong with it."""
        said = self._asked("/predict", {"rows": [row]})
        if said is None:
            return None
        (answer,), (row_id,), release = said["predictions"], said["ids"], said["release"]
        if isinstance(answer, float) and not math.isfinite(answer):
            self.failed.append(f"{release[:8]} answered {answer}")
            return None
        self.answered[release] += 1
        self.ids.append(row_id)
        return Quote(id=row_id, answer=answer, release=release)

    def _asked(self, path: str, body: Any) -> Any:
        """The document of an answer that is as it should be."""
        data, until_s = json.dumps(body).encode(), time.monotonic() + self.patience_s
        while True:
            answer, fault = self._once(path, data)
            if not fault:
                return json.loads(answer)
            if time.monotonic() >= until_s:
                self.failed.append(fault)
                return None
            self.retried.append(fault)
            time.sleep(_PAUSE_S)

    def _once(self, path: str, data: bytes) -> tuple[bytes, str]:
        """The bytes of an answer, and what is wrong with it."""
        began = time.perf_counter()
        try:
            connection = self._connection()
            connection.request("POST", path, data, {"content-type": "application/json"})
            got = connection.getresponse()
            answer = got.read()
        except (OSError, http.client.HTTPException) as exc:
            self._drop()
            return b"", f"{path}: {type(exc).__name__}: {exc}"
        self.took_s.append(time.perf_counter() - began)
        return answer, _fault(path, got, answer)

    def _connection(self) -> http.client.HTTPConnection:
        """This thread's own, kept open; the server closes one on which nothing was asked for a minute."""
        kept: tuple[http.client.HTTPConnection, float] | None = getattr(self._local, "kept", None)
        if kept is not None and time.monotonic() - kept[1] < 30:
            connection = kept[0]
        else:
            self._drop()
            connection = http.client.HTTPConnection(HOST, self.port, timeout=self.timeout_s)
            self._open.append(connection)
        self._local.kept = (connection, time.monotonic())
        return connection

    def _drop(self) -> None:
        """What comes next on this thread's connection is not the answer to what is asked next."""
        kept, self._local.kept = getattr(self._local, "kept", None), None
        if kept is not None:
            kept[0].close()
            self._open.remove(kept[0])

    def close(self) -> None:
        """Ask nothing more."""
        self._threads.shutdown()
        for connection in self._open:
            connection.close()


def _fault(path: str, got: http.client.HTTPResponse, data: bytes) -> str:
    if got.status != 200:
        return f"{path}: {got.status} {data[:300].decode(errors='replace')}"
    if path == "/predict" and not got.getheader("staytrue-release"):
        return f"{path}: the answer names no release"
    if got.getheader("staytrue-logged"):
        return f"{path}: answered, and not logged"
    return ""
