"""Writes the files of constraints: one version of each package, and its hashes for every target.

    constraints.txt            what runs: core, the extra `demo`, the build backend
    constraints-dev.txt        what the extra `dev` adds to it
    constraints-browser.txt    what the extra `browser` adds to both

Run with the oldest supported Python, in the development environment, and connected:

    .venv/bin/python scripts/constraints.py              the versions of the present files, new hashes
    .venv/bin/python scripts/constraints.py --upgrade    the newest versions that fit together

pip chooses versions and files. It evaluates environment markers for the interpreter it runs in, whatever
`--python-version` says, so which package belongs to which target is worked out here, from pip's reports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "constraints.txt": "What runs: core, the extra `demo`, the build backend.",
    "constraints-dev.txt": "What development adds to constraints.txt.",
    "constraints-browser.txt": "What the tests in a browser add to constraints.txt and constraints-dev.txt.",
}
"""Each adds to those before it."""

PYTHONS = ("3.11", "3.12", "3.13", "3.14")


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What markers see (`system`, `machine`) and which wheel tags pip may take, preferred first."""

    system: str
    machine: str
    tags: tuple[str, ...]


def linux(machine: str, newest_glibc: int) -> Platform:
    """Linux with glibc 2.`newest_glibc`: pip does not expand manylinux tags downwards by itself."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(newest_glibc, 4, -1)]
    old = [f"manylinux2014_{machine}", f"manylinux2010_{machine}", f"manylinux1_{machine}"]
    return Platform(system="linux", machine=machine, tags=(*tags, *old, f"linux_{machine}"))


# Each machine with an old and a new glibc, since a package may offer one wheel for each.
PLATFORMS = (
    linux("x86_64", 41),
    linux("x86_64", 28),
    linux("aarch64", 41),
    linux("aarch64", 28),
    Platform(system="darwin", machine="arm64", tags=("macosx_15_0_arm64",)),
    Platform(system="win32", machine="AMD64", tags=("win_amd64",)),
)
REQUIRED_SYSTEM = "linux"


@dataclass(frozen=True, kw_only=True)
class Target:
    """One Python on one platform."""

    python: str
    platform: Platform

    def environment(self, extra: str = "") -> dict[str, str]:
        """What `Requirement.marker.evaluate` needs to know."""
        system = self.platform.system
        return {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "platform_python_implementation": "CPython",
            "sys_platform": system,
            "os_name": "nt" if system == "win32" else "posix",
            "platform_system": {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}[system],
            "platform_machine": self.platform.machine,
            "platform_release": "",
            "platform_version": "",
            "extra": extra,
        }

    def pip_options(self) -> list[str]:
        """Makes pip choose files for this target and not for the interpreter that runs it."""
        tags = [option for tag in self.platform.tags for option in ("--platform", tag)]
        return ["--python-version", self.python, "--implementation", "cp", *tags]


TARGETS = tuple(Target(python=python, platform=platform) for python, platform in product(PYTHONS, PLATFORMS))


def pip_report(*arguments: str) -> list[dict[str, Any]]:
    """What `pip install` would install: one entry per distribution, with its metadata and the hash of the chosen file."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--only-binary=:all:", "--report", str(report), "--target", folder, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LookupError(done.stderr.strip())
        installs: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return installs


@dataclass
class Pins:
    """The chosen versions and what each of them requires; grows while targets turn up packages that others don't need."""

    versions: dict[str, str]
    requires: dict[str, list[Requirement]]

    def add(self, installs: list[dict[str, Any]]) -> None:
        """Take name, version and requirements from a pip report."""
        for install in installs:
            metadata = install["metadata"]
            name = canonicalize_name(metadata["name"])
            self.versions[name] = metadata["version"]
            self.requires[name] = [Requirement(text) for text in metadata.get("requires_dist", [])]

    def closure(self, roots: list[Requirement], target: Target) -> set[str]:
        """Names of everything that `roots` need on `target`; a name that no pin covers yet is resolved on the way."""
        found: set[tuple[str, str]] = set()
        waiting = [(root, "") for root in roots]
        while waiting:
            requirement, extra = waiting.pop()
            if requirement.marker and not requirement.marker.evaluate(target.environment(extra)):
                continue
            name = canonicalize_name(requirement.name)
            if name not in self.versions:
                self.add(pip_report("--no-deps", f"{name}{requirement.specifier}"))
            if not requirement.specifier.contains(self.versions[name], prereleases=True):
                raise LookupError(f"{name} {self.versions[name]} is pinned, but {target.python} needs {requirement}")
            for wanted in ("", *requirement.extras):
                if (name, wanted) not in found:
                    found.add((name, wanted))
                    waiting += [(child, wanted) for child in self.requires[name]]
        return {name for name, _ in found}


def hashes_for(pins: Pins, names: set[str], target: Target) -> dict[str, str]:
    """The sha256 of the wheel that pip takes for each name; names without a wheel for this target are left out."""
    pinned = [f"{name}=={pins.versions[name]}" for name in sorted(names)]
    try:
        installs = pip_report("--no-deps", *target.pip_options(), *pinned)
    except LookupError:
        if len(pinned) == 1:
            if target.platform.system == REQUIRED_SYSTEM:
                sys.stderr.write(f"no wheel: {pinned[0]} for {target.python} on {target.platform.tags[0]}\n")
            return {}
        middle = len(pinned) // 2
        halves = sorted(names)[:middle], sorted(names)[middle:]
        return hashes_for(pins, set(halves[0]), target) | hashes_for(pins, set(halves[1]), target)
    return {
        canonicalize_name(install["metadata"]["name"]): install["download_info"]["archive_info"]["hashes"]["sha256"]
        for install in installs
    }


def marker_of(targets: list[Target]) -> str:
    """The shortest marker that is true on exactly these targets; empty when it is all of them."""
    present = {(target.python, target.platform.system) for target in targets}
    pythons = [python for python in PYTHONS if any(python == other for other, _ in present)]
    systems = sorted({system for _, system in present})
    if present != set(product(pythons, systems)):
        # No package needs it today. Better to stop than to write a marker that nobody has seen.
        raise LookupError(f"no simple marker for {sorted(present)}")
    parts = []
    if len(pythons) < len(PYTHONS):
        if tuple(pythons) != PYTHONS[: len(pythons)]:
            raise LookupError(f"no simple marker for Python {pythons}")
        parts.append(f"python_version <= '{pythons[-1]}'")
    if len(systems) < len({platform.system for platform in PLATFORMS}):
        choice = " or ".join(f"sys_platform == '{system}'" for system in systems)
        parts.append(f"({choice})" if len(systems) > 1 and parts else choice)
    return " and ".join(parts)


def render(pins: Pins, targets_of: dict[str, list[Target]], hashes: dict[str, set[str]], heading: str) -> str:
    """The file's text: names sorted, hashes sorted, so that a change shows as the lines that changed."""
    made = f"Made by scripts/constraints.py; don't edit. One version of each for Python {PYTHONS[0]} to {PYTHONS[-1]}."
    lines = [f"# {heading}", f"# {made}"]
    for name in sorted(targets_of):
        if not hashes.get(name):
            raise LookupError(f"no hash at all for {name}")
        marker = marker_of(targets_of[name])
        lines.append(f"{name}=={pins.versions[name]}{f' ; {marker}' if marker else ''} \\")
        lines.append(" \\\n".join(f"    --hash=sha256:{digest}" for digest in sorted(hashes[name])))
    return "\n".join(lines) + "\n"


def present_pins() -> list[str]:
    """`name==version` for every line of the present files."""
    files = [ROOT / name for name in FILES]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return [line.split(" ")[0] for line in lines if "==" in line.split(" ")[0]]


def project_roots() -> list[list[Requirement]]:
    """What each of the files has to hold, beside what those before it hold."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = document["project"]["optional-dependencies"]
    runtime = [*document["project"]["dependencies"], *extras["demo"], *document["build-system"]["requires"]]
    return [[Requirement(text) for text in texts] for texts in (runtime, extras["dev"], extras["browser"])]


def resolve(roots: list[Requirement], *, upgrade: bool) -> Pins:
    """Versions that fit together, for the interpreter that runs this; it must be the oldest that we support."""
    if ".".join(map(str, sys.version_info[:2])) != PYTHONS[0]:
        raise SystemExit(
            f"Run this with Python {PYTHONS[0]}: what the oldest accepts, the newer ones accept; not the other way."
        )
    pins = Pins(versions={}, requires={})
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as kept:
        kept.write("" if upgrade else "\n".join(present_pins()))
        kept.flush()
        pins.add(pip_report("--constraint", kept.name, *map(str, roots)))
    return pins


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit together")
    upgrade = parser.parse_args().upgrade
    layers = project_roots()
    everything = [root for roots in layers for root in roots]
    pins = resolve(everything, upgrade=upgrade)
    hashes: dict[str, set[str]] = {}
    targets_of: list[dict[str, list[Target]]] = [{} for _ in layers]
    for target in TARGETS:
        for depth, found in enumerate(targets_of):
            for name in pins.closure([root for roots in layers[: depth + 1] for root in roots], target):
                found.setdefault(name, []).append(target)
        names = pins.closure(everything, target)
        for name, digest in hashes_for(pins, names, target).items():
            hashes.setdefault(name, set()).add(digest)
        sys.stderr.write(f"{target.python} {target.platform.tags[0]}: {len(names)} distributions\n")
    known: set[str] = set()
    for (file, heading), found in zip(FILES.items(), targets_of, strict=True):
        rest = {name: targets for name, targets in found.items() if name not in known}
        (ROOT / file).write_text(render(pins, rest, hashes, heading))
        known |= set(found)


if __name__ == "__main__":
    main()
