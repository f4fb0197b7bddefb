"""The import contracts in pyproject.toml have teeth: each planted violation is reported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Where, what is added, and which contract must say so.
PLANTED = {
    "kernel opens a database": ("kernel/release.py", "import sqlite3", "pure-kernel"),
    "kernel reads the clock inside a function": ("kernel/release.py", "def planted():\n    import time", "pure-kernel"),
    "kernel loads pandas": ("kernel/release.py", "import pandas", "pure-kernel"),
    "kernel imports the loop inside a function": (
        "kernel/release.py",
        "def planted():\n    import staytrue.loop",
        "layers",
    ),
    "store imports an engine": ("store/__init__.py", "import staytrue.engines", "layers"),
    "errors import settings": ("errors.py", "import staytrue.settings", "layers"),
    "a module without a place": ("helpers.py", "'''Planted.'''", "layers"),
    "an extra becomes a need": ("store/__init__.py", "import polars", "light-arrow"),
}


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(
        ROOT / "src" / "staytrue", tmp_path / "src" / "staytrue", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(folder: Path, contract: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports_command as run; run()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo", "--contract", contract],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(folder / "src")}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("contract", ["layers", "pure-kernel", "light-arrow", "no-cycles"])
def test_the_package_keeps_its_contracts(copy, contract):
    done = lint_imports(copy, contract)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("violation", sorted(PLANTED))
def test_a_planted_violation_is_reported(copy, violation):
    where, text, contract = PLANTED[violation]
    file = copy / "src" / "staytrue" / where
    file.write_text((file.read_text() if file.exists() else "") + f"\n{text}\n")

    done = lint_imports(copy, contract)

    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout
