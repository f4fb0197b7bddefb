"""What the stories of a change share: git, and how the document of a check is read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

_AUTHOR = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


def git(folder: Path, *arguments: str) -> str:
    """What git prints, in a folder, under nobody's settings."""
    env = {**os.environ, **_AUTHOR, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    argv = ["git", *arguments]
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout.strip()


def steps(document: dict[str, Any]) -> dict[str, str]:
    """Step -> status."""
    return {one["name"]: one["status"] for one in document["steps"]}


def step(document: dict[str, Any], name: str) -> dict[str, Any]:
    """One step of a check's document."""
    return next(one for one in document["steps"] if one["name"] == name)
