"""Command: a task that runs a command of the user's, such as a test suite, in a private copy of a folder.

It may hang, fork, print for ever or edit its own files: the job's group and limits end it, what it prints is kept up to a
bound, and the copy is thrown away. It runs as a job (`engines/process.py`), so it dies with the controller too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, Any, Final

from staytrue.errors import InvalidInput

__all__ = ["OUTPUT_BYTES", "run"]

OUTPUT_BYTES: Final = 4 << 20
"""Of what a command prints, so much is kept from the beginning, and as much from the end."""

_TAIL_BYTES = 16 << 10
_PIECE_BYTES = 1 << 16
_LAST_WORDS_S = 1.0


def run(payload: dict[str, Any], outbox: Path) -> dict[str, Any]:
    """Run `payload["argv"]` in a copy of the folder `payload["tree"]`, and keep what it prints as the file `log`.

    Args:
        payload: `argv`; `tree`, which is not changed; `timeout_s`; `environment`, name -> value, or null to take one away.
        outbox: gets `log`.

    Returns:
        `exit_code` (negative: by that signal; null: it took too long), `seconds`, `printed` (bytes), `tail`, `file`.

    Raises:
        InvalidInput: ST841, there is no such program.

    Example:
        >>> out = Path(tempfile.mkdtemp())
        >>> asked = {"argv": [sys.executable, "-c", "print('hi')"], "tree": str(out), "timeout_s": 60, "environment": {}}
        >>> done = run(asked, out)
        >>> done["exit_code"], done["tail"].strip()
        (0, 'hi')
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tree-", dir=outbox.parent, ignore_cleanup_errors=True) as folder:
        tree = shutil.copytree(payload["tree"], Path(folder) / "app", symlinks=True)
        process = _started(payload, tree)
        printed = _Printed(process, outbox / "log")
        try:
            exit_code: int | None = process.wait(max(0.0, payload["timeout_s"] - (time.perf_counter() - began)))
        except subprocess.TimeoutExpired:
            exit_code = None
            process.kill()
            process.wait()
        # What it left running holds the pipe: its group ends with this job, so nobody waits for it.
        printed.end()
    return {
        "exit_code": exit_code,
        "seconds": round(time.perf_counter() - began, 3),
        "printed": printed.size,
        "tail": printed.tail(),
        "file": "log",
    }


def _started(payload: dict[str, Any], tree: Path) -> subprocess.Popen[bytes]:
    argv: list[str] = payload["argv"]
    changed: dict[str, str | None] = {"PWD": str(tree), **payload["environment"]}
    environment = {**os.environ, **changed}
    # The programs of this interpreter's environment first: `pytest` is the one that sees the app's libraries.
    places = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH") or os.defpath])
    environment["PATH"] = places
    program = shutil.which(argv[0], path=places)
    if program is None:
        raise InvalidInput(
            "ST841",
            f"There is no program {argv[0]!r} to run the tests with. Install it into the environment that staytrue runs in, or "
            'say another command: `test = "..."` under [tool.staytrue] in pyproject.toml.',
            program=argv[0],
        )
    return subprocess.Popen(
        [program, *argv[1:]],
        cwd=tree,
        env={name: value for name, value in environment.items() if value is not None},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


class _Printed:
    """What a process prints, read as fast as it comes: the beginning goes to a file, the end stays in memory."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.size = 0
        self._pipe: IO[bytes] = process.stdout  # type: ignore[assignment]
        self._log = log
        self._head = 0
        self._rest: deque[bytes] = deque()
        self._rest_bytes = 0
        self._lock = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._log.open("wb", buffering=0) as log:
            while piece := os.read(self._pipe.fileno(), _PIECE_BYTES):
                with self._lock:
                    if self._ended:
                        return
                    self.size += len(piece)
                    kept = piece[: OUTPUT_BYTES - self._head]
                    self._head += len(kept)
                    self._keep(piece[len(kept) :])
                    if kept:
                        log.write(kept)

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._rest.append(piece)
            self._rest_bytes += len(piece)
        while self._rest and self._rest_bytes - len(self._rest[0]) >= OUTPUT_BYTES:
            self._rest_bytes -= len(self._rest.popleft())

    def end(self) -> None:
        """Write the end of it too; what comes after this is not kept."""
        self._thread.join(_LAST_WORDS_S)
        if not self._thread.is_alive():
            self._pipe.close()
        with self._lock:
            self._ended = True
            left_out = self.size - self._head - self._rest_bytes
            with self._log.open("ab") as log:
                if left_out:
                    log.write(f"\n... {left_out:,} bytes left out ...\n".encode())
                log.writelines(self._rest)

    def tail(self) -> str:
        """The last words."""
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - _TAIL_BYTES))
            return log.read().decode("utf-8", "replace")
