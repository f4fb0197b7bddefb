"""docs/serving.md does what it says: its examples are run against a server, its tables held against the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
from server import serving

from staytrue import testing
from staytrue.cli import up as verb
from staytrue.kernel.signature import DEFAULTS
from staytrue.serve.limits import ServerLimits
from staytrue.serve.metrics import Metrics
from staytrue.serve.routes import ROUTES

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
APP, *PYTHON = [text for kind, text in BLOCKS if kind == "python"]
SHELL = [text for kind, text in BLOCKS if kind == "sh"]
ADDRESS = "127.0.0.1:8484"


def table(first):
    """The rows of the table whose head begins with this cell."""
    _, _, rest = PAGE.partition(f"| {first} |")
    rows = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture(scope="module")
def flats(tmp_path_factory):
    """The page's app, served."""
    place = tmp_path_factory.mktemp("page")
    (place / "app.py").write_text(APP)
    with testing.bench(place / "app.py", place) as bench:
        bench.fetch("2026-01-01", "2026-01-11")
        assert bench.train().promoted
    with serving(place / "store") as server:
        yield server


def shell(text, server):
    bash, curl = shutil.which("bash"), shutil.which("curl")
    if bash is None or curl is None:
        pytest.skip("no bash or no curl on PATH")
    asked = text.replace(ADDRESS, server.url.removeprefix("http://"))
    said = subprocess.run([bash, "-ec", asked], capture_output=True, text=True, check=True, timeout=30).stdout
    return [json.loads(one) for one in said.replace("}{", "}\n{").splitlines()]


def test_the_first_question_is_answered_as_the_page_says(flats):
    shown = json.loads(next(text for kind, text in BLOCKS if kind == "json"))

    (said,) = shell(SHELL[0], flats)

    assert said["predictions"] == pytest.approx(shown["predictions"], rel=1e-6)
    assert said.keys() == shown.keys()
    assert len(said["ids"][0]) == len(shown["ids"][0])


def test_mlflows_forms_are_answered(flats):
    split, csv = shell(SHELL[1], flats)

    assert (len(split["predictions"]), len(csv["predictions"])) == (2, 1)
    assert split["predictions"][0] == csv["predictions"][0]


def test_what_is_wrong_is_named_as_the_page_says(flats):
    (said,) = shell(SHELL[2], flats)

    assert said["status"] == 422
    assert {(one["field"], one["fault"]) for one in said["errors"]} == {("size", "missing"), ("rooms", "range")}
    messages = {one["field"]: one["message"] for one in said["errors"]}
    assert "is it 'sise', which nobody knows?" in messages["size"]
    assert "a whole number from 1 to 4" in messages["rooms"]
    assert len(SHELL) == 3


def test_the_python_examples_run(flats, monkeypatch, capsys):
    monkeypatch.setenv("STAYTRUE_STORE", str(flats.store_path))
    for text in PYTHON:
        exec(compile(text.replace(ADDRESS, flats.url.removeprefix("http://")), "docs/serving.md", "exec"), {})  # noqa: S102

    assert len(PYTHON) == 3
    said = capsys.readouterr().out
    # The labels that the page sends by id and by key are in what it reads from the store.
    assert "880.0" in said
    assert "1150.0" in said
    assert "champion porto" in said


def test_the_table_of_faults_is_what_the_code_does():
    said = {quoted(fault)[0]: action for fault, action, *_ in table("fault")}

    assert said == dict(DEFAULTS)


def test_the_table_of_routes_is_what_is_served():
    said = set()
    for paths, methods, scope, what in table("route"):
        for path in [*quoted(paths), *(path for path in quoted(what) if path.startswith("/"))]:
            said.add((path, methods, None if scope == "none" else scope))
    served = {(route.path, route.methods[0], route.scope) for route in ROUTES}

    # Of the metadata of one version the page only says that there is a version.
    assert said <= served
    assert {path for path, _, _ in served - said} == {
        "/v2/models/{name}/versions/{version}", "/v2/models/{name}/versions/{version}/ready",
    }  # fmt: skip


def test_the_table_of_limits_is_what_the_code_does():
    units = {"KiB": 2**10, "MiB": 2**20}
    said = []
    for _, value, flag, _ in table("limit"):
        number, _, unit = value.partition(" ")
        said.append((float(number.replace(",", "")) * units.get(unit, 1), quoted(flag)))
    limits = {one.name: float(getattr(ServerLimits(), one.name)) for one in fields(ServerLimits)}

    assert sorted(number for number, _ in said) == sorted([*limits.values(), 64 * 2**10])
    flags = {flag[0]: number for number, flag in said if flag}
    assert flags == {f"--{name.replace('_', '-')}": limits[name] for name in verb._LIMITS}


def test_the_table_of_metrics_names_them_all():
    said = {quoted(name)[0] for name, _ in table("metric")}
    text = Metrics().text().decode()

    assert said == {name for name in re.findall(r"^# TYPE (\S+)", text, flags=re.MULTILINE) if "staytrue_" in name}
