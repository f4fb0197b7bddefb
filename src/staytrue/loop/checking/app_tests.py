"""App tests: the app's own tests, run on its new code in a private copy, before anything else believes in it."""

from __future__ import annotations

import re
import shlex
from typing import Any

from staytrue.engines.process import Job
from staytrue.errors import InvalidInput
from staytrue.kernel.duration import duration
from staytrue.loop.checking.step import Step, StepFailedError, skipped
from staytrue.loop.context import Context
from staytrue.loop.jobs import Steps, result_of
from staytrue.settings import setting
from staytrue.store import code as code_store
from staytrue.store.ledger import Ref

__all__ = ["command_of", "tested"]

_NO_TESTS = 5
"""pytest's exit code where it found no test."""
_OFF = "none"
_TAIL = 4_000
_MARGIN_S = 60.0
"""The command's own deadline comes first, so that what it printed is kept."""
_NOT_THEIRS = ("STAYTRUE_STORE", "STAYTRUE_APP")
"""What points at this store: the tests of an app have stores of their own."""
_IS_TEST = re.compile(r"(?:.*/)?(?:test_[^/]*|[^/]*_test)\.py")


def command_of(ctx: Context) -> str:
    """The command that tests the app: `test` under `[tool.staytrue]` in the pyproject.toml of its own code."""
    return setting("test", folder=ctx.tree)


def tested(ctx: Context, command: str) -> Steps[tuple[Step, tuple[Ref, ...]]]:
    """What came of the app's tests, and the reference that keeps all that they printed.

    Raises:
        StepFailedError: they failed, took too long, or can't be started.
        InvalidInput: ST841, the command can't be read, or there is no such program.
    """
    if command == _OFF:
        return skipped("tests", 'Switched off: `test = "none"` under [tool.staytrue] in pyproject.toml.'), ()
    argv = _words(command)
    files = [file.path for file in code_store.load(ctx.store.objects, ctx.code).files]
    if argv[0] == "pytest" and not any(map(_IS_TEST.fullmatch, files)):
        return skipped("tests", "There are none: no file is called test_*.py."), ()
    outcome = (yield [_job(ctx, command, argv)])[0]
    result = result_of(outcome, doing=f"run `{command}`")
    numbers: dict[str, Any] = {"command": command, "exit_code": result["exit_code"], "printed": result["printed"]}
    refs: tuple[Ref, ...] = ()
    if outcome.outbox is not None:
        log = ctx.store.objects.put_file(outcome.outbox / result["file"])
        numbers["log"], refs = log, (Ref(kind="log", name=log, digest=log),)
    exit_code = result["exit_code"]
    if argv[0] == "pytest" and exit_code == _NO_TESTS:
        return skipped("tests", f"`{command}` found none.", numbers), refs
    if exit_code != 0:
        which = next((f" ({line[:200]})" for line in result["tail"].splitlines() if line.startswith("FAILED ")), "")
        text = f"`{command}` {_how(ctx, exit_code)}{_last_line(result['tail'])}{which}."
        raise StepFailedError(text, {**numbers, "tail": result["tail"][-_TAIL:]})
    said = _last_line(result["tail"])
    return Step(name="tests", status="passed", sentence=f"`{command}` passed{said}.", numbers=numbers), refs


def _last_line(text: str) -> str:
    """What a test runner sums up with."""
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    return f": {last.strip(' =')[:200]}" if last else ""


def _words(command: str) -> list[str]:
    try:
        argv = shlex.split(command)
    except ValueError as exc:
        raise InvalidInput(
            "ST841", f"The command `{command}` for the tests can't be read: {exc}.", command=command
        ) from exc
    if not argv:
        raise InvalidInput("ST841", "The command for the tests is empty.", command=command)
    return argv


def _job(ctx: Context, command: str, argv: list[str]) -> Job:
    settings = ctx.app.settings
    limit_s = duration(settings.timeout).total_seconds()
    return Job(
        key=f"tests:{ctx.code}:{command}",
        task="staytrue.engines.command:run",
        payload={
            "argv": argv,
            "tree": str(ctx.tree),
            "timeout_s": limit_s,
            "environment": {**dict.fromkeys(_NOT_THEIRS), "STAYTRUE_CHECK": "1"},
        },
        timeout_s=limit_s + _MARGIN_S,
        memory_bytes=settings.memory_mb * 2**20 if settings.memory_mb else None,
        app=ctx.app.name,
    )


def _how(ctx: Context, exit_code: int | None) -> str:
    if exit_code is None:
        return f"took longer than {ctx.app.settings.timeout} and was stopped"
    return f"was ended by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
