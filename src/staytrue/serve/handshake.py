"""Handshake: how a release's worker is started, what it says when it is ready, and how it is given the socket of a lane.

Whoever owns workers does it so: the server, whose sockets do not block, and batch scoring, whose do.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from staytrue.engines.launcher import write_frame
from staytrue.errors import StaytrueError, Unavailable, from_document
from staytrue.kernel.release import Digest
from staytrue.kernel.signature import Signature
from staytrue.serve.spawn import Started

if TYPE_CHECKING:
    from staytrue.store.store import Store

__all__ = ["START_S", "Begun", "Errand", "Facts", "hand_over", "read_facts", "send_errand"]

START_S: Final = 120.0
"""How long a worker may take until it says whether it is ready."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a worker tells of its release when it is ready."""

    app: str
    signature: Signature
    label: Mapping[str, Any]
    example: Mapping[str, Any]
    is_async: bool
    in_pieces: bool
    log: float
    durable: bool
    forks: bool


class Begun(NamedTuple):
    """A worker that was started ahead of whoever will own it: its release, its process and our end of its socket."""

    release: Digest
    started: Started


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What a worker is told to load. What only the ledger knows is looked up before, so that a worker needs no database.

    Attributes:
        root: the store's folder.
        seal: of the release's model; empty for a plain service.
        tables: source -> manifest of the table that the model was trained on, whatever table a revert put beside it.
    """

    root: Path
    release: Digest
    seal: str
    tables: Mapping[str, Digest]

    @classmethod
    def of(cls, store: Store, release: Digest) -> Errand:
        """The errand to load this release.

        Raises:
            NotFound, Corrupt: what the store says of a release that it does not hold whole.
        """
        document = store.release_document(release)
        if document.is_service:
            return cls(root=store.root, release=release, seal="", tables={})
        model, recipe = document.trained()
        tables = store.recipe(recipe).tables
        return cls(
            root=store.root,
            release=release,
            seal=store.seal_of(model),
            tables={source: store.table_manifest(table) for source, table in tables.items()},
        )

    def document(self) -> dict[str, Any]:
        """As it is sent; `from_document` reads it."""
        return {**vars(self), "root": str(self.root), "tables": dict(self.tables)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Errand:
        """The errand that was written as `document`."""
        return cls(**{**document, "root": Path(document["root"])})


def send_errand(control: socket.socket, errand: Errand) -> None:
    """Tell a worker what to load; of one that just died its socket tells."""
    with contextlib.suppress(OSError):
        write_frame(control.fileno(), errand.document())


def read_facts(said: Mapping[str, Any] | None, release: Digest, process: subprocess.Popen[bytes]) -> Facts:
    """What the first message of a worker tells; None: none came.

    Raises:
        StaytrueError: what the worker says is wrong with its release. Unavailable: ST761, it said nothing.
    """
    if said is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)  # its socket ends a moment before it does
        raise Unavailable(
            "ST761",
            f"The worker of release {release[:8]} ended before it was ready (exit code {process.poll()}). "
            "Its log above tells more.",
            release=release,
        )
    if said["is"] != "ready":
        raise _error(said["error"])
    return Facts(
        signature=Signature.from_document(said["signature"]),
        **{
            name: said[name] for name in ("app", "label", "example", "is_async", "in_pieces", "log", "durable", "forks")
        },
    )


def hand_over(control: socket.socket, lane: socket.socket) -> None:
    """Give a worker the socket of a new lane; one that just died does not take it, and the lane's other end tells."""
    data = json.dumps({"is": "lane"}).encode()
    with contextlib.suppress(OSError):
        socket.send_fds(control, [len(data).to_bytes(4, "big") + data], [lane.fileno()])


def _error(document: Mapping[str, Any]) -> StaytrueError:
    return from_document(dict(document)) or Unavailable("ST761", f"The worker failed: {document.get('message')}")
