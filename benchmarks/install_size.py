"""What an installation without extras costs: distributions, megabytes, CPU time of importing each library alone.

Builds the wheel, installs it with the pinned versions into an empty environment as a user would (pip compiles to
bytecode), and adds up the files. MB = 10^6 bytes. Needs pip's cache or a connection. Exits with 1 above a target.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

# As on a user's machine: where bytecode may not be written, every import would compile the source again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).resolve().parents[1]
TARGET_MB = 355
TARGET_DISTRIBUTIONS = 36
# What staytrue itself imports, where the name differs from the distribution's.
IMPORT_NAMES = {"arro3-core": "arro3.core", "arro3-io": "arro3.io"}
DIRECT = [
    *(
        "arro3-core",
        "arro3-io",
        "blake3",
        "httptools",
        "jinja2",
        "msgspec",
        "nanoarrow",
        "numpy",
        "pandas",
        "rich",
        "sqlalchemy",
    ),
    *("uvicorn", "uvloop"),
]


def pip(*arguments: str) -> None:
    """Run pip quietly; a failure ends the benchmark with pip's own message."""
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments], check=True)


def fresh_install(folder: Path) -> Path:
    """The interpreter of an empty environment in which only the built wheel and its needs are installed."""
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT))
    # The same versions, without the hashes: with hashes pip would ask for one of the wheel that was just built.
    pins = [line.partition(" ")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    (folder / "pins.txt").write_text("\n".join(pins))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wheel = next(folder.glob("staytrue-*.whl"))
    pip("--python", str(python), "install", "--constraint", str(folder / "pins.txt"), str(wheel))
    return python


def site_packages(python: Path) -> Path:
    """Where this interpreter's distributions are."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())


def megabytes(distribution: metadata.Distribution) -> float:
    """Of all files that the distribution put down."""
    paths = [Path(str(distribution.locate_file(file))) for file in distribution.files or []]
    return sum(path.stat().st_size for path in paths if path.exists()) / 1e6


def import_ms(python: Path, module: str, runs: int = 5) -> float:
    """CPU time of `import module` alone, above a bare interpreter; median of `runs`."""

    def once(code: str) -> float:
        child = subprocess.Popen([python, "-c", code])
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        return 1000 * (usage.ru_utime + usage.ru_stime)

    once(f"import {module}")
    return statistics.median(once(f"import {module}") - once("pass") for _ in range(runs))


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        python = fresh_install(Path(name))
        place = site_packages(python)
        sizes = {
            found.metadata["Name"].lower(): megabytes(found) for found in metadata.distributions(path=[str(place)])
        }
        total = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / 1e6
        print(f"{'distribution':<20}{'MB':>8}{'import ms':>11}")
        for distribution, size in sorted(sizes.items(), key=lambda item: -item[1]):
            cost = (
                f"{import_ms(python, IMPORT_NAMES.get(distribution, distribution)):.0f}"
                if distribution in DIRECT
                else ""
            )
            print(f"{distribution:<20}{size:>8.1f}{cost:>11}")
    print(f"{len(sizes)} distributions (target < {TARGET_DISTRIBUTIONS}), {total:.0f} MB (target < {TARGET_MB})")
    sys.exit(int(total >= TARGET_MB or len(sizes) >= TARGET_DISTRIBUTIONS))


if __name__ == "__main__":
    main()
