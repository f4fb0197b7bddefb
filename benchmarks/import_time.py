"""What starting costs: CPU time of `import staytrue` and `staytrue --help` above a bare interpreter.

CPU time (user + system) of the whole child process, not wall time: it is the same on a busy machine. The three commands
take turns, so that a slow moment hits all of them. Exits with 1 above a target.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("staytrue"))
BARE = "python -c pass"
COMMANDS = {
    BARE: [sys.executable, "-c", "pass"],
    "import staytrue": [sys.executable, "-c", "import staytrue"],
    "staytrue --help": [COMMAND, "--help"],
}
# As on a user's machine: where bytecode may not be written, every start would compile the source again.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
TARGET_MS = {"import staytrue": 60.0, "staytrue --help": 250.0}


def cpu_ms(command: list[str]) -> float:
    """User plus system time of one run, its children included."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)  # reaped here; Popen must not wait for it again
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    return 1000 * (usage.ru_utime + usage.ru_stime)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    runs = parser.parse_args().runs
    for command in COMMANDS.values():
        cpu_ms(command)  # the first run also compiles what pip did not
    seen: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            seen[name].append(cpu_ms(command))
    bare = statistics.median(seen[BARE])
    late = False
    print(f"{'median of ' + str(runs):<20}{'CPU ms':>8}{'more':>8}{'target':>8}")
    for name, values in seen.items():
        more, target = statistics.median(values) - bare, TARGET_MS.get(name)
        late |= target is not None and more > target
        print(
            f"{name:<20}{statistics.median(values):>8.0f}{more:>8.0f}{'' if target is None else f'<= {target:.0f}':>8}"
        )
    sys.exit(int(late))


if __name__ == "__main__":
    main()
