"""A running workload.py on a disk that obeys orders."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORKLOAD = Path(__file__).with_name("workload.py")


@contextlib.contextmanager
def workloads(library: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """A function that runs one order (see workload.py) in a fresh process and gives back its answer."""
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    command = [sys.executable, str(WORKLOAD), "serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def order(**fields: Any) -> dict[str, Any]:
            stdin.write(json.dumps(fields) + "\n")
            stdin.flush()
            answer: dict[str, Any] = json.loads(stdout.readline())
            assert answer["status"] == 0, "the process died of something that is not our error; see its traceback above"
            return answer

        yield order
        stdin.close()
