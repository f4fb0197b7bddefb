"""staytrue keeps a machine-learning app true after it ships.

Every public name is loaded on its first use, so that `import staytrue` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from staytrue.app import App
    from staytrue.errors import (
        Conflict,
        Corrupt,
        InvalidInput,
        NotFound,
        Refused,
        StaytrueError,
        Unavailable,
    )
    from staytrue.kernel.policy import Decision, Known
    from staytrue.store.store import Store
    from staytrue.store.store import open_store as open  # noqa: A004 - `staytrue.open()` is what a user expects

__version__ = "0.1.0"

_HOME = {
    "App": ("staytrue.app", "App"),
    "Decision": ("staytrue.kernel.policy", "Decision"),
    "Known": ("staytrue.kernel.policy", "Known"),
    "Store": ("staytrue.store.store", "Store"),
    "open": ("staytrue.store.store", "open_store"),
    **{
        name: ("staytrue.errors", name)
        for name in ("Conflict", "Corrupt", "InvalidInput", "NotFound", "Refused", "StaytrueError", "Unavailable")
    },
}

__all__ = [
    "App",
    "Conflict",
    "Corrupt",
    "Decision",
    "InvalidInput",
    "Known",
    "NotFound",
    "Refused",
    "StaytrueError",
    "Store",
    "Unavailable",
    "__version__",
    "open",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'staytrue' has no attribute {name!r}")
    value = getattr(importlib.import_module(home[0]), home[1])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
