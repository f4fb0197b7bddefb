"""Who takes part: how each server is started, as its users would, and what its own protocol's request looks like.

A peer whose library is not in this environment may live in another one: MLFLOW_PYTHON=/path/to/python names it, and so
do BENTOML_PYTHON, LITSERVE_PYTHON, MLSERVER_PYTHON and RAY_PYTHON. Without the library the peer is skipped by name.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import Request

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
BARE = HERE / "bare"
FEATURES = [f"x{number}" for number in range(20)]
SINCE, UNTIL = "2026-01-01", "2026-01-21"
PORT, HOST = "{port}", "127.0.0.1"
UVICORN = ["-m", "uvicorn", "--app-dir", str(PEERS), "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
"""Without a log of accesses, which would cost the peers a line a request."""

Rows = list[list[float]]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One server, ready to be started.

    Attributes:
        command: `{port}` stands for the port.
        body: rows -> the body of a request, in the server's own protocol.
        answers: a decoded answer -> its predictions.
        only: the loads that it takes part in; None: all of them.
    """

    name: str
    command: list[str]
    folder: Path
    environment: dict[str, str]
    path: str
    body: Callable[[Rows], Any]
    answers: Callable[[Any], Any]
    only: frozenset[str] | None = None

    def request(self, count: int) -> Request:
        """A request with so many rows, the same ones for everybody."""
        return Request(path=self.path, body=json.dumps(self.body(drawn(count))).encode())

    def accepts(self, body: bytes) -> bool:
        """Whether the body holds one prediction."""
        answers = self.answers(json.loads(body))
        return isinstance(answers, list) and len(answers) == 1 and float(answers[0]) in {0.0, 1.0}


def drawn(count: int) -> Rows:
    """Rows to ask about, within what the training has seen: nothing to refuse or to flag."""
    draw = random.Random(0)
    return [[round(min(max(draw.gauss(0, 1), -2.5), 2.5), 4) for _ in FEATURES] for _ in range(count)]


def named(rows: Rows) -> dict[str, Any]:
    """The body that ours and FastAPI's read."""
    return {"rows": [dict(zip(FEATURES, row, strict=True)) for row in rows]}


def predictions(answer: Any) -> Any:
    """Of an answer like ours."""
    return answer["predictions"]


# ------------------------------------------------------------ ours


def staytrue(folder: Path, environment: dict[str, str], *, log: bool = True) -> Contestant | str:
    """`staytrue up` over a store with one release; `log=False`: the same app, told to keep no predictions."""
    program = str(Path(sys.executable).with_name("staytrue"))
    if subprocess.run([program, "up", "--help"], capture_output=True, check=False).returncode:
        return "this checkout has no `staytrue up`"
    folder = folder / ("staytrue" if log else "unlogged")
    folder.mkdir()
    app = (HERE / "app.py").read_text()
    (folder / "app.py").write_text(app if log else f"{app}\n\napp.policy(log=0)\n")
    store = str(folder / "store")
    environment = as_installed(environment)
    for words in (["fetch", "--since", SINCE, "--until", UNTIL], ["train", "--now"]):
        ran([program, *words, "--store", store], folder, environment)
    return Contestant(
        name="staytrue" if log else "staytrue, no log",
        command=[program, "up", "--no-loop", "--store", store, "--host", HOST, "--port", PORT],
        folder=folder,
        environment=environment,
        path="/predict",
        body=named,
        answers=predictions,
        only=None if log else frozenset({"1x64", "100x16"}),
    )


def as_installed(environment: dict[str, str]) -> dict[str, str]:
    """The environment without what only our tests need: see `bare/pyarrow.py`."""
    return environment | {"PYTHONPATH": str(BARE)}


# ------------------------------------------------------------ always there


def constant(folder: Path, environment: dict[str, str]) -> Contestant:
    """Nothing but uvicorn."""
    return Contestant(
        name="constant",
        command=[sys.executable, *UVICORN, "--host", HOST, "--port", PORT, "constant_server:app"],
        folder=folder,
        environment=environment,
        path="/predict",
        body=named,
        answers=predictions,
    )


def fastapi(folder: Path, environment: dict[str, str]) -> Contestant:
    """FastAPI on uvicorn, one worker."""
    return Contestant(
        name="fastapi",
        command=[sys.executable, *UVICORN, "--host", HOST, "--port", PORT, "--workers", "1", "fastapi_server:app"],
        folder=folder,
        environment=as_installed(environment),
        path="/predict",
        body=named,
        answers=predictions,
    )


# ------------------------------------------------------------ where installed


def mlflow(folder: Path, environment: dict[str, str]) -> Contestant | str:
    """`mlflow models serve`, one worker."""
    python = python_with("mlflow")
    if python is None:
        return missing("mlflow")
    saved = folder / "mlflow"
    environment = environment | {"MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri()}
    ran([python, str(PEERS / "mlflow_model.py"), str(saved)], folder, environment)
    return Contestant(
        name="mlflow",
        command=[
            *(python, "-m", "mlflow", "models", "serve", "--model-uri", str(saved), "--env-manager", "local"),
            *("--workers", "1", "--host", HOST, "--port", PORT),
        ],
        folder=folder,
        # It starts uvicorn by name.
        environment=environment | {"PATH": f"{Path(python).parent}{os.pathsep}{environment['PATH']}"},
        path="/invocations",
        body=lambda rows: {"inputs": rows},
        answers=predictions,
    )


def bentoml(folder: Path, environment: dict[str, str]) -> Contestant | str:
    """`bentoml serve`, one worker."""
    python = python_with("bentoml")
    if python is None:
        return missing("bentoml")
    shutil.copy(PEERS / "bentoml_server.py", folder)
    return Contestant(
        name="bentoml",
        command=[python, "-m", "bentoml", "serve", "bentoml_server:Classifier", "--host", HOST, "--port", PORT],
        folder=folder,
        environment=environment | {"BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"},
        path="/predict",
        body=lambda rows: {"rows": rows},
        answers=lambda answer: answer,
    )


def litserve(folder: Path, environment: dict[str, str]) -> Contestant | str:
    """A LitServe server, one worker."""
    python = python_with("litserve")
    if python is None:
        return missing("litserve")
    return Contestant(
        name="litserve",
        command=[python, str(PEERS / "litserve_server.py"), PORT],
        folder=folder,
        environment=environment,
        path="/predict",
        body=lambda rows: {"rows": rows},
        answers=predictions,
    )


def mlserver(folder: Path, environment: dict[str, str]) -> Contestant | str:
    """`mlserver start` with its scikit-learn runtime, in one process."""
    python = python_with("mlserver_sklearn")
    if python is None:
        return missing("mlserver_sklearn", "mlserver")
    models = folder / "mlserver"
    models.mkdir()
    parameters = {"uri": environment["MODEL"]}
    model = {"name": "lr", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": parameters}
    (models / "model-settings.json").write_text(json.dumps(model))
    settings = {"host": HOST, "parallel_workers": 0, "debug": False, "metrics_endpoint": None}
    (models / "settings.json").write_text(json.dumps(settings))
    return Contestant(
        name="mlserver",
        command=[
            *("sh", "-c", 'MLSERVER_HTTP_PORT=$1 MLSERVER_GRPC_PORT=$(($1 + 1)) exec "$2" "$3" start "$4"', "sh"),
            *(PORT, python, str(Path(python).with_name("mlserver")), str(models)),
        ],
        folder=models,
        environment=environment,
        path="/v2/models/lr/infer",
        body=lambda rows: {
            "inputs": [{"name": "rows", "shape": [len(rows), len(FEATURES)], "datatype": "FP64", "data": rows}]
        },
        answers=lambda answer: answer["outputs"][0]["data"],
    )


def ray(folder: Path, environment: dict[str, str]) -> Contestant | str:
    """Ray Serve, one replica."""
    python = python_with("ray")
    if python is None:
        return missing("ray")
    return Contestant(
        name="ray serve",
        command=[python, str(PEERS / "ray_server.py"), PORT],
        folder=folder,
        environment=environment,
        path="/",
        body=lambda rows: {"rows": rows},
        answers=predictions,
    )


WHERE_INSTALLED = (mlflow, bentoml, litserve, mlserver, ray)


def python_with(module: str) -> str | None:
    """An interpreter that has the module: the one that the environment names, or this one."""
    python = os.environ.get(f"{module.partition('_')[0].upper()}_PYTHON", sys.executable)
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        found = subprocess.run([python, "-c", look], capture_output=True, check=False).returncode == 0
    except OSError as error:
        raise SystemExit(f"{python} can't be run: {error}.") from error
    return python if found else None


def missing(module: str, peer: str | None = None) -> str:
    """Why a peer does not take part."""
    return f"no {module} here; {(peer or module).upper()}_PYTHON=/path/to/python names an interpreter that has it"


def ran(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run a step of the preparation; its output matters only when it fails."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}.\n{done.stdout}{done.stderr}")
