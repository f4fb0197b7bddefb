"""Environments: how a virtual environment with given distributions comes to be, in a new folder of its own.

What is the same in the environment that runs here is linked from there, which takes milliseconds and asks nobody; only the
rest is installed, by uv or by pip. Neither is needed by staytrue itself (docs/decisions/0008-environments.md).

**Invariant:** nothing is written into the environment that runs here. So what is installed is installed before anything is
linked: an installer that met a linked folder would write through it.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from staytrue.engines.guard import end_families
from staytrue.engines.job import environment
from staytrue.errors import Unavailable

__all__ = ["Installed", "Why", "cant_rebuild", "install", "installed", "interpreter_of", "link", "new", "said_by"]

Why = Literal["python", "distribution", "network", "tool", "timeout", "install", "differs", "broken"]
"""Why an environment can't be rebuilt: no such Python here; no such distribution any more; the place where distributions come
from does not answer; nothing to install them with; it took too long; an installer failed otherwise; what came out is
something else; staytrue does not run in it."""

_TAIL_CHARS = 2000
_NO_NETWORK = re.compile(
    r"error sending request|dns error|NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|ProxyError"
    r"|SSLError|Failed to (?:fetch|download)|Connection (?:refused|reset)"
)
_NO_DISTRIBUTION = re.compile(
    r"no version of|not found in|No matching distribution|no (?:usable )?wheels|no source distribution"
)
_PIP_HAS_OPTION_PYTHON = (22, 3)


def cant_rebuild(why: Why, text: str, *, said: str = "", **facts: object) -> Unavailable:
    """The one error of an environment that can't be rebuilt; `why`, and the end of what a program `said`, are among its facts.

    Example:
        >>> cant_rebuild("python", "there is no Python 3.9.2 here").message
        "Can't rebuild the environment: there is no Python 3.9.2 here."
    """
    tail = {"said": said[-_TAIL_CHARS:]} if said else {}
    return Unavailable("ST960", f"Can't rebuild the environment: {text.rstrip('.')}.", why=why, **tail, **facts)


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A distribution of the environment that runs here.

    Attributes:
        root: what its files are relative to.
        files: of them, those under `root`; None where it keeps no record of them.
        own: made from a folder or a repository of somebody's own: another one by its name may be anybody's.
    """

    version: str
    root: Path
    files: tuple[str, ...] | None
    own: bool


def installed() -> dict[str, Installed]:
    """Name (as PEP 503 spells it) -> the distribution that imports find here, whose metadata is whole.

    Example:
        >>> "numpy" in installed()
        True
    """
    found: dict[str, Installed] = {}
    for one in metadata.distributions():
        try:
            name, version = one.metadata["Name"], one.metadata["Version"]
            record, origin = one.read_text("RECORD"), one.read_text("direct_url.json")
            known = Installed(
                version=version,
                root=Path(str(one.locate_file(""))),
                files=None if record is None else _under_root(record),
                own=origin is not None and not {"dir_info", "vcs_info"}.isdisjoint(json.loads(origin)),
            )
        except Exception:  # noqa: BLE001, S112 - damaged metadata raises whatever its parser stumbles over; nobody can count on it
            continue
        if name and version:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), known)
    return found


def new(place: Path, implementation: str, python: str, until_s: float) -> Path:
    """The interpreter of a new and empty virtual environment in a folder that is not there yet.

    Args:
        implementation, python: such as "cpython" and "3.11.7".
        until_s: when to give up, by the monotonic clock.

    Raises:
        Unavailable: ST960, there is no such Python here, and none to be had.
    """
    if (implementation, python) == (platform.python_implementation().lower(), platform.python_version()):
        venv.EnvBuilder(symlinks=os.name != "nt", with_pip=False).create(place)
        return interpreter_of(place)
    base = _other_python(implementation, python, until_s)
    if base is not None:
        _run([base, "-m", "venv", "--without-pip", str(place)], until_s, "making a virtual environment")
        return interpreter_of(place)
    uv, here = (
        _uv(),
        f"there is no {implementation} {python} on this machine ({platform.python_version()} runs staytrue)",
    )
    if uv is None:
        raise cant_rebuild("python", f"{here}, and no uv that would fetch it: `pip install uv`", python=python)
    argv = [uv, "venv", "--no-project", "--python", f"{implementation}@{python}", str(place)]
    done = _ended(argv, until_s, "looking for a Python")
    if done.code:
        raise cant_rebuild("python", f"{here}, and uv gets none: {_cause(done.text)}", python=python, said=done.text)
    return interpreter_of(place)


def interpreter_of(place: Path) -> Path:
    """The interpreter of the virtual environment in a folder.

    Example:
        >>> interpreter_of(Path("/envs/old")).parent.parent.name
        'old'
    """
    return place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(interpreter: Path, wanted: Mapping[str, str], places: Sequence[str], until_s: float) -> None:
    """Install exactly these distributions into a virtual environment, without what they would bring along.

    By uv; but by pip where pip alone has been told where distributions are to be found: strangers must not be asked for what
    is private.

    Args:
        wanted: name -> version.
        places: folders or pages where to look too.
        until_s: when to give up, by the monotonic clock.

    Raises:
        Unavailable: ST960; `missing` names what is not to be found.
    """
    if not wanted:
        return
    pins = [f"{name}=={version}" for name, version in sorted(wanted.items())]
    more = [word for place in places for word in ("-f", place)]
    uv = _uv()
    if uv and _is_pip_told(until_s):
        uv = None
    installer = [uv, "pip", "install", "--python", str(interpreter)] if uv else _pip(interpreter, until_s)
    doing = f"installing {len(pins)} distribution{'s' * (len(pins) > 1)}"
    done = _ended([*installer, "--no-deps", *more, *pins], until_s, doing)
    if not done.code:
        return
    tool = "uv" if uv else "pip"
    if _NO_NETWORK.search(done.text):
        text = f"{tool} could not reach where distributions come from: {_cause(done.text)}"
        raise cant_rebuild("network", text, said=done.text)
    if _NO_DISTRIBUTION.search(done.text):
        missing = _missing(done.text, wanted) or [f"{name} {version}" for name, version in wanted.items()]
        here = f"Python {_version(interpreter, until_s)} on {platform.system()} {platform.machine()}"
        text = f"{tool} finds no {' and no '.join(missing)} for {here}"
        raise cant_rebuild("distribution", text, missing=missing, said=done.text)
    raise cant_rebuild("install", f"{tool} failed while {doing}: {_cause(done.text)}", said=done.text)


def link(
    interpreter: Path, here: Mapping[str, Installed], names: Collection[str], package: Path, until_s: float
) -> None:
    """Let an environment find these distributions of the one that runs here, and the package in the folder `package`.

    Folders that belong to them alone are linked as one, and of shared ones (namespaces) their part. What stands there already
    stays. Scripts and other files outside the packages are left out.

    Args:
        here: as `installed` gives it.
        names: those whose files are known.
    """
    site = Path(said_by(interpreter, "import sysconfig; print(sysconfig.get_path('purelib'))", until_s)[-1])
    for root in {here[name].root for name in names}:
        at_home = {name: one.files or () for name, one in here.items() if one.root == root}
        theirs = [file for name in names for file in at_home.get(name, ())]
        for top in _tops(theirs, (file for name, files in at_home.items() if name not in names for file in files)):
            _link(root / top, site / top)
    _link(package, site / package.name)


def said_by(interpreter: Path, code: str, until_s: float) -> list[str]:
    """The lines that a program printed, run by an interpreter as a job's would be.

    Raises:
        Unavailable: ST960, it failed.
    """
    done = _ended([str(interpreter), "-P", "-c", code], until_s, "asking it what it holds", interpreter=interpreter)
    if done.code:
        text = f"staytrue does not run in it: {(done.text.strip().splitlines() or ['it ended without a word'])[-1]}"
        raise cant_rebuild("broken", text, said=done.text)
    return done.text.splitlines()


# ---------------------------------------------------------------- what to run


def _uv() -> str | None:
    return shutil.which("uv") or shutil.which("uv", path=sysconfig.get_path("scripts"))


def _pip(interpreter: Path, until_s: float) -> list[str]:
    """The pip that runs here, working for another interpreter; else one in that environment itself."""
    if _has_pip():
        return [sys.executable, "-P", "-m", "pip", "--python", str(interpreter), "install"]
    done = _ended([str(interpreter), "-m", "ensurepip"], until_s, "looking for pip")
    if done.code:
        raise cant_rebuild("tool", "there is neither uv nor pip to install with: `pip install uv`", said=done.text)
    return [str(interpreter), "-m", "pip", "install"]


def _has_pip() -> bool:
    if importlib.util.find_spec("pip") is None:
        return False
    numbers = re.findall(r"\d+", metadata.version("pip"))
    return tuple(map(int, numbers[:2])) >= _PIP_HAS_OPTION_PYTHON


def _is_pip_told(until_s: float) -> bool:
    """Whether pip is configured with an index or links of somebody's own, which uv does not read."""
    if not _has_pip():
        return False
    done = _ended([sys.executable, "-P", "-m", "pip", "config", "list"], until_s, "asking pip for its settings")
    settings = [line.partition("=") for line in done.text.splitlines()]
    return not done.code and any(
        re.search(r"\b(?:index|links)\b", key) for key, _, value in settings if value.strip("'")
    )


def _other_python(implementation: str, python: str, until_s: float) -> str | None:
    """An interpreter of exactly this version, where people have them: on PATH, and in pyenv."""
    short = ".".join(python.split(".")[:2])
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions" / python / "bin" / "python"
    code = "import platform as p; print(p.python_implementation().lower(), p.python_version())"
    for found in (shutil.which(f"python{short}"), shutil.which("python3"), shutil.which(str(pyenv))):
        if found is not None:
            done = _ended([found, "-I", "-c", code], until_s, "looking for a Python")
            if not done.code and done.text.split()[-2:] == [implementation, python]:
                return found
    return None


def _version(interpreter: Path, until_s: float) -> str:
    return said_by(interpreter, "import platform; print(platform.python_version())", until_s)[-1]


@dataclass(frozen=True, kw_only=True)
class _Ended:
    code: int
    text: str


def _run(argv: Sequence[str], until_s: float, doing: str) -> None:
    done = _ended(argv, until_s, doing)
    if done.code:
        raise cant_rebuild("install", f"{doing} failed: {_cause(done.text)}", said=done.text)


def _ended(argv: Sequence[str], until_s: float, doing: str, *, interpreter: Path | None = None) -> _Ended:
    """How it ended and the end of what it printed. It is in our group, so it ends with the job that this runs in."""
    began_s = time.monotonic()
    with tempfile.TemporaryFile() as printed:
        surroundings = _for_tools() if interpreter is None else environment(1, str(interpreter))
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT, env=surroundings
            )
        except OSError as exc:
            raise cant_rebuild("tool", f"{argv[0]} can't be started: {exc}") from exc
        try:
            code = process.wait(max(0.0, until_s - began_s))
        except subprocess.TimeoutExpired:
            text = f"{doing} took longer than the {max(0.0, until_s - began_s):.0f} s that were left"
            raise cant_rebuild("timeout", text, said=_tail(printed.fileno())) from None
        finally:
            if process.poll() is None:
                end_families([process.pid])
                process.kill()
                process.wait()
        return _Ended(code=code, text=_tail(printed.fileno()))


def _for_tools() -> dict[str, str]:
    """What installers find in their environment: the user's settings, but none that leads elsewhere."""
    elsewhere = {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIREMENT", "VIRTUAL_ENV"}
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    # Today's constraints are made for today's environment: what they cap is what may have been installed once.
    constraints = dict.fromkeys(("PIP_CONSTRAINT", "UV_CONSTRAINT", "UV_OVERRIDE"), os.devnull)
    return kept | constraints | {"PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_NO_COMPILE": "1", "NO_COLOR": "1"}


def _tail(printed: int) -> str:
    size = os.fstat(printed).st_size
    os.lseek(printed, max(0, size - (1 << 20)), os.SEEK_SET)
    text = b""
    while piece := os.read(printed, 1 << 20):
        text += piece
    return text.decode("utf-8", "replace")


def _cause(text: str) -> str:
    """The line that says most: what a chain of causes begins with, else the last one."""
    lines = [words for line in text.splitlines() if (words := re.sub(r"^\W+", "", line).strip())]
    errors = [line for line in lines if line.lower().startswith("error:")]
    said = (errors[-1] if errors else lines[-1] if lines else "it ended without a word").removeprefix("error: ")
    causes = [line for line in lines if line.startswith("cause:")]
    return (
        f"{said.removeprefix('ERROR: ')} {causes[-1].removeprefix('cause: ')}".strip()[:300] if causes else said[:300]
    )


def _missing(text: str, wanted: Mapping[str, str]) -> list[str]:
    lines = [re.sub(r"[-_.]+", "-", line).lower() for line in text.splitlines() if _NO_DISTRIBUTION.search(line)]
    return [f"{name} {version}" for name, version in wanted.items() if any(_names(line, name) for line in lines)]


def _names(line: str, name: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", line) is not None


# ---------------------------------------------------------------- what to link


def _under_root(record: str) -> tuple[str, ...]:
    """The files of a RECORD that lie in the root or below it. Not what is compiled: links to that would be written through."""
    names = (row[0] for row in csv.reader(record.splitlines()) if row)
    return tuple(name for name in names if not name.startswith(("../", "/")) and "__pycache__" not in name)


def _tops(theirs: Iterable[str], others: Iterable[str]) -> set[str]:
    """The highest folders and files that hold nothing of others, and with that all that is theirs.

    Example:
        >>> sorted(_tops(["a/x.py", "a/b/y.py", "n/one/z.py"], ["n/two/z.py", "c.py"]))
        ['a', 'n/one']
    """
    mixed = {"/".join(parts[:depth]) for parts in map(_parts, others) for depth in range(1, len(parts))}
    tops = set()
    for parts in map(_parts, theirs):
        depths = range(1, len(parts) + 1)
        tops.add(next(top for depth in depths if (top := "/".join(parts[:depth])) not in mixed or depth == len(parts)))
    return tops


def _parts(file: str) -> list[str]:
    return file.split("/")


def _link(source: Path, target: Path) -> None:
    """Make `target` lead to `source`; into a folder that is there already, each thing that is not."""
    if source.name == "__pycache__" or not source.exists():
        return
    if target.is_dir() and not target.is_symlink() and source.is_dir():
        for child in source.iterdir():
            _link(child, target / child.name)
        return
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source.absolute(), target_is_directory=source.is_dir())
    except OSError:  # not everybody may make links on Windows
        with contextlib.suppress(FileExistsError):
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)
