"""What an answer over HTTP costs, beside a constant answer and beside other servers. Take the ratios.

    make bench-serve                  BENCH_SECONDS=3 BENCH_ROUNDS=3, under six minutes
    BENCH_ONLY=staytrue,fastapi make bench-serve
    MLFLOW_PYTHON=/path/to/python make bench-serve

Every server serves the same scikit-learn logistic regression on 20 numbers (app.py), in one worker, with one native thread.
wrk asks in a closed loop: one row over 1, 16 and 64 connections, 100 rows over 16; ours and FastAPI read the same body, the
others their own protocol's. One answer that is not 200 ends the benchmark.

The servers run one at a time, in rounds, forwards and backwards by turns, so that a slow moment of the machine hits all of them;
a figure is the median over the rounds. CPU is that of the server's whole tree of processes during the load, over the answers
that wrk counted. Idle PSS is the tree at rest, after the first answer and before any load; used PSS after all loads. The first
answer is timed from the start of the command to the first prediction. `staytrue, no log` is the same app told to log nothing:
what the prediction log costs.

Read it with care. wrk shares the machine with the server: with two cores, a server of two processes competes with the client,
so requests per second flatter a server of one process; CPU a request does not depend on that. wrk's percentiles count an
answer that came late once for each request that should have been sent meanwhile. Figures of one cell that differ by less than
the spread between rounds (the last column: largest minus smallest, over the median) are a tie. Not measured: networks, TLS,
several workers, models that take longer than HTTP does.

The last line is one JSON object. A missed target is written into the table and does not change the exit code.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import servers
import wrk
from processes import Server, free_port, running
from servers import Contestant

CELLS = {"1x1": (1, 1), "1x16": (1, 16), "1x64": (1, 64), "100x16": (100, 16)}
"""Name -> rows a request, connections."""
TARGETS = {
    "rps_vs_fastapi_1x64": (">=", 10),
    "rps_vs_constant_1x64": (">=", 0.35),
    "p99_vs_fastapi_1x64": ("<=", 0.1),
    "p50_vs_fastapi_1x1": ("<=", 1),
    "rps_vs_fastapi_100x16": (">=", 3),
    "log_cpu_1row": ("<=", 1.10),
    "log_cpu_100rows": ("<=", 1.25),
    "idle_pss_mb": ("<=", 250),
    "first_answer_vs_mlflow": ("<=", 1 / 3),
}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One load on one server in one round."""

    rps: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_us: float


@dataclass(kw_only=True)
class Figures:
    """All that was seen of one server."""

    cells: dict[str, list[Seen]] = field(default_factory=dict)
    first_answer_s: list[float] = field(default_factory=list)
    first_answer_cpu_s: list[float] = field(default_factory=list)
    idle_pss_mb: list[float] = field(default_factory=list)
    used_pss_mb: list[float] = field(default_factory=list)
    processes: int = 0

    def median(self, cell: str, of: str) -> float:
        """The middle of what the rounds saw."""
        values: list[float] = [getattr(seen, of) for seen in self.cells[cell]]
        return statistics.median(values)

    def spread(self, cell: str, of: str) -> float:
        """Largest minus smallest of the rounds, as a share of the median."""
        values: list[float] = [getattr(seen, of) for seen in self.cells[cell]]
        return (max(values) - min(values)) / statistics.median(values)


def main() -> None:
    """Print the tables, then the ratios as JSON."""
    seconds, rounds = int(os.environ.get("BENCH_SECONDS", "3")), int(os.environ.get("BENCH_ROUNDS", "3"))
    wrk.ready()
    print(versions(), flush=True)
    with tempfile.TemporaryDirectory(prefix="staytrue-bench-") as temporary:
        folder = Path(temporary)
        # As on a user's machine: where bytecode may not be written, every start would compile the source again.
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment = {**kept, "OMP_NUM_THREADS": "1", "MODEL": str(folder / "model.pickle")}
        begun = time.monotonic()
        contestants = prepared(folder, environment)
        say(
            f"prepared in {time.monotonic() - begun:.0f} s; {rounds} rounds of {', '.join(c.name for c in contestants)}"
        )
        figures = {contestant.name: Figures() for contestant in contestants}
        for number in range(rounds):
            for contestant in contestants if number % 2 == 0 else reversed(contestants):
                say(f"round {number + 1}: {contestant.name}")
                measure(contestant, figures[contestant.name], folder, seconds)
    show(figures)
    ratios = ratios_of(figures)
    show_targets(ratios)
    print(json.dumps(ratios))


def versions() -> str:
    """What the figures are figures of."""
    names = ("scikit-learn", "uvicorn", "uvloop", "httptools", "fastapi", "pydantic")
    found = ", ".join(f"{name} {version(name)}" for name in names)
    return f"Python {platform.python_version()}, {found}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"


def prepared(folder: Path, environment: dict[str, str]) -> list[Contestant]:
    """Those who take part; a line for each who does not."""
    model = [sys.executable, str(servers.HERE / "model.py"), servers.SINCE, servers.UNTIL, environment["MODEL"]]
    servers.ran(model, servers.HERE, environment)
    found: list[Contestant | str] = []
    makers: dict[str, Callable[[Path, dict[str, str]], Contestant | str]] = {
        "constant": servers.constant,
        "staytrue": servers.staytrue,
        "staytrue, no log": partial(servers.staytrue, log=False),
        "fastapi": servers.fastapi,
        **{peer.__name__: peer for peer in servers.WHERE_INSTALLED},
    }
    only = [name for name in os.environ.get("BENCH_ONLY", "").split(",") if name]
    for name, make in makers.items():
        if only and name.partition(",")[0] not in only:
            continue
        found.append(made := make(folder, environment))
        if isinstance(made, str):
            print(f"{name} is skipped: {made}.", flush=True)
    return [one for one in found if isinstance(one, Contestant)]


def measure(contestant: Contestant, figures: Figures, folder: Path, seconds: int) -> None:
    """Start one server, put every load on it, stop it."""
    port = free_port()
    one = contestant.request(1)
    with running(
        contestant.name,
        [word.replace(servers.PORT, str(port)) for word in contestant.command],
        port=port,
        probe=one,
        log=folder / "output",
        folder=contestant.folder,
        environment=contestant.environment,
        accepts=contestant.accepts,
    ) as server:
        figures.first_answer_s.append(server.first_answer_s)
        figures.first_answer_cpu_s.append(server.cpu_s())
        server.settle()
        figures.idle_pss_mb.append(server.pss_mb())
        figures.processes = max(figures.processes, len(server.pids()))
        put(server, contestant, folder, "1x16", 1)  # what is slow once is not the question
        for cell in CELLS:
            if contestant.only is None or cell in contestant.only:
                figures.cells.setdefault(cell, []).append(put(server, contestant, folder, cell, seconds))
        figures.used_pss_mb.append(server.pss_mb())


def put(server: Server, contestant: Contestant, folder: Path, cell: str, seconds: int) -> Seen:
    """One load."""
    rows, connections = CELLS[cell]
    request = contestant.request(rows)
    body = folder / "body"
    body.write_bytes(request.body)
    before = server.cpu_s()
    load = wrk.loaded(
        f"{server.name}, {cell}",
        f"http://127.0.0.1:{server.port}{request.path}",
        body,
        request.content_type,
        connections=connections,
        seconds=seconds,
    )
    cpu_us = (server.cpu_s() - before) / load.requests * 1e6
    return Seen(rps=load.rps, p50_ms=load.p50_ms, p99_ms=load.p99_ms, max_ms=load.max_ms, cpu_us=cpu_us)


def ratios_of(figures: dict[str, Figures]) -> dict[str, object]:
    """What the last line says; a ratio needs both of its servers."""
    answer: dict[str, object] = {}

    def ratio(name: str, cell: str, of: str, mine: str, other: str) -> None:
        if mine in figures and other in figures:
            answer[name] = round(figures[mine].median(cell, of) / figures[other].median(cell, of), 4)

    ratio("rps_vs_fastapi_1x64", "1x64", "rps", "staytrue", "fastapi")
    ratio("rps_vs_constant_1x64", "1x64", "rps", "staytrue", "constant")
    ratio("p99_vs_fastapi_1x64", "1x64", "p99_ms", "staytrue", "fastapi")
    ratio("p50_vs_fastapi_1x1", "1x1", "p50_ms", "staytrue", "fastapi")
    ratio("rps_vs_fastapi_100x16", "100x16", "rps", "staytrue", "fastapi")
    ratio("log_cpu_1row", "1x64", "cpu_us", "staytrue", "staytrue, no log")
    ratio("log_cpu_100rows", "100x16", "cpu_us", "staytrue", "staytrue, no log")
    if ours := figures.get("staytrue"):
        answer["cpu_us_per_request"] = round(ours.median("1x64", "cpu_us"), 1)
        answer["idle_pss_mb"] = round(statistics.median(ours.idle_pss_mb), 1)
        answer["used_pss_mb"] = round(statistics.median(ours.used_pss_mb), 1)
        if theirs := figures.get("mlflow"):
            mine, other = statistics.median(ours.first_answer_s), statistics.median(theirs.first_answer_s)
            answer["first_answer_vs_mlflow"] = round(mine / other, 3)
    answer["s_to_first_answer"] = {
        name: round(statistics.median(one.first_answer_s), 2) for name, one in figures.items()
    }
    return answer


def show(figures: dict[str, Figures]) -> None:
    """The two tables of figures."""
    heads = ("load", "req/s", "p50 ms", "p99 ms", "max ms", "CPU us/req", "spread")
    print(f"\n{'server':<17}{''.join(f'{head:>11}' for head in heads)}")
    for cell in CELLS:
        for name, one in figures.items():
            if cell in one.cells:
                times = "".join(f"{one.median(cell, of):>11.2f}" for of in ("p50_ms", "p99_ms", "max_ms"))
                rps, cpu, spread = one.median(cell, "rps"), one.median(cell, "cpu_us"), one.spread(cell, "rps")
                print(f"{name:<17}{cell:>11}{rps:>11,.0f}{times}{cpu:>11.0f}{spread:>11.0%}")
    columns = ("first answer s", "CPU s to it", "idle PSS MB", "used PSS MB", "processes")
    print(f"\n{'server':<17}{''.join(f'{column:>16}' for column in columns)}")
    for name, one in figures.items():
        values = (one.first_answer_s, one.first_answer_cpu_s, one.idle_pss_mb, one.used_pss_mb)
        first, cpu, idle, used = map(statistics.median, values)
        print(f"{name:<17}{first:>16.2f}{cpu:>16.2f}{idle:>16.0f}{used:>16.0f}{one.processes:>16}")


def show_targets(ratios: dict[str, object]) -> None:
    """What was asked for beside what was seen."""
    print(f"\n{'target':<26}{'wanted':>10}{'seen':>10}")
    for name, (sense, wanted) in TARGETS.items():
        seen = ratios.get(name)
        if not isinstance(seen, float | int):
            print(f"{name:<26}{sense:>4}{wanted:>6.3g}{'-':>10}  not measured")
            continue
        met = seen >= wanted if sense == ">=" else seen <= wanted
        print(f"{name:<26}{sense:>4}{wanted:>6.3g}{seen:>10.3g}{'' if met else '  missed'}")
    print()


def say(sentence: str) -> None:
    """Progress, beside the figures."""
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.platform != "linux":
        raise SystemExit("make bench-serve reads /proc to know what a server costs: it needs Linux.")
    main()
