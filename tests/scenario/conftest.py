"""What the stories share: a small shop whose prices move, and the command line that runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from staytrue import testing
from staytrue.cli import main
from staytrue.store.store import Store, open_store

# So that the stories find what they share, whichever import mode pytest runs in.
sys.path.insert(0, str(Path(__file__).parent))

from shops import HISTORY, SHOP

SINCE, HALF, UNTIL = "2026-01-01", "2026-05-31", "2026-07-20"


@dataclass
class Said:
    """What a verb said: its exit code, its JSON document, and the text on stderr."""

    code: int
    document: Any
    err: str


@dataclass
class Shop:
    """A folder with an app, its store, and the command line."""

    folder: Path
    store_path: Path
    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str, store: Path | None = None) -> Said:
        """`staytrue ARGUMENTS --json` in this process."""
        app = [] if arguments[0] in {"gc", "verify", "doctor"} else ["--app", str(self.folder / "app.py")]
        self.capsys.readouterr()
        with _FreshImports():
            code = main([*arguments, *app, "--store", str(store or self.store_path), "--json"])
        said = self.capsys.readouterr()
        return Said(code, json.loads(said.out) if said.out else None, said.err)

    def write(self, text: str, *, name: str = "app.py") -> Shop:
        """Put a file beside the app."""
        (self.folder / name).write_text(text)
        return self

    def edit(self, old: str, new: str) -> Shop:
        """Change a place in the app's file."""
        text = (self.folder / "app.py").read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the app"
        return self.write(text.replace(old, new))

    def fetched(self, until: str = UNTIL) -> Shop:
        """The history up to a day, in the store."""
        said = self.run("fetch", "--since", SINCE, "--until", until)
        assert said.code == 0, said.err
        return self

    @property
    def store(self) -> Store:
        """The store, opened."""
        return open_store(self.store_path, must_exist=True)

    def champion(self) -> str | None:
        """The id of the champion."""
        store = self.store
        role = store.ledger.role("shop", "live", "champion")
        store.close()
        return role.release if role else None

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """What `staytrue log` says, of every timeline."""
        found = self.run("log", "--timeline", "all", *(["--kind", kind] if kind else []))
        assert found.code == 0, found.err
        return found.document["events"]

    def verifies(self) -> bool:
        """Whether every object and the chain are what they were."""
        said = self.run("verify")
        return said.code == 0 and said.document["ok"] and said.document["problems"] == []


class _FreshImports:
    """One process runs many apps whose files are all called app.py: each verb imports anew, as a process of its own would."""

    def __enter__(self) -> None:
        self.path = list(sys.path)

    def __exit__(self, *_: object) -> None:
        sys.path[:] = self.path
        for name in ("app", "shop_history"):
            sys.modules.pop(name, None)


@pytest.fixture
def shop(tmp_path, capsys) -> Shop:
    """The small app in a folder of its own, with an empty store."""
    _write_shop(tmp_path / "shop")
    return Shop(tmp_path / "shop", tmp_path / "store", capsys)


@pytest.fixture(scope="session")
def _kept_sales(tmp_path_factory) -> Path:
    """A store with the first 150 days of sales, made once."""
    place = tmp_path_factory.mktemp("sales")
    _write_shop(place / "shop")
    with testing.bench(place / "shop" / "app.py", place) as bench:
        bench.fetch(SINCE, HALF)
    return place / "store"


@pytest.fixture
def stocked(shop, _kept_sales) -> Shop:
    """The small app with 150 days of sales in its store."""
    shutil.copytree(_kept_sales, shop.store_path)
    return shop


def _write_shop(folder: Path) -> None:
    _write_app(folder, HISTORY, SHOP)


def _write_app(folder: Path, history: str, app: str) -> None:
    folder.mkdir()
    (folder / "shop_history.py").write_text(history)
    (folder / "app.py").write_text(app)


@pytest.fixture
def staytrue():
    """The command line as a process of its own, where what matters is that it is one: (exit code, stdout, stderr)."""

    def run(*arguments: str | Path, cwd: Path | None = None) -> tuple[int, str, str]:
        environment = {**os.environ, "NO_COLOR": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "staytrue", *map(str, arguments)],
            cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def bench_of(tmp_path):
    """`bench_of(text)`: an app written down in a folder of its own, on a bench."""
    count = iter(range(100))

    def make(text: str, **files: str):
        folder = tmp_path / f"app{next(count)}"
        folder.mkdir()
        (folder / "shop_history.py").write_text(HISTORY)
        (folder / "app.py").write_text(text)
        for name, content in files.items():
            (folder / f"{name}.py").write_text(content)
        return testing.bench(folder / "app.py")

    return make


@pytest.fixture(scope="session")
def _kept_server(tmp_path_factory) -> Path:
    """A folder with the app of server.py and a store in which it has a champion, made once."""
    import server

    place = tmp_path_factory.mktemp("served")
    _write_app(place / "shop", server.HISTORY, server.SHOP)
    with testing.bench(place / "shop" / "app.py", place) as bench:
        bench.fetch(server.SINCE, server.UNTIL)
        assert bench.train().promoted
    return place


@pytest.fixture
def served(tmp_path, capsys, _kept_server) -> Shop:
    """The app of server.py, trained, with the command line; nothing serves it yet."""
    shutil.copytree(_kept_server, tmp_path, dirs_exist_ok=True)
    return Shop(tmp_path / "shop", tmp_path / "store", capsys)


@pytest.fixture(scope="module")
def up(tmp_path_factory, _kept_server):
    """A running server of that app, shared by the stories of a module: they may ask it, not change it."""
    from server import serving

    place = tmp_path_factory.mktemp("up")
    shutil.copytree(_kept_server, place, dirs_exist_ok=True)
    with serving(place / "store") as server:
        yield server
