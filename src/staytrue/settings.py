"""Every setting of the program itself, its default and its environment variable.

What an app decides stands in `app.policy(...)`.
"""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staytrue.errors import InvalidInput

__all__ = ["SETTINGS", "Setting", "setting", "settings_list"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting: a flag wins over the environment, that over `[tool.staytrue]` in pyproject.toml, that over the default."""

    variable: str
    default: str
    what: str
    form: str = r"(?s).+"
    """What a value looks like, as a regular expression."""
    many: bool = False
    """Several texts: a list in pyproject.toml; in a variable and in a flag one text, quoted as for a shell."""
    secret: bool = False
    """It may hold a password: not to be shown."""


SETTINGS: Mapping[str, Setting] = {
    "app": Setting(variable="STAYTRUE_APP", default="app.py", what="the file, and with :NAME the App in it"),
    "store": Setting(variable="STAYTRUE_STORE", default=".staytrue", what="the folder that keeps everything"),
    "slots": Setting(
        variable="STAYTRUE_SLOTS", default="0", what="jobs at once; 0 = one for each core", form=r"\d{1,4}"
    ),
    "fork": Setting(
        variable="STAYTRUE_FORK", default="", what="1: jobs are forked, 0: each starts anew; empty: what is safe"
    ),
    "test": Setting(
        variable="STAYTRUE_TEST",
        default="pytest",
        what="the command that tests the app, such as 'pytest -q'; none: no tests",
    ),
    "wheels": Setting(
        variable="STAYTRUE_WHEELS",
        default="",
        what='where distributions of an old environment are looked for too: folders or pages, such as ["/srv/wheels"]',
        many=True,
    ),
    "grace": Setting(variable="STAYTRUE_GRACE", default="24h", what="how long gc leaves an unreferenced object alone"),
    "reserve": Setting(
        variable="STAYTRUE_RESERVE",
        default="64",
        what="MiB of disk kept aside for ledger and gc; 0 = none",
        form=r"\d{1,6}",
    ),
    "notify": Setting(
        variable="STAYTRUE_NOTIFY",
        default="",
        what='where incidents are told, as URLs of apprise, such as ["slack://..."]',
        many=True,
        secret=True,
    ),
    "notify_command": Setting(
        variable="STAYTRUE_NOTIFY_COMMAND",
        default="",
        what='the command that gets each incident as JSON on stdin, such as ["python", "tell.py"]',
        many=True,
        secret=True,
    ),
}


def setting(name: str, flag: str | None = None, *, folder: Path | None = None) -> str:
    """The value in force for `name`.

    Args:
        flag: what the command line says, if it says anything.
        folder: where pyproject.toml may lie; the current one when left out.

    Raises:
        InvalidInput: ST101, no such setting; ST139, pyproject.toml can't be read, or a value has not its setting's form.

    Example:
        >>> setting("store", flag="elsewhere")
        'elsewhere'
    """
    known = SETTINGS.get(name)
    if known is None:
        raise InvalidInput(
            "ST101", f"No setting is called {name!r}; there are {', '.join(sorted(SETTINGS))}.", name=name
        )
    given: Any = flag if flag is not None else os.environ.get(known.variable) or _in_project(name, folder or Path())
    if given is None:
        return known.default
    if known.many:
        given = _joined(given)
    shown = "what it is" if known.secret else repr(given)
    if not isinstance(given, str | int) or isinstance(given, bool) or not re.fullmatch(known.form, str(given)):
        raise InvalidInput("ST139", f"The setting {name} can't be {shown}: it is {known.what}.", name=name, got=shown)
    return str(given)


def settings_list(name: str, *, folder: Path | None = None) -> tuple[str, ...]:
    """The texts in force for a setting of several. Raises as `setting`.

    Example:
        >>> settings_list("notify_command")
        ()
    """
    text = setting(name, folder=folder)
    try:
        return tuple(shlex.split(text))
    except ValueError as exc:  # a quotation that does not end; its text may be secret
        raise InvalidInput(
            "ST139", f"The setting {name} can't be read: {exc}. It is {SETTINGS[name].what}.", name=name
        ) from exc


def _joined(given: Any) -> Any:
    """A list of texts as one text; anything else as it is."""
    listed = isinstance(given, list) and given and all(isinstance(one, str) for one in given)
    return shlex.join(given) if listed else given


def _in_project(name: str, folder: Path) -> Any:
    """What `[tool.staytrue]` says, or None."""
    file = folder / "pyproject.toml"
    try:
        table = tomllib.loads(file.read_text("utf-8")).get("tool", {}).get("staytrue", {})
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise InvalidInput("ST139", f"Can't read {file}: {exc}.", path=str(file)) from exc
    return table.get(name) if isinstance(table, dict) else None
