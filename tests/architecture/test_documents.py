"""The documents and the source say the same: error codes, the where-is-X table, links; nothing private in them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "staytrue"
ERRORS = ROOT / "docs" / "errors.md"
ARCHITECTURE = ROOT / "ARCHITECTURE.md"

TEXT_SUFFIXES = set(",.cfg,.css,.html,.in,.js,.json,.md,.py,.sql,.svg,.toml,.txt,.yaml,.yml".split(","))  # noqa: SIM905  # one line
MADE_BY_MAKE = {"site", "demo", "staytrue-demo", "dist", "build", "__pycache__"}
HIDDEN_BUT_OURS = {".ci", ".github", ".gitignore"}
# Download hosts, pip's options for them, one machine's folders; spelled so that this file does not hold what it looks for.
FORBIDDEN = re.compile(r"pypi[.]org|python(?:)hosted|npmjs[.]|(?:index|find)-(?:url|links)|(?<![\w.])/[w]ork/")


def own_texts() -> list[Path]:
    """Every text file that belongs to the repository, found without git, so that it also works in an unpacked sdist."""
    waiting, texts = [ROOT], []
    while waiting:
        for path in waiting.pop().iterdir():
            hidden = path.name.startswith(".") and path.name not in HIDDEN_BUT_OURS
            if hidden or path.name in MADE_BY_MAKE:
                continue
            if path.is_dir():
                waiting.append(path)
            elif path.suffix in TEXT_SUFFIXES:
                texts.append(path)
    return sorted(texts)


def codes_in_source() -> set[str]:
    return {
        code
        for file in PACKAGE.rglob("*.py")
        for code in re.findall(r'"(ST\d{3,4})"', file.read_text(encoding="utf-8"))
    }


@pytest.mark.skipif(not ERRORS.exists(), reason="docs/errors.md is not written yet")
def test_every_error_code_stands_once_in_the_errors_page():
    # A code counts where its own entry begins: a heading, a table row or a list item. Mentions elsewhere are free.
    entries = Counter(
        re.findall(r"^(?:#+|\||[-*])\s*[`*]*(ST\d{3,4})\b", ERRORS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    )

    assert set(entries) == codes_in_source()
    assert [code for code, count in entries.items() if count > 1] == []


def paths_in_architecture() -> list[str]:
    """What stands in backticks in ARCHITECTURE.md and looks like a path in this repository."""
    if not ARCHITECTURE.exists():
        return []
    spans = re.findall(r"`([^`\s]+)`", ARCHITECTURE.read_text(encoding="utf-8"))
    tops = {path.name for path in ROOT.iterdir()} | {path.name for path in PACKAGE.iterdir()}
    return sorted(
        {span for span in spans if "/" in span and span.split("/")[0] in tops and not set("<>{}*…") & set(span)}
    )


@pytest.mark.skipif(not ARCHITECTURE.exists(), reason="ARCHITECTURE.md is not written yet")
def test_the_where_is_table_names_files_that_exist():
    missing = [path for path in paths_in_architecture() if not (ROOT / path).exists() and not (PACKAGE / path).exists()]

    assert missing == []


def test_links_in_the_documents_lead_somewhere():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "docs.py"), "--check"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_no_text_names_a_download_host_or_a_private_path():
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in own_texts()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if FORBIDDEN.search(line)
    ]

    assert found == []


def test_every_dependency_is_pinned_with_hashes():
    for name in ("constraints.txt", "constraints-dev.txt", "constraints-browser.txt"):
        pins = re.split(r"\n(?=\S)", (ROOT / name).read_text(encoding="utf-8"))
        assert [pin for pin in pins if not pin.startswith("#") and "--hash=sha256:" not in pin] == []
