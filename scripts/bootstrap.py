"""Makes the environment that a make target needs, from a bare `python3`, and prints where it is.

    python3 scripts/bootstrap.py demo      core, the extra `demo`, the project itself (editable)
    python3 scripts/bootstrap.py dev       the same and the development tools
    python3 scripts/bootstrap.py browser   the same and what drives a browser

Standard library only, since it runs before anything is installed. The first Python that is used owns `.venv`;
another one gets `.venv-3.13`, so both can stay. What is installed is remembered as digests of the files that say it:
while these stay the same, nothing is installed and no network is needed. A lock lets several makes run at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 11)
GROUPS = {
    "demo": ("constraints.txt",),
    "dev": ("constraints.txt", "constraints-dev.txt"),
    "browser": ("constraints.txt", "constraints-dev.txt", "constraints-browser.txt"),
}
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def main() -> None:
    """Print the folder of the environment; exit with a sentence that says what to do when it can't be made."""
    group = sys.argv[1] if len(sys.argv) == len(("script", "group")) else ""
    if group not in GROUPS:
        sys.exit(f"bootstrap: got {sys.argv[1:]}, expected one of {sorted(GROUPS)}.")
    if sys.version_info < OLDEST:
        wanted = "Name another one: PYTHON=python3.12 make ..."
        sys.exit(f"staytrue needs Python 3.11 or newer; {sys.executable} is {VERSION}. {wanted}")
    with one_at_a_time():
        print(ready_environment(group))  # noqa: T201  # the path on stdout is what the Makefile reads


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Waits for other makes in this folder; the lock goes with the process, however it ends."""
    try:
        import fcntl  # Windows has none; there, don't start two makes at once
    except ImportError:
        yield
        return
    with (ROOT / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ready_environment(group: str) -> Path:
    """The environment with everything that `group` lists installed."""
    venv = own_venv()
    stamp_file = venv / "staytrue-installed.json"
    stamp: dict[str, str] = json.loads(stamp_file.read_text()) if stamp_file.exists() else {}
    for name in GROUPS[group]:
        if stamp.get(name) != digest(name):
            say(f"installing {name} into {venv.name} (Python {VERSION})")
            pip(venv, "--require-hashes", "--only-binary=:all:", "-r", str(ROOT / name))
            stamp[name] = digest(name)
            write(stamp_file, stamp)
    if stamp.get("pyproject.toml") != digest("pyproject.toml"):
        pip(venv, "--no-build-isolation", "--editable", str(ROOT))
        stamp["pyproject.toml"] = digest("pyproject.toml")
        write(stamp_file, stamp)
    return venv


def own_venv() -> Path:
    """The folder of this Python's environment, made when it is missing or broken."""
    first = ROOT / ".venv"
    venv = first if version_of(first) in {None, VERSION} else ROOT / f".venv-{VERSION}"
    if version_of(venv) != VERSION:
        shutil.rmtree(venv, ignore_errors=True)
        done = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(venv, ignore_errors=True)
            remedy = "On Debian and Ubuntu: apt install python3-venv."
            sys.exit(f"{sys.executable} can't make an environment. {remedy}\n{done.stdout}{done.stderr}")
    return venv


def version_of(venv: Path) -> str | None:
    """`3.11` for an environment whose interpreter still exists; None for anything else."""
    settings = venv / "pyvenv.cfg"
    if not settings.exists() or not python_of(venv).exists():
        return None
    for line in settings.read_text().splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "version":
            return ".".join(value.strip().split(".")[:2])
    return None


def python_of(venv: Path) -> Path:
    """The environment's interpreter."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def digest(name: str) -> str:
    """Of the file and of the checkout's place, because an editable install points to it."""
    return hashlib.sha256(str(ROOT).encode() + (ROOT / name).read_bytes()).hexdigest()


def pip(venv: Path, *arguments: str) -> None:
    """Install into `venv` exactly what the arguments name, nothing that pip would add."""
    # A developer's PIP_USER must not move the installation elsewhere; mirrors and proxies must stay.
    moving = {"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PYTHONPATH"}
    environment = {key: value for key, value in os.environ.items() if key not in moving}
    command = [str(python_of(venv)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # Saves seconds: most modules are never imported. Where Python may not cache what it compiles, pip has to.
    command += [] if sys.dont_write_bytecode else ["--no-compile"]
    done = subprocess.run([*command, *arguments], env=environment, stdout=sys.stderr, check=False)
    if done.returncode:
        sys.exit(
            f"bootstrap: pip could not install {' '.join(arguments)}; its message is above. Connected? Then try again."
        )


def write(stamp_file: Path, stamp: dict[str, str]) -> None:
    """Replace the record as a whole: half a record would make every later run fail."""
    fresh = stamp_file.with_suffix(".new")
    fresh.write_text(json.dumps(stamp, indent=1))
    fresh.replace(stamp_file)


def say(sentence: str) -> None:
    """Progress goes to stderr: stdout is for the path."""
    sys.stderr.write(f"bootstrap: {sentence}\n")


if __name__ == "__main__":
    main()
