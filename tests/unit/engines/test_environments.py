"""How an environment is put together: what is linked and what is not, and what is made of an installer's last words."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import staytrue
from staytrue.engines.environments import Installed, install, link, new
from staytrue.errors import Unavailable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for uv")

PACKAGE = Path(staytrue.__file__).parent


def soon() -> float:
    return time.monotonic() + 60


@pytest.fixture
def fresh(tmp_path):
    return new(tmp_path / "env", "cpython", sys.version.split()[0], soon())


def site_of(interpreter: Path) -> Path:
    return next(interpreter.parents[1].glob("lib/*/site-packages"))


def put(root: Path, *files: str) -> tuple[str, ...]:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(f"WHERE = {str(root)!r}\n")
    return files


def of(root: Path, *files: str, own: bool = False) -> Installed:
    return Installed(version="1.0", root=root, files=put(root, *files), own=own)


def test_of_a_shared_folder_each_has_its_part(tmp_path, fresh):
    root = tmp_path / "here"
    here = {"one": of(root, "shop/one/a.py", "one.py"), "two": of(root, "shop/two/b.py", "two.py")}

    link(fresh, here, {"one"}, PACKAGE, soon())

    linked = sorted(str(path.relative_to(site_of(fresh))) for path in site_of(fresh).rglob("*") if path.is_symlink())
    assert linked == ["one.py", "shop/one", "staytrue"]
    assert not (site_of(fresh) / "shop").is_symlink()


def test_what_was_installed_stays_and_what_is_linked_joins_it(tmp_path, fresh):
    root = tmp_path / "here"
    here = {"one": of(root, "shop/one/a.py", "shop/__init__.py")}
    put(site_of(fresh), "shop/two/b.py", "shop/__init__.py")

    link(fresh, here, {"one"}, PACKAGE, soon())

    code = "import shop, shop.one.a, shop.two.b; print(shop.WHERE, shop.one.a.WHERE, shop.two.b.WHERE, sep='\\n')"
    said = subprocess.run([fresh, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == [str(site_of(fresh)), str(root), str(site_of(fresh))]
    assert sorted(path.name for path in (root / "shop").iterdir()) == ["__init__.py", "one"]


def test_a_distribution_in_a_folder_of_its_own_is_found_by_its_path_file(tmp_path, fresh):
    put(tmp_path / "mine", "mine.py")
    root = tmp_path / "here"
    here = {"mine": of(root, "__editable__.mine.pth", own=True)}
    (root / "__editable__.mine.pth").write_text(f"{tmp_path / 'mine'}\n")

    link(fresh, here, {"mine"}, PACKAGE, soon())

    subprocess.run([fresh, "-c", "import mine"], check=True)


NO_VERSION = """Using Python 3.11.7 environment at: env
error: No solution found when resolving dependencies
  cause: Because there is no version of zope-event==9.9 and you require zope-event==9.9, we can conclude that it is over.
"""
NO_SUCH = """  \u00d7 No solution found when resolving dependencies:
  ╰─▶ Because zope.event was not found in the package registry and you require zope-event==9.9, we can conclude that your
      requirements are unsatisfiable.
"""
NO_NETWORK = """error: Request failed after 3 retries in 11.1s
  cause: Failed to fetch: http://nowhere.invalid/simple/zope-event/
  cause: dns error
  cause: failed to lookup address information: Name or service not known
"""
NO_BUILD = "error: Failed to build `zope-event==9.9`\n  cause: The build backend returned an error\n"


@pytest.mark.parametrize(
    ("printed", "why", "words"),
    [
        (NO_VERSION, "distribution", "uv finds no zope-event 9.9 for Python 3"),
        (NO_SUCH, "distribution", "uv finds no zope-event 9.9 for Python 3"),
        (NO_NETWORK, "network", "uv could not reach where distributions come from: Request failed after 3 retries"),
        (NO_BUILD, "install", "uv failed while installing 2 distributions: Failed to build `zope-event==9.9`"),
    ],
)
def test_the_last_words_of_an_installer_are_told_in_a_sentence(tmp_path, fresh, monkeypatch, *, printed, why, words):
    for name in [one for one in os.environ if one.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    (tmp_path / "bin").mkdir()
    (tmp_path / "words").write_text(printed)
    (tmp_path / "bin" / "uv").write_text(f"#!/bin/sh\ncat '{tmp_path / 'words'}'\nexit 1\n")
    (tmp_path / "bin" / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    with pytest.raises(Unavailable) as caught:
        install(fresh, {"zope-event": "9.9", "event": "1.0"}, (), soon())

    assert (caught.value.code, caught.value.facts["why"]) == ("ST960", why)
    assert words in caught.value.message
    assert caught.value.facts.get("missing", ["zope-event 9.9"]) == ["zope-event 9.9"]
    assert "\n" not in caught.value.message


def test_pip_is_asked_even_beside_uv_where_it_alone_knows_a_place(tmp_path, fresh, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uv").write_text("#!/bin/sh\necho error: asked >&2\nexit 1\n")
    (tmp_path / "bin" / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    with pytest.raises(Unavailable, match=r"pip finds no zope-event 9\.9"):
        install(fresh, {"zope-event": "9.9"}, (), soon())
