"""What loads when: every module by itself, and next to nothing for `import staytrue` and `staytrue --help`."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"

# Each list is exact: a name that is no longer loaded has to go, a new one needs a reason here.
OURS_AT_IMPORT = {"staytrue"}
THIRD_PARTY_AT_IMPORT: set[str] = set()
THIRD_PARTY_AT_HELP: set[str] = set()

REPORT = """
import json, sys
before = set(sys.modules)
try:
    {action}
except SystemExit:
    pass
loaded = sorted(set(sys.modules) - before)
stdlib = sys.stdlib_module_names
tops = {{name.partition(".")[0] for name in loaded}}
third = sorted(top for top in tops if top not in stdlib and top != "staytrue" and not top.startswith("__editable__"))
print(json.dumps({{"ours": [n for n in loaded if n.partition(".")[0] == "staytrue"], "third_party": third}}), file=sys.stderr)
"""


def module_names() -> list[str]:
    paths = (path.relative_to(SOURCE).with_suffix("") for path in SOURCE.rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def loaded_by(action: str) -> dict[str, list[str]]:
    done = python(REPORT.format(action=action))
    assert done.returncode == 0, done.stderr
    report: dict[str, list[str]] = json.loads(done.stderr.splitlines()[-1])
    return report


def test_every_module_imports_alone_in_its_own_process():
    # A cycle hides as long as something else is imported first; pytest's own order is such a something.
    names = [name for name in module_names() if not name.endswith("__main__")]
    with ThreadPoolExecutor(max_workers=2) as pool:
        results = dict(zip(names, pool.map(python, [f"import {name}" for name in names]), strict=True))

    failures = {name: done.stderr.splitlines()[-1:] for name, done in results.items() if done.returncode}

    assert not failures


def test_import_staytrue_loads_only_what_is_listed_here():
    report = loaded_by("import staytrue")

    assert set(report["ours"]) == OURS_AT_IMPORT
    assert set(report["third_party"]) == THIRD_PARTY_AT_IMPORT


def test_help_loads_no_third_party_library_that_is_not_listed_here():
    report = loaded_by("sys.argv = ['staytrue', '--help']; from staytrue.cli import main; main()")

    assert set(report["third_party"]) == THIRD_PARTY_AT_HELP


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_command_starts_and_says_something(option):
    command = Path(sys.executable).with_name("staytrue")

    done = subprocess.run([command, option], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert "staytrue" in done.stdout
