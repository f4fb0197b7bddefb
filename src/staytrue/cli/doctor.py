"""`staytrue doctor`: what is wrong with this installation."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from staytrue.cli.screen import Screen
from staytrue.engines.process import Job, ProcessPool
from staytrue.errors import StaytrueError
from staytrue.settings import SETTINGS, setting
from staytrue.store.store import open_store

__all__ = ["arguments", "run"]

State = Literal["ok", "warn", "wrong"]
_STYLES = {"ok": "green", "warn": "yellow", "wrong": "red"}
_LIBRARIES = ("numpy", "pandas", "arro3-core", "arro3-io", "nanoarrow", "blake3", "msgspec", "sqlalchemy", "rich")
_LEAST_FREE = 1 << 30


def arguments(_parser: argparse.ArgumentParser) -> None:
    """No flags of its own."""


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Exit code 1 when something is wrong."""
    root = Path(setting("store", args.store)).absolute()
    found = [*_python(), *_libraries(), *_disk(root), *_store(root), *_jobs(root)]
    settings = {
        name: {"value": _shown(name), "variable": s.variable, "default": s.default} for name, s in SETTINGS.items()
    }
    screen.document(
        {
            "ok": all(state != "wrong" for state, _, _ in found),
            "checks": [{"state": state, "what": what, "sentence": sentence} for state, what, sentence in found],
            "settings": settings,
        }
    )
    for state, what, sentence in found:
        screen.say(f"{state:<6} {what:<12} {sentence}", style=_STYLES[state])
    return 1 if any(state == "wrong" for state, _, _ in found) else 0


def _shown(name: str) -> str:
    value = setting(name)
    return "***" if value and SETTINGS[name].secret else value


def _python() -> Iterator[tuple[State, str, str]]:
    good = sys.version_info >= (3, 11)
    yield (
        "ok" if good else "wrong",
        "python",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    )


def _libraries() -> Iterator[tuple[State, str, str]]:
    for name in _LIBRARIES:
        try:
            yield "ok", "library", f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield "wrong", "library", f"{name} is missing: pip install staytrue"
    if importlib.util.find_spec("sklearn") is None:
        yield "warn", "library", "scikit-learn is not installed; `staytrue demo` needs it: pip install 'staytrue[demo]'"


def _disk(root: Path) -> Iterator[tuple[State, str, str]]:
    there = next(p for p in (root, *root.parents) if p.exists())
    free = shutil.disk_usage(there).free
    writable = os.access(there, os.W_OK)
    yield "ok" if writable else "wrong", "disk", f"{there} is {'writable' if writable else 'not writable'}"
    yield "ok" if free > _LEAST_FREE else "warn", "disk", f"{free / 1e9:,.1f} GB free"
    yield "ok", "sqlite", sqlite3.sqlite_version


def _store(root: Path) -> Iterator[tuple[State, str, str]]:
    if not (root / "ledger.db").exists():
        yield "ok", "store", f"none at {root} yet"
        return
    try:
        store = open_store(root)
        problems = store.ledger.verify()
        for problem in problems:
            yield "wrong", "store", problem
        if not problems:
            yield "ok", "store", f"{root}: {', '.join(store.apps()) or 'no app yet'}; the chain holds"
        mode = (root / "key").stat().st_mode & 0o777 if (root / "key").exists() else 0o600
        if os.name == "posix" and mode & 0o077:
            yield "warn", "store", f"its key can be read by others (mode {mode:o}): chmod 600 {root / 'key'}"
    except StaytrueError as exc:
        yield "wrong", "store", str(exc)


def _jobs(root: Path) -> Iterator[tuple[State, str, str]]:
    if not root.exists():
        return
    try:
        with ProcessPool(root / "work" / "jobs", slots=1) as pool:
            outcome = pool.run(Job(key="doctor", task="staytrue.engines.launcher:echo", payload={}, timeout_s=60))
        good = outcome.status == "done"
        yield (
            "ok" if good else "wrong",
            "jobs",
            f"a job ran by {outcome.mode}" if good else f"a job ended as {outcome.status}: {outcome.log[-200:]}",
        )
    except StaytrueError as exc:
        yield "wrong", "jobs", str(exc)
