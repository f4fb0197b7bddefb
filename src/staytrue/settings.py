"""Every setting of the program itself, its default and its environment variable.

What an app decides stands in `app.policy(...)`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from staytrue.errors import InvalidInput

__all__ = ["SETTINGS", "Setting", "setting"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting: a flag of the command line wins over the environment, the environment over the default."""

    variable: str
    default: str
    what: str


SETTINGS: Mapping[str, Setting] = {
    "app": Setting(variable="STAYTRUE_APP", default="app.py", what="the file, and with :NAME the App in it"),
    "store": Setting(variable="STAYTRUE_STORE", default=".staytrue", what="the folder that keeps everything"),
    "slots": Setting(variable="STAYTRUE_SLOTS", default="0", what="jobs at once; 0 = one for each core"),
    "fork": Setting(
        variable="STAYTRUE_FORK", default="", what="1: jobs are forked, 0: each starts anew; empty: what is safe"
    ),
    "grace": Setting(variable="STAYTRUE_GRACE", default="24h", what="how long gc leaves an unreferenced object alone"),
}


def setting(name: str, flag: str | None = None) -> str:
    """The value in force for `name`.

    Example:
        >>> setting("store", flag="elsewhere")
        'elsewhere'
    """
    known = SETTINGS.get(name)
    if known is None:
        raise InvalidInput(
            "ST101", f"No setting is called {name!r}; there are {', '.join(sorted(SETTINGS))}.", name=name
        )
    return flag if flag is not None else os.environ.get(known.variable) or known.default
