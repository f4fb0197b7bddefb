"""The action for GitHub: what its script does with a repository, and that no input becomes part of a script."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from changes import git

ACTION = Path(__file__).resolve().parents[2] / "action.yml"


def scripts() -> dict[str, str]:
    """Name of a step -> its script."""
    steps = re.split(r"\n    - name: ", ACTION.read_text(encoding="utf-8"))[1:]
    return {step.partition("\n")[0]: textwrap.dedent(step.partition("      run: |\n")[2]) for step in steps}


def test_no_script_holds_an_expression_that_the_runner_fills_in():
    assert set(scripts()) == {"Install staytrue", "Check", "Comment"}
    assert [name for name, script in scripts().items() if "${{" in script or not script.strip()] == []


@pytest.mark.skipif(sys.platform == "win32", reason="the script is for bash")
def test_a_pull_request_is_held_against_its_base_and_the_report_goes_to_the_summary(shop, tmp_path):
    shop.write('[tool.staytrue]\ntest = "none"\n', name="pyproject.toml")
    git(shop.folder, "init", "-q", "-b", "main")
    git(shop.folder, "add", "-A")
    git(shop.folder, "commit", "-q", "-m", "$(touch evil); `touch evil`")
    base = git(shop.folder, "rev-parse", "HEAD")
    shop.write("# Shop\n", name="README.md")
    summary, output = tmp_path / "summary", tmp_path / "output"
    given = {
        "APP": "app.py", "AGAINST": "", "STORE": "", "SINCE": "2026-01-01", "UNTIL": "2026-02-10", "PYTHON": sys.executable,
    }  # fmt: skip
    env = {
        **os.environ,
        **{f"INPUT_{name}": value for name, value in given.items()},
        "BASE": base,
        "RUNNER_TEMP": str(tmp_path),
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_OUTPUT": str(output),
    }
    argv = ["bash", "-eo", "pipefail", "-c", scripts()["Check"]]

    done = subprocess.run(argv, cwd=shop.folder, env=env, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert summary.read_text().startswith("## ✅ shop: the work tree passed its check")
    assert f"against {base} (" in summary.read_text()
    assert "verdict=passed" in output.read_text()
    assert not (shop.folder / "evil").exists()
