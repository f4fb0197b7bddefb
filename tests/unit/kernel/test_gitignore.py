"""The .gitignore matcher: as git reads it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from staytrue.kernel.gitignore import ignored, rules


@pytest.mark.parametrize(
    ("text", "path", "is_folder", "expected"),
    [
        ("*.csv", "deep/down/a.csv", False, True),
        ("/a.csv", "a.csv", False, True),
        ("/a.csv", "deep/a.csv", False, False),
        ("deep/a.csv", "x/deep/a.csv", False, False),
        ("out/", "out", True, True),
        ("out/", "out", False, False),
        ("**/logs", "a/b/logs", True, True),
        ("a/**/z", "a/z", False, True),
        ("a/**/z", "a/b/c/z", False, True),
        ("a/**", "a/b/c", False, True),
        ("a/**", "a", True, False),
        ("a?c", "abc", False, True),
        ("a?c", "a/c", False, False),
        ("[a-c]x", "bx", False, True),
        ("[!a-c]x", "bx", False, False),
        ("*.csv\n!keep.csv", "keep.csv", False, False),
        ("!keep.csv\n*.csv", "keep.csv", False, True),
        ("# a.csv", "# a.csv", False, False),
        ("\\#a", "#a", False, True),
        ("\\!a", "!a", False, True),
        ("a.csv   ", "a.csv", False, True),
        ("a\\ ", "a ", False, True),
        ("a.csv\r\nb", "a.csv", False, True),
        ("\ufeffa.csv", "a.csv", False, True),
        ("[a", "[a", False, False),
        ("a.c", "abc", False, False),
        ("", "a", False, False),
    ],
)
def test_a_pattern_matches_what_git_matches(text, path, is_folder, expected):
    assert ignored(path, rules(text), is_folder=is_folder) is expected


def test_a_nested_file_speaks_for_its_own_folder_only():
    found = rules("*.csv") + rules("!b.csv\n/c", "data")
    assert not ignored("data/b.csv", found)
    assert ignored("b.csv", found)
    assert ignored("data/c", found)
    assert not ignored("c", found)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed: nothing to compare with")
def test_random_patterns_match_as_in_git_itself(tmp_path):
    # given: a small tree, and patterns from a seeded source
    subprocess.run(["git", "init", "-q", tmp_path], check=True)  # noqa: S607 - the user's git is what we compare with
    for folder in ("", "a/", "a/b/", "b/", "b/a/c/"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in ("a.py", "b.csv", "#x", "x y", "A"):
            (tmp_path / folder / f"f{name}").touch()
    paths = sorted(_paths(tmp_path))
    rng = random.Random(20)
    pieces = [
        "a",
        "b",
        "f",
        "*",
        "**/",
        "/**",
        "?",
        "/",
        "[ab]",
        "[!a]",
        "[a-c]",
        ".py",
        ".csv",
        "\\#",
        "c",
        "\\ ",
        "[]a]",
    ]
    for _ in range(60):
        lines = ["".join(rng.choices(pieces, k=rng.randint(1, 4))) for _ in range(3)]
        text = "\n".join([lines[0], lines[1], "!" + lines[2]])
        if "//" in text or "***" in text:
            continue  # the matcher's stated limit
        # when
        (tmp_path / ".gitignore").write_text(text)
        ask = ["git", "-C", tmp_path, "check-ignore", "--no-index", "-z", "--stdin"]
        answer = subprocess.run(ask, input="\0".join(paths).encode(), capture_output=True, check=False).stdout
        # then
        ours = {path for path in paths if _left_out(path, tmp_path, text)}
        assert ours == set(filter(None, answer.decode().split("\0"))), text


def _paths(root: Path):
    for folder, folders, files in os.walk(root):
        if ".git" in folders:
            folders.remove(".git")
        for name in folders + [one for one in files if one != ".gitignore"]:
            yield (Path(folder) / name).relative_to(root).as_posix()


def _left_out(path: str, root: Path, text: str) -> bool:
    parts = path.split("/")
    prefixes = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    return any(ignored(prefix, rules(text), is_folder=(root / prefix).is_dir()) for prefix in prefixes)
