"""wrk as a function: how fast one server answers one request over and over. Fails on any answer but a good one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("wrk.lua")
NEEDED = "make bench-serve needs wrk (https://github.com/wg/wrk): install it with `apt-get install wrk`."


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one run of wrk saw."""

    requests: int
    rps: float
    p50_ms: float
    p99_ms: float
    max_ms: float


def ready() -> None:
    """Install wrk when that can be done without asking anybody; otherwise say what to install."""
    if shutil.which("wrk"):
        return
    if os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], check=False)  # noqa: S607  # where the system has it
        subprocess.run(["apt-get", "install", "-y", "-qq", "wrk"], check=False)  # noqa: S607
    if not shutil.which("wrk"):
        raise SystemExit(NEEDED)


def loaded(what: str, url: str, body: Path, content_type: str, *, connections: int, seconds: float) -> Load:
    """Ask `url` in a closed loop for so many seconds.

    Raises:
        SystemExit: one answer was not 200, or did not come; `what` names the server and the load.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(SCRIPT), url]
    done = subprocess.run([*command, "--", str(body), content_type], capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if done.returncode or line is None:
        raise SystemExit(f"{what}: wrk ended with {done.returncode}.\n{done.stdout}{done.stderr}")
    seen = json.loads(line.removeprefix("RESULT "))
    faults = {name: seen[name] for name in ("bad_status", "connect", "read", "write", "timeout") if seen[name]}
    if faults or not seen["requests"]:
        raise SystemExit(f"{what}: {seen['requests']} answers, and these failed: {faults}. No figure is worth that.")
    return Load(
        requests=seen["requests"],
        rps=seen["requests"] / seen["seconds"],
        p50_ms=seen["p50_ms"],
        p99_ms=seen["p99_ms"],
        max_ms=seen["max_ms"],
    )
