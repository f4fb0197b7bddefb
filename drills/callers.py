"""Callers of a drill: those of the demo (`staytrue/cli/asker.py`), and a steady load beside them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Self

from staytrue.cli.asker import Asker, Quote

__all__ = ["Asker", "Background", "Quote"]


class Background:
    """Steady load beside everything else, so that releases change under it: rows without a key, so many a second."""

    def __init__(self, asker: Asker, row: Mapping[str, Any], *, per_s: float) -> None:
        self._asker, self._row, self._pause_s = asker, row, 1 / per_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="background")

    def _run(self) -> None:
        while not self._ending.wait(self._pause_s):
            self._asker.quote(self._row)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
