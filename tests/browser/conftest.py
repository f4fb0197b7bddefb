"""A real browser, real servers, and what every page that is opened has to keep: no error, no script of others, no other host."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make browser-test")
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "scripts"), str(ROOT / "tests" / "scenario")]

import chromium as browsers  # noqa: E402
import stores  # noqa: E402
from playwright.sync_api import Browser, expect  # noqa: E402
from server import Server, serving  # noqa: E402
from visit import Visitor, drawn  # noqa: E402

# For what must happen at all, on a machine that others use too. What has to happen soon says how soon.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(browsers.chromium())
        except browsers.NoBrowser as exc:
            pytest.skip(str(exc))
        yield found


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture
def visitor(browser, request, serve) -> Iterator[Visitor]:
    """Leaves before the servers of `serve` end. Of what is open when a test fails there are pictures in `failed`."""
    made = Visitor(browser)
    yield made
    if request.node.stash.get(FAILED, False):
        made.keep(request.node.name)
    made.close()
    assert made.left() == []


# ------------------------------------------------------------ stores, each made once


@pytest.fixture(scope="session")
def _lived(tmp_path_factory) -> stores.Kept:
    return stores.lived(tmp_path_factory.mktemp("lived"))


@pytest.fixture(scope="session")
def _stages(tmp_path_factory) -> dict[str, stores.Kept]:
    return stores.stages(tmp_path_factory.mktemp("stages"))


@pytest.fixture
def stage(_stages, tmp_path) -> Callable[[str], stores.Kept]:
    """`stage("on trial")`: a store of one's own."""
    return lambda name: _stages[name].copied(tmp_path / "own")


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """`serve(kept, *arguments)`: a server of one's own, ended afterwards."""
    with contextlib.ExitStack() as stack:

        def begin(kept: stores.Kept, *arguments: str) -> Server:
            server = stack.enter_context(serving(kept.store, *arguments))
            drawn(server)
            return server

        yield begin


@pytest.fixture
def free_port() -> int:
    """A port that nobody has."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="session")
def crowd(_lived, tmp_path_factory) -> Iterator[Server]:
    """A server of a store with several apps, shared: look, and change nothing."""
    kept = stores.crowd(_lived.copied(tmp_path_factory.mktemp("crowd") / "shop"))
    with serving(kept.store, "--name", kept.app, "--no-loop") as server:
        drawn(server)
        yield server


@pytest.fixture(scope="session")
def living(_stages, tmp_path_factory) -> Iterator[Server]:
    """A server whose controller lives, with a challenger on trial, an incident and a window in quarantine; look only."""
    kept = _stages["on trial"].copied(tmp_path_factory.mktemp("living") / "shop")
    with serving(kept.store, *kept.served) as server:
        drawn(server)
        yield server
