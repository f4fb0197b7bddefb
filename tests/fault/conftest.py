"""Faults: a disk that fails or loses power, processes that are killed. The long runs need `-m fault_long`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from served import Kept

# So that the tests here find their tools, whichever import mode pytest runs in.
sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault_long: minutes of faults; only with `-m fault_long`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "fault_long" not in config.getoption("markexpr"):
        long = [item for item in items if item.get_closest_marker("fault_long")]
        if long:
            config.hook.pytest_deselected(items=long)
            items[:] = [item for item in items if item not in long]


@pytest.fixture
def fast_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a crash image costs microseconds there, milliseconds on a disk."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    folder = memory / f"staytrue-{tmp_path.parent.name}-{tmp_path.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    """The file of a small app, alone in its folder."""
    folder = tmp_path / "app"
    folder.mkdir()
    return Path(shutil.copyfile(Path(__file__).with_name("prices.py"), folder / "app.py"))


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A small app with two releases, trained once; a test that serves it takes a copy."""
    from served import trained  # only here: most of these tests serve nothing

    return trained(tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="session")
def failing_io(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled failing_io.c."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler to put a failing disk under a process")
    library = tmp_path_factory.mktemp("failing_io") / "failing_io.so"
    source = Path(__file__).with_name("failing_io.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl", "-lpthread"], check=True)
    return library
