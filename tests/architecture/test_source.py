"""Rules about the source that no linter knows: what may sleep, unpickle or be swallowed, how files are named."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "staytrue"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {file.relative_to(PACKAGE).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in FILES}

# pickle runs code: the one place that loads it checks first that a release signed by this store has the digest.
MAY_UNPICKLE: set[str] = {"store/models.py"}
# file -> why it waits for the clock and not for a condition
MAY_SLEEP = {
    "cli/asker.py": "a server that comes up or is overloaded is asked again a moment later, up to a deadline",
    "cli/feeder.py": "looks whether loop and front have come so far, up to a deadline: another process tells nobody",
    "cli/log.py": "looks at the times of the ledger's files now and then: no portable call waits for a commit of another process",
    "engines/guard.py": "what was killed is gone a moment later, and nobody says when: then it looks who is left",
    "loop/environments.py": "another process makes the same environment: a lock that is waited for has no deadline",
    "loop/process.py": "looks at ledger, clock and code now and then: nothing tells of all three",
    "serve/main.py": "waits for a store that another process is about to make",
    "store/database.py": "two processes switch one new file to WAL: SQLite's own wait does not cover that moment",
}
MEANINGLESS_NAMES = {"util", "utils", "common", "helper", "helpers", "misc", "base", "core", "lib"}
UNPICKLERS = {
    *(
        f"{library}.{name}"
        for library in ("pickle", "cloudpickle", "dill", "joblib", "marshal")
        for name in ("load", "loads")
    ),
    "pickle.Unpickler",
    "shelve.open",
    "pandas.read_pickle",
}


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Local name -> dotted origin, for imports anywhere in the module."""
    origins: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                origins[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module:
            origins |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return origins


def called_names(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its function's dotted origin, such as `numpy.random.default_rng`."""
    origins = imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            parts = []
            target: ast.expr = node.func
            while isinstance(target, ast.Attribute):
                parts.append(target.attr)
                target = target.value
            if isinstance(target, ast.Name):
                yield ".".join([origins.get(target.id, target.id), *reversed(parts)]), node


def places_calling(names: set[str]) -> set[str]:
    return {file for file, tree in TREES.items() if any(name in names for name, _ in called_names(tree))}


def test_pickle_is_loaded_in_one_place_only():
    assert places_calling(UNPICKLERS) <= MAY_UNPICKLE


def test_nothing_sleeps_without_a_reason_listed_here():
    assert places_calling({"time.sleep"}) == set(MAY_SLEEP)


def is_broad(kind: ast.expr | None) -> bool:
    """`except:`, `except Exception`, `except (ValueError, BaseException)`."""
    if isinstance(kind, ast.Tuple):
        return any(is_broad(one) for one in kind.elts)
    return kind is None or (isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"})


def swallowing_lines(tree: ast.Module) -> set[int]:
    """Where every kind of error disappears without a trace."""
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and is_broad(node.type)]
    lines = {node.lineno for node in handlers if all(isinstance(step, ast.Pass | ast.Continue) for step in node.body)}
    suppressing = [call for name, call in called_names(tree) if name == "contextlib.suppress"]
    return lines | {call.lineno for call in suppressing if any(is_broad(kind) for kind in call.args)}


@pytest.mark.parametrize("file", TREES)
def test_no_error_of_any_kind_is_swallowed_without_a_reason_on_its_line(file):
    lines = (PACKAGE / file).read_text(encoding="utf-8").splitlines()

    assert [line for line in sorted(swallowing_lines(TREES[file])) if "  # " not in lines[line - 1]] == []


@pytest.mark.parametrize("file", [file for file in TREES if file.startswith("kernel/")])
def test_the_kernel_draws_no_unseeded_numbers(file):
    def unseeded(name: str, call: ast.Call) -> bool:
        no_seed = not call.args and not call.keywords
        return name.startswith("numpy.random.") and (
            no_seed or name.rpartition(".")[2] not in {"default_rng", "SeedSequence", "Generator", "PCG64", "Philox"}
        )

    assert not [call.lineno for name, call in called_names(TREES[file]) if unseeded(name, call)]


CLOCKS = {"now", "utcnow", "today"}


@pytest.mark.parametrize("file", [file for file in TREES if file.startswith("kernel/")])
def test_the_kernel_never_asks_what_time_it_is(file):
    asked = [
        call.lineno
        for name, call in called_names(TREES[file])
        if name.startswith("datetime.") and name.rpartition(".")[2] in CLOCKS
    ]

    assert not asked


@pytest.mark.parametrize("file", TREES)
def test_a_module_says_what_it_owns(file):
    assert ast.get_docstring(TREES[file])


@pytest.mark.parametrize("file", TREES)
def test_a_module_is_named_after_its_subject(file):
    path = Path(file)

    assert not MEANINGLESS_NAMES & {path.stem.strip("_"), *path.parts[:-1]}
