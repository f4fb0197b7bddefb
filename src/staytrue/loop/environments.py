"""Environments: one that a release recorded, made again beside the one that runs here, so that jobs can run in it.

What was recorded is names and versions (`store/env.py`); what is made is asked for the same, and anything that differs is an
error: under the name of this environment models are kept for good. Each is made once, and is there as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import staytrue
from staytrue.engines.environments import (
    Installed,
    cant_rebuild,
    install,
    installed,
    interpreter_of,
    link,
    new,
    said_by,
)
from staytrue.engines.file_lock import try_lock
from staytrue.engines.process import Job
from staytrue.errors import Unavailable
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.release import Digest
from staytrue.loop.context import Context
from staytrue.loop.jobs import Steps, result_of
from staytrue.settings import settings_list
from staytrue.store.durable import disk
from staytrue.store.env import env_diff, environment
from staytrue.store.objects import digest
from staytrue.store.store import Store

__all__ = ["BUILD_S", "in_environment", "rebuild", "rebuilt"]

BUILD_S: Final = 600.0
"""How long making one may take, unless somebody says otherwise."""

_OURS: Final = frozenset({"staytrue", "pip", "setuptools", "wheel", "uv"})
"""The running staytrue works in every environment, and what installs has no part in a training."""
_BUILDS = re.compile(r"\+(?:cpu|cu\d+|rocm[\d.]+|xpu|mps)$")
"""What says for which hardware a version was built: the machine is in no environment."""
_PACKAGE: Final = Path(staytrue.__file__).parent
_TASKS: Final = "staytrue.loop.tasks"
_TELL: Final = "import json; from staytrue.store.env import environment; print(json.dumps(environment()))"
_LOOK_S: Final = 0.05


def in_environment(ctx: Context, env: Digest, *, timeout_s: float = BUILD_S) -> Steps[Context]:
    """The same context with a recorded environment for its own: what it trains and answers, and what it records, is of that.

    The environment is made in a job: it is ended with whoever waits for it, and two steps that want the same wait for one.

    Raises:
        Unavailable: ST960, it can't be rebuilt; the message says why.    NotFound: the store does not know this environment.
    """
    if env == ctx.env:
        return ctx
    job = Job(
        key=f"environment:{env}",
        task="staytrue.loop.environments:rebuild",
        payload={
            "document": ctx.store.objects.get_document(env),
            "folder": str(_folder(ctx.store)),
            "timeout_s": timeout_s,
            "wheels": list(settings_list("wheels")),
        },
        timeout_s=timeout_s + 60,  # by then it has said itself what took so long
        app=ctx.app.name,
    )
    outcome = (yield [job])[0]
    result = result_of(outcome, doing=f"rebuild environment {env[:8]}")
    return replace(ctx, env=env, interpreter=Path(result["interpreter"]))


def rebuild(payload: Mapping[str, Any], _outbox: Path) -> dict[str, Any]:
    """The task that `in_environment` asks for. Not into its outbox: others find it too, and it comes into place as a whole."""
    made = rebuilt(
        payload["document"], Path(payload["folder"]), timeout_s=payload["timeout_s"], wheels=payload["wheels"]
    )
    return {"interpreter": str(made)}


def rebuilt(
    document: Mapping[str, Any], folder: Path, *, timeout_s: float = BUILD_S, wheels: Sequence[str] | None = None
) -> Path:
    """The interpreter of an environment with the Python and the distributions of an env document, made unless it is there.

    staytrue in it is the one that runs here. pip, setuptools, wheel and uv are not compared, nor for which hardware a version was
    built. A distribution installed from a folder of somebody's own (an editable one) is taken as it is here, if its version is
    the recorded one, and left out otherwise: nobody else may be asked for it by name.

    Args:
        document: as `store.env.environment` gives it. One that equals what runs here gives the running interpreter.
        folder: keeps what was made; may be shared by any number of processes.
        timeout_s: for all of it, waiting for another process that makes the same included.
        wheels: folders or pages where to look for distributions too; None: as the setting `wheels` says. What pip or uv are told
            by their own settings they follow by themselves.

    Raises:
        Unavailable: ST960, it can't be rebuilt, with the reason as `why` (`engines.environments.Why`); or the disk is full.
        Corrupt: ST455, no env document.
    """
    # Limit: nothing deletes an environment that nobody asks for any more; those that are linked take some kilobytes.
    until_s = time.monotonic() + timeout_s
    wanted = _Wanted(document, installed())
    if not wanted.lacks(environment()):
        return Path(sys.executable)
    place = folder.absolute() / wanted.name
    if wanted.is_at(place, until_s):
        return interpreter_of(place)
    with disk(f"make an environment in {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / f"{place.name}.lock", until_s):
            if not wanted.is_at(place, until_s):
                for left in folder.glob(f".{place.name}-*"):  # by somebody who was killed: else he would have the lock
                    shutil.rmtree(left, ignore_errors=True)
                _make(place, wanted, settings_list("wheels") if wheels is None else wheels, until_s)
    return interpreter_of(place)


def _folder(store: Store) -> Path:
    return store.work.absolute() / "environments"


class _Wanted:
    """A recorded environment, seen from the one that runs here."""

    def __init__(self, document: Mapping[str, Any], here: Mapping[str, Installed]) -> None:
        env_diff(document, document)  # raises where it is no env document
        self.implementation, self.python = document["implementation"], document["python"]
        self.here = here
        self.versions = {name: _plain(version) for name, version in document["distributions"]}
        self.document = document
        unlike = {name for name, one in here.items() if one.own and _plain(one.version) != self.versions.get(name)}
        self._left_out = _OURS | unlike

    @property
    def name(self) -> str:
        """The environment, and for whom it is: one store may be used by several installations of staytrue."""
        whom = json.dumps([sys.executable, str(_PACKAGE)])
        return f"{digest(canonical_json(self.document))[:32]}-{hashlib.sha256(whom.encode()).hexdigest()[:8]}"

    def shared(self) -> set[str]:
        """What is the same here. What is compiled is of one Python, so that for another one it is what only we have."""
        same = {
            name
            for name, version in self.versions.items()
            if name in self.here and _plain(self.here[name].version) == version and self.here[name].files is not None
        }
        if self.python != platform.python_version() or self.implementation != platform.python_implementation().lower():
            return {name for name in same - self._left_out if self.here[name].own}
        # Older libraries import setuptools' pkg_resources: where there was one, there is one.
        tools = (
            {"setuptools"} & self.versions.keys() & {name for name, one in self.here.items() if one.files is not None}
        )
        return (same - self._left_out) | tools

    def to_install(self) -> dict[str, str]:
        """What has to be got from elsewhere: name -> version."""
        asked = self.versions.keys() - self.shared() - (self._left_out - {"setuptools"})
        return {name: self.versions[name] for name in asked if name not in self.here or not self.here[name].own}

    def lacks(self, got: Mapping[str, Any]) -> tuple[str, ...]:
        """What of it is otherwise in another environment, as sentences."""
        return env_diff(self._compared(self.document), self._compared(got)).sentences()

    def _compared(self, document: Mapping[str, Any]) -> dict[str, Any]:
        kept = [[name, _plain(version)] for name, version in document["distributions"] if name not in self._left_out]
        return {**document, "distributions": kept}

    def is_at(self, place: Path, until_s: float) -> bool:
        """Whether it is there and still holds what it should: it leads to what runs here, which people change."""
        if not interpreter_of(place).exists():
            return False
        try:
            return not self.lacks(_said(interpreter_of(place), _TELL, until_s))
        except Unavailable as exc:
            if exc.facts.get("why") == "timeout":
                raise
            return False


def _make(place: Path, wanted: _Wanted, wheels: Sequence[str], until_s: float) -> None:
    """Make it under another name, hold it against what was recorded, and only then give it its own name."""
    making, old = (place.with_name(f".{place.name}-{secrets.token_hex(4)}") for _ in range(2))
    try:
        interpreter = new(making, wanted.implementation, wanted.python, until_s)
        install(interpreter, wanted.to_install(), wheels, until_s)
        link(interpreter, wanted.here, wanted.shared(), _PACKAGE, until_s)
        lacks = wanted.lacks(_said(interpreter, f"import {_TASKS}; {_TELL}", until_s))
        if lacks:
            text = f"what was made is not what was recorded: {'; '.join(lacks)}"
            raise cant_rebuild("differs", text, differences=list(lacks))
        if hasattr(os, "sync"):
            os.sync()  # a power cut must not leave the name on files that are not there
        if place.exists():
            place.rename(old)
        making.rename(place)
    finally:
        for left in (making, old):
            shutil.rmtree(left, ignore_errors=True)


def _said(interpreter: Path, code: str, until_s: float) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(said_by(interpreter, code, until_s)[-1])
    return said


def _plain(version: str) -> str:
    return _BUILDS.sub("", str(version))


@contextlib.contextmanager
def _alone(lock: Path, until_s: float) -> Iterator[None]:
    """Within this block nobody else makes the same; whoever is killed in it lets go of it."""
    held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not try_lock(held):
            if time.monotonic() > until_s:
                raise cant_rebuild("timeout", "another process is still making it")
            time.sleep(_LOOK_S)
        yield
    finally:
        os.close(held)
