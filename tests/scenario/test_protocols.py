"""The protocols of other servers, spoken to a running one by their own clients."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
import requests
import tritonclient.http as triton
from server import ROW
from tritonclient.utils import InferenceServerException

from staytrue.store.store import open_store

NAMES = list(ROW)
ROWS = [ROW | {"size": size, "city": city} for size, city in ((1.5, "porto"), (4.25, "lisbon"))]
SPLIT = {"columns": NAMES, "index": [7, 9], "data": [list(row.values()) for row in ROWS]}
CSV = "\n".join([",".join(NAMES), *(",".join(map(str, row.values())) for row in ROWS)]) + "\n"


@pytest.fixture
def expected(up):
    """What /predict answers to these rows."""
    return up.predict(*ROWS).json["predictions"]


# -- MLflow -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": SPLIT},
        {"dataframe_records": ROWS},
        {"inputs": {name: [row[name] for row in ROWS] for name in NAMES}},
        {"inputs": ROWS},
        {"instances": ROWS},
        {"instances": ROWS, "params": {}},
    ],
    ids=["dataframe_split", "dataframe_records", "inputs by column", "inputs", "instances", "empty params"],
)
def test_mlflows_forms_are_answered_as_predict_answers(up, expected, body):
    got = up.post("/invocations", body)

    assert (got.status, got.json["predictions"], got.release) == (200, expected, up.release)
    assert len(got.json["ids"]) == 2


def test_csv_is_answered_as_predict_answers(up, expected):
    got = up.post("/invocations", CSV.encode(), headers={"content-type": "text/csv"})

    assert (got.status, got.json["predictions"]) == (200, expected)


def test_what_mlflow_is_asked_is_held_to_the_same_contract_and_logged(up):
    refused = up.post("/invocations", {"instances": [ROW | {"size": "40"}]})
    answered = up.post("/invocations", {"instances": [ROW]})

    store = open_store(up.store_path)
    logged = store.traffic().to_pandas()
    store.close()
    assert (refused.status, refused.errors["size"]["fault"]) == (422, "type")
    assert set(answered.json["ids"]) <= set(logged["id"])


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"[]", 422), (b"{}", 422), (b'{"instances": [[1]]}', 422), (b'{"instances": []}', 422),
     (b'{"instances": [{}], "inputs": []}', 422), (b'{"inputs": {"size": [1], "city": []}}', 422)],
)  # fmt: skip
def test_what_is_not_mlflows_protocol_is_told_so(up, body, status):
    got = up.post("/invocations", body)

    assert (got.status, got.headers["content-type"]) == (status, "application/problem+json")


def test_another_content_type_is_415(up):
    assert up.post("/invocations", b"x", headers={"content-type": "application/x-parquet"}).status == 415


def test_a_large_request_of_each_protocol_is_answered_as_a_large_one_of_ours(up):
    rows = [ROW | {"size": size} for size in np.linspace(1.0, 5.0, 8_000).tolist()]
    columns = {name: [row[name] for row in rows] for name in NAMES}
    kinds = {"size": "FP64", "rooms": "INT64", "city": "BYTES", "kind": "BYTES"}
    tensors = [{"name": name, "shape": [8_000], "datatype": kinds[name], "data": columns[name]} for name in NAMES]

    ours = up.predict(*rows).json["predictions"]
    mlflow = up.post("/invocations", {"inputs": columns}).json["predictions"]
    oip = up.post("/v2/models/shop/infer", {"inputs": tensors}).json["outputs"][0]["data"]

    assert len(ours) == 8_000
    assert mlflow == ours
    assert oip == ours


# -- Open Inference Protocol --------------------------------------------------------------------------------------------


@pytest.fixture
def client(up):
    """Triton's own client."""
    made = triton.InferenceServerClient(up.url.removeprefix("http://"))
    yield made
    made.close()


def tensors(*, binary):
    """The rows, one tensor a column."""
    made = []
    for name, kind, dtype in (
        ("size", "FP64", np.float64), ("rooms", "INT64", np.int64), ("city", "BYTES", object), ("kind", "BYTES", object)
    ):  # fmt: skip
        tensor = triton.InferInput(name, [2], kind)
        tensor.set_data_from_numpy(np.array([row[name] for row in ROWS], dtype), binary_data=binary)
        made.append(tensor)
    return made


@pytest.mark.parametrize("binary_in", [True, False], ids=["binary in", "JSON in"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary out", "JSON out"])
def test_tritons_client_is_answered_as_predict_answers(up, client, expected, binary_in, binary_out):
    wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("predictions", "ids")]

    got = client.infer("shop", tensors(binary=binary_in), outputs=wanted, request_id="mine")

    assert got.as_numpy("predictions").tolist() == expected
    assert len(got.as_numpy("ids")) == 2
    response = got.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("mine", "shop", up.release)


def test_a_label_may_be_sent_by_the_id_that_tritons_client_got(up, client):
    got = client.infer("shop", tensors(binary=True))
    ids = [one.decode() for one in got.as_numpy("ids")]

    assert up.post("/labels", {"labels": [{"id": ids[0], "label": 30.5}]}).status == 200

    store = open_store(up.store_path)
    logged = store.traffic().to_pandas().set_index("id")
    store.close()
    assert logged.loc[ids[0], "label"] == 30.5


def test_tritons_client_finds_the_server_and_the_model(up, client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("shop")
    assert client.is_model_ready("shop", up.release[:12])
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "staytrue"
    metadata = client.get_model_metadata("shop")
    assert metadata["versions"] == [up.release]
    assert {one["name"]: one["datatype"] for one in metadata["inputs"]}.items() >= {
        "size": "FP64", "rooms": "INT64", "city": "BYTES", "lift": "BOOL",
    }.items()  # fmt: skip
    assert metadata["outputs"][0] == {"name": "predictions", "datatype": "FP64", "shape": [-1]}


def test_tritons_client_may_ask_for_one_release(up, client, expected):
    got = client.infer("shop", tensors(binary=True), model_version=up.release[:8])

    assert got.as_numpy("predictions").tolist() == expected
    with pytest.raises(InferenceServerException, match="No releases in service begin with"):
        client.infer("shop", tensors(binary=True), model_version="0" * 64)


def test_tritons_client_is_told_which_tensor_is_wrong(client):
    wrong = triton.InferInput("size", [2], "BYTES")
    wrong.set_data_from_numpy(np.array(["1", "2"], object))
    good = tensors(binary=True)

    with pytest.raises(InferenceServerException, match="size"):
        client.infer("shop", [wrong, *good[1:]])
    with pytest.raises(InferenceServerException, match="city"):
        client.infer("shop", good[:2])


# -- plain clients ------------------------------------------------------------------------------------------------------


def test_requests_keeps_its_connection(up, expected):
    with requests.Session() as session:
        got = [session.post(f"{up.url}/predict", json={"rows": ROWS}, timeout=10) for _ in range(3)]

    assert [one.json()["predictions"] for one in got] == [expected] * 3
    assert {one.headers["staytrue-release"] for one in got} == {up.release}


def test_curl_is_answered(up, expected):
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl on PATH")

    # curl says that this is a form; what it is, is JSON.
    said = subprocess.run(
        [curl, "--silent", "--show-error", "--fail", f"{up.url}/predict", "-d", json.dumps({"rows": ROWS})],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip

    assert json.loads(said.stdout)["predictions"] == expected
