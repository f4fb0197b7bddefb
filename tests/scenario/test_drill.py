"""The drill: the whole thing live and accelerated, on made-up rows. What it claims of itself holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DRILL = Path(__file__).parents[2] / "drills" / "drill.py"


@pytest.mark.skipif(sys.platform == "win32", reason="staytrue up runs on Linux and macOS")
@pytest.mark.slow
def test_a_drill_fetches_retrains_tries_promotes_rejects_refuses_and_decides_as_a_replay(tmp_path):
    command = [sys.executable, str(DRILL), "--only", "shop", "--dir", str(tmp_path / "drill")]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    claims = [line.split()[0] for line in done.stdout.splitlines() if line.startswith(("  holds", "  BROKEN"))]
    assert claims == ["holds"] * 14
    assert (tmp_path / "drill" / "shop" / "drill.svg").read_text().startswith("<svg")
