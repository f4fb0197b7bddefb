"""The Open Inference Protocol: rows out of tensors, tensors out of answers, as Triton's own client writes and reads them."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from staytrue.serve.problem import Problem
from staytrue.serve.protocols import oip
from staytrue.serve.protocols.oip import Request

FEATURES = ["x", "y"]


def tensor(name="x", shape=(2,), datatype="FP64", data=(1.5, 2.5), **more):
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": data, **more}


def read(*tensors, features=FEATURES, types=None, **more):
    return oip.request(json.dumps({"inputs": list(tensors), **more}).encode(), None, features, types or {})


def problem(got) -> Problem:
    assert isinstance(got, Problem)
    assert 400 <= got.status < 500
    return got


# -- tensors -> rows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "words", "numbers"),
    [((2,), ["a", "b"], [1, 2]), ((2, 1), ["a", "b"], [1, 2]), ((2, 1), [["a"], ["b"]], [[1], [2]])],
)
def test_a_tensor_for_each_column_gives_rows(shape, words, numbers):
    got = read(tensor("y", shape, "BYTES", words), tensor("x", shape, "INT64", numbers))

    assert got.rows == [{"y": "a", "x": 1}, {"y": "b", "x": 2}]


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]]])
def test_one_tensor_holds_all_features_in_their_order(data):
    assert read(tensor("input-0", (2, 2), "FP32", data)).rows == [{"x": 1.0, "y": 2.0}, {"x": 3.0, "y": 4.0}]


def test_one_feature_is_a_matrix_of_one_column_under_any_name():
    assert read(tensor("input-0", (2, 1)), features=["x"]).rows == [{"x": 1.5}, {"x": 2.5}]


def test_a_column_of_lists_gets_lists():
    got = read(tensor("x", (2, 2), "FP32", [1, 2, 3, 4]), tensor("y", (2,)))
    one = read(tensor("x", (2, 1)), types={"x": "list<float64>[1]"})

    assert got.rows == [{"x": [1.0, 2.0], "y": 1.5}, {"x": [3.0, 4.0], "y": 2.5}]
    assert one.rows == [{"x": [1.5]}, {"x": [2.5]}]


def test_a_null_is_a_missing_value_and_no_rows_are_no_rows():
    assert read(tensor(data=[None, 1])).rows == [{"x": None}, {"x": 1.0}]
    assert read(tensor(shape=(0,), data=[])).rows == []
    assert read(tensor("m", (0, 2), data=[])).rows == []


@pytest.mark.parametrize(
    ("datatype", "lowest", "highest"),
    [
        *((f"INT{bits}", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)),
        *((f"UINT{bits}", 0, 2**bits - 1) for bits in (8, 16, 32, 64)),
    ],
)
def test_a_whole_number_has_to_fit_its_datatype(datatype, lowest, highest):
    assert read(tensor(datatype=datatype, data=[lowest, highest])).rows == [{"x": lowest}, {"x": highest}]
    for wrong in (lowest - 1, highest + 1):
        assert problem(read(tensor(datatype=datatype, data=[0, wrong]))).errors[0]["row"] == 1


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT64", 1.5), ("INT64", "1"), ("INT64", True), ("FP64", "1"), ("FP64", True), ("BOOL", 1), ("BOOL", "true"),
        ("BYTES", 1), ("BYTES", True), ("FP64", {}), ("BYTES", {}),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_named_with_its_row(datatype, value):
    first = {"BOOL": True, "BYTES": "a"}.get(datatype, 1)

    found = problem(read(tensor("temp", datatype=datatype, data=[first, value])))

    assert (found.status, found.code) == (422, "ST732")
    assert (found.errors[0]["field"], found.errors[0]["row"]) == ("temp", 1)
    assert "'temp'" in found.detail


@pytest.mark.parametrize(
    ("given_tensor", "word"),
    [
        ({}, "no name"),
        (1, "no name"),
        (tensor(name=1), "no name"),
        (tensor(shape=()), "shape"),
        (tensor(shape=(1, 1, 2)), "shape"),
        (tensor(shape=(-1,)), "shape"),
        (tensor(shape=(2.0,)), "shape"),
        (tensor(shape=(True, 2)), "shape"),
        (tensor(shape=(2**32,)), "shape"),
        ({"name": "x", "datatype": "FP64", "data": []}, "shape"),
        (tensor(shape=(60_000, 0), data=[]), "empty"),
        (tensor(shape=(3,)), "says 3"),
        (tensor(shape=(2, 2), data=[[1, 2]]), "nested"),
        (tensor(shape=(2, 2), data=[[1, 2], [3]]), "nested"),
        (tensor(shape=(2, 2), data=[[1, 2], 3]), "nested"),
        (tensor(shape=(2,), data=[[1], [2]]), "nested"),
        (tensor(shape=(1, 2), data=[[[1], [2]]]), "FP64"),
        (tensor(datatype="BF16"), "BF16"),
        (tensor(datatype=None), "datatype"),
        (tensor(datatype=["FP64"]), "datatype"),
        (tensor(data=None), "data"),
        (tensor(data="ab"), "data"),
        (tensor(parameters=[]), "parameters"),
        (tensor(parameters={"shared_memory_region": "/etc/passwd"}), "shared memory"),
        (tensor("m", (1, 3), data=[1, 2, 3]), "rows of 3"),
    ],
)
def test_a_tensor_that_is_none_is_a_problem_that_says_why(given_tensor, word):
    assert word in problem(read(given_tensor)).detail


def test_tensors_that_do_not_go_together_are_named():
    assert "'y' has 1 rows" in problem(read(tensor("x"), tensor("y", (1,), data=[1]))).detail
    assert "Two tensors" in problem(read(tensor("x"), tensor("x"))).detail
    assert "empty" in problem(read()).detail


def test_a_row_of_one_byte_is_counted_before_it_is_made():
    found = problem(
        oip.request(
            b'{"inputs": [{"name": "x", "shape": [9], "datatype": "BOOL", "data": []}]}', None, ["x"], most_rows=8
        )
    )

    assert (found.status, found.code) == (422, "ST736")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"inputs": 1}', b"{}", b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_request_is_a_problem(body):
    assert problem(oip.request(body, None, FEATURES)).code in {"ST730", "ST731"}


def test_the_callers_id_has_to_be_a_text():
    assert read(tensor(), id="a").id == "a"
    assert "'id'" in problem(read(tensor(), id=7)).detail


@pytest.mark.parametrize(
    ("more", "outputs"),
    [
        ({}, {"predictions": False, "ids": False}),
        ({"outputs": []}, {"predictions": False, "ids": False}),
        ({"parameters": {"binary_data_output": True, "else": 1}}, {"predictions": True, "ids": True}),
        ({"outputs": [{"name": "predictions"}]}, {"predictions": False}),
        ({"outputs": [{"name": "ids", "parameters": {"binary_data": True}}]}, {"ids": True}),
    ],
)
def test_outputs_are_those_asked_for(more, outputs):
    assert read(tensor(), **more).outputs == outputs


@pytest.mark.parametrize(
    "outputs",
    [
        1, [1], [{}], [{"name": "other"}], [{"name": []}], [{"name": "ids", "parameters": 1}],
        [{"name": "ids", "parameters": {"classification": 2}}], [{"name": "ids", "parameters": {"shared_memory_region": "x"}}],
    ],
)  # fmt: skip
def test_an_output_that_is_none_is_a_problem(outputs):
    problem(read(tensor(), outputs=outputs))


# -- as Triton's own client has it --------------------------------------------------------------------------------------

ARRAYS = {
    "BOOL": np.array([True, False]),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([0, 65535], np.uint16),
    "UINT32": np.array([0, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 2**64 - 1], np.uint64),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-(2**15), 2**15 - 1], np.int16),
    "INT32": np.array([-(2**31), 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "FP16": np.array([0.5, -2], np.float16),
    "FP32": np.array([0.1, 3e38], np.float32),
    "FP64": np.array([0.1, 1e308], np.float64),
    "BYTES": np.array(["é", ""], np.object_),
}


def sent(*inputs, outputs=None, request_id="") -> tuple[bytes, bytes | None]:
    body, size = InferenceServerClient.generate_request_body(list(inputs), outputs=outputs, request_id=request_id)
    return body, None if size is None else str(size).encode()


def infer_input(name, array, datatype, *, binary=True):
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


# Its client sends FP16 as binary only.
@pytest.mark.parametrize(
    ("datatype", "binary"), [*((d, True) for d in ARRAYS), *((d, False) for d in ARRAYS if d != "FP16")]
)
def test_what_tritons_client_sends_is_read_exactly(datatype, binary):
    array = ARRAYS[datatype]

    got = oip.request(*sent(infer_input("x", array, datatype, binary=binary)), FEATURES)

    assert [row["x"] for row in got.rows] == array.tolist()


def test_a_binary_matrix_and_binary_columns_are_cut_where_they_end():
    matrix = oip.request(*sent(infer_input("m", np.array([[1, 2], [3, 4]], np.float32), "FP32")), FEATURES)
    columns = oip.request(
        *sent(
            infer_input("y", np.array(["a", "bc"], np.object_), "BYTES"), infer_input("x", np.array([1, 2]), "INT64")
        ),
        FEATURES,
    )

    assert matrix.rows == [{"x": 1.0, "y": 2.0}, {"x": 3.0, "y": 4.0}]
    assert columns.rows == [{"y": "a", "x": 1}, {"y": "bc", "x": 2}]


def reply(asked, answers, *, label=None, ids=("i", "j")):
    body, headers = oip.answer(
        asked, json.dumps(answers).encode(), model="rates", version="ab", ids=list(ids), label=label
    )
    length = dict(headers).get(b"inference-header-content-length")
    return InferResult.from_response_body(body, header_length=None if length is None else int(length))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("answers", "label", "dtype", "expected"),
    [
        ([1.5, 2], None, np.float64, [1.5, 2.0]),
        ([1, 2], None, np.int64, [1, 2]),
        ([1, 2], "float32", np.float64, [1, 2]),
        ([1, 2], "uint64", np.uint64, [1, 2]),
        ([1.5, 2], "int64", np.float64, [1.5, 2]),
        ([-1, 2**63], None, np.float64, [-1, 2.0**63]),
        ([1, 2**64 - 1], None, np.uint64, [1, 2**64 - 1]),
        ([True, False], "bool", np.bool_, [True, False]),
        ([[0.1, 0.9], [0.2, 0.8]], None, np.float64, [[0.1, 0.9], [0.2, 0.8]]),
        (["a", "é"], None, np.object_, ["a", "é"]),
        ([{"a": 1}, None], None, np.object_, ['{"a":1}', "null"]),
        ([[1, 2], [3]], None, np.object_, ["[1,2]", "[3]"]),
        ([[], []], None, np.object_, ["[]", "[]"]),
        ([True, 1], None, np.object_, ["true", "1"]),
    ],
)
def test_what_is_answered_is_read_by_tritons_client(answers, label, dtype, expected, binary):
    got = reply(Request(rows=[], id=None, outputs={"predictions": binary, "ids": binary}), answers, label=label)

    predictions, ids = got.as_numpy("predictions"), got.as_numpy("ids")
    assert predictions.dtype == dtype
    assert [v.decode() if isinstance(v, bytes) else v for v in predictions.tolist()] == expected
    assert [v.decode() if isinstance(v, bytes) else v for v in ids.tolist()] == ["i", "j"]


@pytest.mark.parametrize("binary", [True, False])
def test_a_null_among_numbers_is_nan_and_no_predictions_are_an_empty_tensor(binary):
    asked = Request(rows=[], id=None, outputs={"predictions": binary})

    assert math.isnan(reply(asked, [1, None]).as_numpy("predictions")[1])
    assert reply(asked, [], ids=[]).as_numpy("predictions").shape == (0,)


@pytest.mark.parametrize(
    "outputs", [None, [InferRequestedOutput("predictions")], [InferRequestedOutput("ids", binary_data=False)]]
)
def test_a_whole_exchange_gives_the_outputs_that_were_asked_for_with_the_callers_id(outputs):
    asked = oip.request(*sent(infer_input("x", np.array([1, 2]), "INT64"), outputs=outputs, request_id="abc"), FEATURES)

    got = reply(asked, [1.5, 2.5])

    names = [output["name"] for output in got.get_response()["outputs"]]
    assert names == (["predictions", "ids"] if outputs is None else [outputs[0].name()])
    assert (got.get_response()["id"], got.get_response()["model_version"]) == ("abc", "ab")
    assert got.as_numpy(names[0]) is not None


def binary(*sizes, rest=b"", datatype="FP64", shape=(1,), header=None):
    inputs = [
        {"name": f"x{i}", "shape": list(shape), "datatype": datatype, "parameters": {"binary_data_size": size}}
        for i, size in enumerate(sizes)
    ]
    text = json.dumps({"inputs": inputs}).encode()
    return oip.request(text + rest, str(len(text)).encode() if header is None else header, FEATURES)


def test_a_binary_body_that_does_not_add_up_is_a_problem():
    one = struct.pack("<d", 1.5)
    assert binary(8, rest=one).rows == [{"x0": 1.5}]

    for wrong in (
        binary(8), binary(8, rest=one + b"x"), binary(7, rest=one[:7]), binary(16, rest=one * 2), binary(-8, rest=one),
        binary(True, rest=one), binary("8", rest=one), binary(2**40, rest=one), binary(8, 8, rest=one),
        *(binary(8, rest=one, header=header) for header in (b"", b"-1", b"x", b"999999", b"9" * 5000, b"1.5", b"\xb2", b"3")),
    ):  # fmt: skip
        assert problem(wrong).status in {400, 422}


@pytest.mark.parametrize("texts", [b"\x01", b"\x01\0\0\0", b"\xff\xff\xff\xffa", b"\x01\0\0\0\xff", b"\x01\0\0\0a\x05"])
def test_binary_texts_that_are_cut_or_no_utf8_are_a_problem(texts):
    assert "'x0'" in problem(binary(len(texts), rest=texts, datatype="BYTES")).detail


# -- models and metadata ----------------------------------------------------------------------------------------------

RELEASES = ["0123456789abcdef", "0123456789ffffff", "abcdef0123456789"]


@pytest.mark.parametrize(("version", "found"), [(None, None), ("abcdef01", RELEASES[2]), (RELEASES[0], RELEASES[0])])
def test_a_version_is_a_release_or_its_beginning(version, found):
    assert oip.release_of("rates", version, app="rates", releases=RELEASES) == found


@pytest.mark.parametrize("version", ["", "1", "abcdef0", "0123456789", "ABCDEF01", "f" * 64, "abcdef01234567890"])
def test_a_version_that_is_none_or_several_is_not_found(version):
    assert problem(oip.release_of("rates", version, app="rates", releases=RELEASES)).status == 404


def test_another_model_is_not_found():
    assert problem(oip.release_of("Rates", None, app="rates", releases=RELEASES)).code == "ST733"


def test_the_metadata_names_the_tensors_that_a_request_may_send():
    columns = [
        {"name": "size", "type": "float64", "required": True},
        {"name": "city", "type": "string", "required": True},
        {"name": "words", "type": "list<float32>", "required": True},
        {"name": "id", "type": "int64", "required": False},
    ]

    metadata = oip.model_metadata("rates", ["ab"], columns, "float32")

    assert metadata["inputs"] == [
        {"name": "size", "datatype": "FP64", "shape": [-1]},
        {"name": "city", "datatype": "BYTES", "shape": [-1]},
        {"name": "words", "datatype": "FP32", "shape": [-1, -1]},
        {"name": "id", "datatype": "INT64", "shape": [-1], "parameters": {"optional": True}},
    ]
    assert metadata["outputs"][0] == {"name": "predictions", "datatype": "FP64", "shape": [-1]}
    assert oip.server_metadata("1.0")["extensions"] == ["binary_tensor_data"]


def test_a_problem_has_the_member_that_these_clients_read():
    assert json.loads(oip.error(Problem(status=404, code="ST733", detail="No model.")).body())["error"] == "No model."


# -- anything at all --------------------------------------------------------------------------------------------------

FINITE = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=3)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner), max_leaves=8
)
NAMES = st.sampled_from(["x", "y", "m"])
SHAPES = st.lists(st.integers(0, 3), min_size=1, max_size=2)
KINDS = st.sampled_from([*ARRAYS, "BF16"])
TENSORS = st.fixed_dictionaries(
    {
        "name": NAMES | JSON,
        "shape": SHAPES | JSON,
        "datatype": KINDS | JSON,
        "data": st.lists(SCALARS, max_size=6) | JSON,
    },
    optional={"parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 20) | JSON}) | JSON},
)


def is_request_or_problem(got) -> bool:
    if isinstance(got, Problem):
        return 400 <= got.status < 500 and bool(got.body())
    body, _ = oip.answer(
        got, json.dumps([1.5] * len(got.rows)).encode(), model="m", version="v", ids=["i"] * len(got.rows)
    )
    return all(isinstance(row, dict) for row in got.rows) and bool(body)


@given(st.lists(TENSORS, max_size=3), st.binary(max_size=20), st.booleans(), JSON)
def test_any_tensors_give_a_request_or_a_problem(tensors, rest, with_length, outputs):
    text = json.dumps({"inputs": tensors, "outputs": outputs}).encode()

    got = oip.request(text + rest, str(len(text)).encode() if with_length else None, FEATURES)

    assert is_request_or_problem(got)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()), st.none() | st.binary(max_size=4))
def test_any_body_gives_a_request_or_a_problem(body, length):
    assert is_request_or_problem(oip.request(body, length, FEATURES))


@given(
    st.lists(JSON, max_size=5),
    st.booleans(),
    st.sampled_from([None, "float64", "int64", "uint64", "bool", "string", "date"]),
)
def test_any_answers_are_read_by_tritons_client(answers, as_binary, label):
    got = reply(Request(rows=[], id=None, outputs={"predictions": as_binary}), answers, label=label, ids=[])

    assert len(got.as_numpy("predictions")) == len(answers)
