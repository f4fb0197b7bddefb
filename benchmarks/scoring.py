"""`staytrue predict` beside a loop in one process: rows per second, memory of the whole tree, and a kill -9 in the middle.

python benchmarks/scoring.py [--rows N] [--models hgb lightgbm] [--repeat N] [--folder DIR]

Both read the same Parquet file (20 columns of floats, every other one float32) with the same reader, ask the same model,
and write a Parquet file of predictions; both are timed as whole commands, imports and loading of the model included.
Whoever is on the same cores disturbs both: take the ratios. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from staytrue.store import frames
from staytrue.store.parquet import open_parquet, read_batches, write_parquet_file
from staytrue.store.store import Store

APP = """
import numpy as np
from {module} import {regressor}

from staytrue import App

app = App("scoring")


@app.data(time="at", key="id", label="y", every="1d")
def rows(since, until):
    rng = np.random.default_rng(1)
    n = 20_000
    x = {{f"x{{i:02}}": rng.normal(size=n).astype("float32" if i % 2 else "float64") for i in range(20)}}
    y = sum(x[name] * np.sin(x[name]) for name in x) + rng.normal(size=n)
    at = np.datetime64(since.replace(tzinfo=None), "us") + np.arange(n).astype("m8[s]")
    return {{"at": [t.replace(tzinfo=since.tzinfo) for t in at.tolist()], "id": np.arange(n), **x, "y": y}}


@app.train
def fit(rows):
    return {regressor}({arguments}).fit(rows.drop(columns="y"), rows["y"])


@app.predict(metric="mae")
def predict(model, rows):
    return model.predict(rows)
"""
MODELS = {
    "hgb": ("sklearn.ensemble", "HistGradientBoostingRegressor", "max_iter=100, early_stopping=False, random_state=1"),
    "lightgbm": ("lightgbm", "LGBMRegressor", "n_estimators=100, random_state=1, verbose=-1"),
}
PIECE = 250_000
FEATURES = [f"x{i:02}" for i in range(20)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None, help="default: the system's temporary one")
    parser.add_argument("--in-process", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_process:
        in_process(*arguments.in_process)
        return
    told: dict[str, float | bool] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        source = folder / "in.parquet"
        write_parquet_file(source, batches(arguments.rows))
        print(f"{arguments.rows:,} rows, {source.stat().st_size / 1e6:,.0f} MB, {os.cpu_count()} cores", flush=True)
        for name in arguments.models:
            if importlib.util.find_spec(MODELS[name][0].partition(".")[0]) is None:
                print(f"{name}: skipped, it is not installed")
                continue
            told |= {f"{name}_{what}": value for what, value in compared(name, folder, source, arguments).items()}
    print(json.dumps(told))


def batches(rows: int) -> Iterator[frames.Rows]:
    """Seeded rows, some at a time."""
    for begin in range(0, rows, PIECE):
        rng = np.random.default_rng(begin)
        n = min(PIECE, rows - begin)
        columns = {name: rng.normal(size=n).astype("f4" if i % 2 else "f8") for i, name in enumerate(FEATURES)}
        yield frames.to_rows({"id": np.arange(begin, begin + n), **columns}, doing="make rows")


def compared(name: str, folder: Path, source: Path, arguments: argparse.Namespace) -> dict[str, float | bool]:
    store = folder / f"store-{name}"
    trained(name, folder, store)
    ours, theirs = folder / f"{name}-ours.parquet", folder / f"{name}-theirs.parquet"
    ratios, cpu_ratios, peaks = [], [], []
    command = [sys.executable, "-m", "staytrue", "predict", str(source), str(ours), "--store", str(store)]
    loop = [sys.executable, __file__, "--in-process", str(store), str(source), str(theirs)]
    for _ in range(arguments.repeat):
        loop_s, loop_cpu_s, loop_peak = measured(loop)
        ours_s, ours_cpu_s, ours_peak = measured([*command, "--restart"])
        ratios.append(loop_s / ours_s)
        cpu_ratios.append(ours_cpu_s / loop_cpu_s)
        peaks.append(ours_peak)
        print(
            f"{name:<9} loop {arguments.rows / loop_s:>9,.0f} rows/s {loop_cpu_s:>6.1f} s CPU {loop_peak / 1e6:>4.0f} MB"
            f"   staytrue predict {arguments.rows / ours_s:>9,.0f} rows/s {ours_cpu_s:>6.1f} s CPU {ours_peak / 1e6:>4.0f} MB"
            f"   rate x {ratios[-1]:.2f}, CPU x {cpu_ratios[-1]:.2f}",
            flush=True,
        )
    resumed = killed_and_resumed(command, ours)
    same = same_rows(ours, theirs)
    print(f"{name:<9} killed and resumed: {resumed:.0%} were there before; the same rows: {same}", flush=True)
    return {
        "rate_vs_in_process": round(statistics.median(ratios), 3),
        "cpu_vs_in_process": round(statistics.median(cpu_ratios), 3),
        "peak_mb": round(max(peaks) / 1e6),
        "resumed_share": round(resumed, 3),
        "same_rows_after_kill": same,
    }


def trained(name: str, folder: Path, store: Path) -> None:
    module, regressor, arguments = MODELS[name]
    app = folder / f"app-{name}" / "app.py"
    app.parent.mkdir()
    app.write_text(APP.format(module=module, regressor=regressor, arguments=arguments), encoding="utf-8")
    for verb in (["fetch", "--since", "2026-01-01", "--until", "2026-01-02"], ["train"]):
        command = [sys.executable, "-m", "staytrue", *verb, "--app", str(app), "--store", str(store)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def in_process(store_path: Path, source: Path, out: Path) -> None:
    """What one would write without us."""
    store = Store(store_path)
    found = store.champion()
    assert found is not None
    model = found.model()
    file = open_parquet(source)

    def predicted() -> Iterator[frames.Rows]:
        for rows in read_batches(file, file.batch_rows()):
            answers = model.predict(frames.to_frame(rows.select(FEATURES)))
            yield frames.to_rows({"id": rows.column("id"), "prediction": answers}, doing="write")

    write_parquet_file(out, predicted())
    store.close()


def measured(command: list[str]) -> tuple[float, float, int]:
    """Seconds of the command, seconds of CPU, and the most memory (PSS) that it and all its descendants ever had."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.25):
            peak = max(peak, sum(pss(pid) for pid in tree(process.pid)))

    watching = threading.Thread(target=watch)
    watching.start()
    code = process.wait()
    seconds = time.perf_counter() - begun
    ended.set()
    watching.join()
    assert code in {0, 1}, f"exit code {code}"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


def tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = [(task / "children").read_text("ascii") for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return
    for child in " ".join(children).split():
        yield from tree(int(child))


def pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def killed_and_resumed(command: list[str], out: Path) -> float:
    """The share of the rows that was there already when the same command was started again after a kill -9."""
    folder = out.with_name(f"{out.name}.part")
    out.unlink()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and len(list(folder.glob("rows-*.parquet"))) < 5:
        threading.Event().wait(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    said = subprocess.run([*command, "--json"], check=False, capture_output=True, text=True)
    document = json.loads(said.stdout)
    return document["before"] / document["rows"]


def same_rows(ours: Path, theirs: Path) -> bool:
    """Whether both files have the same keys in the same order, and the same predictions."""
    pairs = zip(read_batches(open_parquet(ours), PIECE), read_batches(open_parquet(theirs), PIECE), strict=True)
    for one, other in pairs:
        for name in ("id", "prediction"):
            if not np.array_equal(frames.column(one, name).values, frames.column(other, name).values):
                return False
    return True


if __name__ == "__main__":
    main()
