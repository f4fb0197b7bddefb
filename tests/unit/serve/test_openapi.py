"""The OpenAPI document: all routes, well formed, and its schemas exactly what the server takes."""

from __future__ import annotations

import json
import sys
import warnings
from datetime import UTC, datetime

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import openapi as schemathesis_openapi

from staytrue.errors import InvalidInput
from staytrue.kernel.signature import DEFAULTS, Feature, Signature, read_row
from staytrue.serve.openapi import document, row_schema
from staytrue.serve.problem import Problem, fault, problem_of
from staytrue.serve.protocols import mlflow, oip
from staytrue.serve.routes import ROUTES

TYPES = [
    "int64", "uint64", "float32", "float64", "bool", "string", "date", "timestamp", "timestamp[UTC]", "null",
    "list<float64>", "list<int64>[2]", "list<string>",
]  # fmt: skip
EVERYTHING = Signature(
    features=(
        *(Feature(name=f"c{i}", type=name) for i, name in enumerate(TYPES)),
        Feature(name="price", type="float64", low=1.0, high=5.5, unit_low=-550.0, unit_high=550.0),
        Feature(
            name="city",
            type="string",
            categories=frozenset({"=porto", "=lisbon"}),
            actions=DEFAULTS | {"category": "refuse"},
        ),
        Feature(
            name="id",
            type="int64",
            role="key",
            nullable=True,
            actions=DEFAULTS | {"null": "accept", "missing": "accept"},
        ),
    ),
    key="id",
    ignored=frozenset({"label"}),
    extra="refuse",
)


def made(signature=EVERYTHING, **more):
    return document("rates", signature.document() if signature else None, "1.0", **more)


def schema_of(name: str, doc=None) -> jsonschema_rs.Draft202012Validator:
    doc = doc or made()
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": doc["components"]}, validate_formats=True
    )


def row_validator(signature: Signature) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(row_schema(signature.document()), validate_formats=True)


def test_every_route_is_described_and_nothing_else():
    described = {
        (path, method.upper()) for path, entry in made()["paths"].items() for method in entry if method != "parameters"
    }

    assert described == {(route.path, method) for route in ROUTES for method in route.methods if method != "HEAD"}


@pytest.mark.parametrize("signature", [EVERYTHING, None, Signature(features=(Feature(name="x", type="float64"),))])
def test_the_document_is_well_formed_json_with_unique_operation_ids(signature):
    doc = json.loads(json.dumps(made(signature, label="float64"), allow_nan=False))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schemathesis_openapi.from_dict(doc).validate()
    for schema in doc["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"components": doc["components"], **schema})
    ids = [entry[m]["operationId"] for entry in doc["paths"].values() for m in entry if m != "parameters"]
    assert len(set(ids)) == len(ids)


def test_what_needs_a_token_says_so_and_only_where_one_is_asked_for():
    closed, opened = made()["paths"], made(needs_token=False)["paths"]

    for route in ROUTES:
        method = "post" if "POST" in route.methods else "get"
        assert closed[route.path][method]["security"] == ([] if route.scope is None else [{"bearer": []}])
        assert opened[route.path][method]["security"] == []


def test_every_problem_is_described_where_it_can_come():
    for path, entry in made()["paths"].items():
        for method, operation in entry.items():
            if method != "parameters":
                assert {"200", "400", "401", "403", "421", "503"} <= set(operation["responses"])
                assert ({"413", "415", "422"} <= set(operation["responses"])) == (method == "post")
                assert ("404" in operation["responses"]) == ("{name}" in path)


def test_examples_are_taken():
    doc = made()
    bodies = {
        path: entry["post"]["requestBody"]["content"]["application/json"]
        for path, entry in doc["paths"].items()
        if "post" in entry
    }

    for body in bodies.values():
        if "example" in body:
            schema_of(body["schema"]["$ref"].rpartition("/")[2], doc).validate(body["example"])
    (row,) = bodies["/predict"]["example"]["rows"]
    assert [f.message for f in read_row(EVERYTHING, row)[1]] == []
    assert mlflow.rows(json.dumps(bodies["/invocations"]["example"]).encode(), "", EVERYTHING.seen) == [row]


def test_the_example_of_tensors_is_taken():
    simple = Signature(
        features=(Feature(name="size", type="float64", low=2.0, high=3.0), Feature(name="city", type="string"))
    )
    example = made(simple)["paths"]["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]["application/json"][
        "example"
    ]

    assert oip.request(json.dumps(example).encode(), None, simple.seen).rows == [{"size": 2.0, "city": "text"}]


# -- a row fits the schema exactly when it is not refused ----------------------------------------------------------------

TIMES = st.datetimes(timezones=st.just(UTC) | st.none()).map(datetime.isoformat) | st.dates().map(str)
NUMBERS = (
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([2**63, -(2**63) - 1, 2**64, 10**400, 1.0])
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=3) | st.sampled_from(["porto", "lisbon"])
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=2), SCALARS, max_size=1)
ACTIONS = st.sampled_from(["refuse", "flag", "accept"])


@st.composite
def features(draw, name="x"):
    type_name = draw(st.sampled_from(TYPES))
    actions = {f: draw(ACTIONS) for f in DEFAULTS} | {"type": "refuse", "extra": "flag"}
    low = unit = categories = None
    if type_name in {"int64", "uint64", "float32", "float64"}:
        low = draw(st.none() | st.floats(0, 5))
        unit = 1000.0 if low is not None and draw(st.booleans()) else None
    if type_name == "string":
        categories = draw(
            st.none() | st.just(frozenset({"=porto", "=lisbon"})) | st.just(frozenset({"=porto", "=long…0"}))
        )
    return Feature(
        name=name, type=type_name, low=low, high=None if low is None else low + 5, unit_low=None if unit is None else -unit,
        unit_high=unit, categories=categories, actions=actions,
    )  # fmt: skip


@settings(max_examples=500)
@given(features(), VALUES | st.integers(-2000, 2000) | st.floats(-2000, 2000), ACTIONS, st.booleans())
def test_a_row_that_is_taken_fits_the_schema_and_one_that_fits_is_taken(feature, value, extra, with_extra):
    signature = Signature(features=(feature,), extra=extra, ignored=frozenset({"seen"}))
    row = {"x": value, "seen": 1, **({"more": 1} if with_extra else {})}
    if isinstance(value, str) and feature.type.startswith(("date", "timestamp")):
        return  # times have a test of their own
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return  # it counts as not finite, of which JSON Schema knows nothing

    taken = all(finding.action != "refuse" for finding in read_row(signature, row)[1])
    fits = row_validator(signature).is_valid(row)

    assert fits or not taken
    loose = feature.actions["range"] == "refuse" and feature.actions["unit"] == "flag" and feature.unit_low is not None
    hashed = feature.categories is not None and any("…" in name for name in feature.categories)
    # What a JSON schema can't say: a list in whose place a number beyond all floats stands, and those two.
    if not (loose or hashed or feature.type.startswith("list<")):
        assert taken or not fits


@pytest.mark.parametrize("type_name", ["date", "timestamp", "timestamp[UTC]"])
@given(TIMES)
def test_a_time_that_fits_is_taken(type_name, text):
    signature = Signature(features=(Feature(name="x", type=type_name),))

    if row_validator(signature).is_valid({"x": text}):
        assert read_row(signature, {"x": text})[1] == []


@pytest.mark.parametrize(
    ("type_name", "text"),
    [
        ("date", "2026-02-28"),
        ("timestamp", "2026-12-31T23:59:59.123456"),
        ("timestamp[UTC]", "2026-03-01T12:00:00+02:00"),
    ],
)
def test_a_time_as_rfc3339_has_it_fits(type_name, text):
    assert row_validator(Signature(features=(Feature(name="x", type=type_name),))).is_valid({"x": text})


@pytest.mark.parametrize(("extra", "fits"), [("refuse", False), ("flag", True), ("accept", True)])
def test_a_column_that_nobody_knows_fits_where_it_is_not_refused(extra, fits):
    signature = Signature(features=(Feature(name="x", type="null"),), extra=extra, ignored=frozenset({"seen"}))

    assert row_validator(signature).is_valid({"x": 1, "more": 1}) == fits
    assert row_validator(signature).is_valid({"x": 1, "seen": 1})


@pytest.mark.parametrize(
    ("type_name", "bounds", "inside", "outside"),
    [
        ("int64", (None, None), [-(2**63), 2**63 - 1], [-(2**63) - 1, 2**63]),
        ("uint64", (None, None), [0, 2**64 - 1], [-1, 2**64]),
        ("int64", (1.5, 5.5), [2, 5], [1, 6]),
        ("int64", (-5.5, -1.5), [-5, -2], [-6, -1]),
        ("float64", (1.5, 5.5), [1.5, 2, 5.5], [1.49, 5.51]),
    ],
)
def test_what_is_refused_by_its_size_does_not_fit(type_name, bounds, inside, outside):
    feature = Feature(name="x", type=type_name, low=bounds[0], high=bounds[1], actions=DEFAULTS | {"range": "refuse"})
    validator = row_validator(Signature(features=(feature,)))

    assert [validator.is_valid({"x": value}) for value in inside] == [True] * len(inside)
    assert [validator.is_valid({"x": value}) for value in outside] == [False] * len(outside)


@pytest.mark.parametrize("missing", ["refuse", "flag", "accept"])
def test_a_column_is_required_where_leaving_it_out_is_refused(missing):
    signature = Signature(features=(Feature(name="x", type="int64", actions=DEFAULTS | {"missing": missing}),))

    assert row_validator(signature).is_valid({}) == (missing != "refuse")


@pytest.mark.parametrize(("label", "kind"), [("int64", "INT64"), ("float32", "FP64"), ("string", "BYTES")])
def test_the_type_of_the_label_says_what_predictions_are(label, kind):
    told = document("rates", {**EVERYTHING.document(), "label": {"name": "rate", "type": label}}, "1.0")

    assert told == made(label=label)
    assert f"Predictions are {kind}." in told["paths"]["/v2/models/{name}/infer"]["post"]["description"]


def test_without_a_release_a_row_may_be_anything():
    assert schema_of("Row", made(None)).is_valid({"anything": 1})


# -- the other schemas ------------------------------------------------------------------------------------------------

ID = "01956f3e-7c00-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("label", "fits"),
    [
        ({"id": ID, "label": 1}, True),
        ({"key": 7, "label": None}, True),
        ({"key": "a", "label": [1], "at": "2026-03-01T00:00:00Z", "source": "till"}, True),
        ({"label": 1}, False),
        ({"id": ID}, False),
        ({"id": ID, "key": 1, "label": 1}, False),
        ({"id": "7", "label": 1}, False),
        ({"key": 1.5, "label": 1}, False),
        ({"key": 2**63, "label": 1}, False),
        ({"id": None, "label": 1}, False),
        ({"key": 7, "label": 1, "at": None}, False),
        ({"key": 7, "label": 1, "source": "s" * 200}, True),
        ({"key": "", "label": 1, "source": ""}, True),
        ({"key": 7, "label": 1, "source": "s" * 201}, False),
        ({"id": ID, "label": 1, "at": "yesterday"}, False),
        ({"id": ID, "label": 1, "more": 1}, False),
    ],
)
def test_a_label_is_what_labels_takes(label, fits):
    assert schema_of("LabelsRequest").is_valid({"labels": [label]}) == fits


def test_counts_have_their_limits():
    doc = made(most_rows=2, most_labels=1)
    row, label = {}, {"id": ID, "label": 1}
    doc["components"]["schemas"]["Row"] = {"type": "object"}

    assert [schema_of("PredictRequest", doc).is_valid({"rows": [row] * n}) for n in range(4)] == [
        False,
        True,
        True,
        False,
    ]
    assert [schema_of("LabelsRequest", doc).is_valid({"labels": [label] * n}) for n in range(3)] == [False, True, False]


PROBLEMS = [
    Problem(
        status=422, code="ST731", detail="x", errors=[fault("y", row=1, field="a", got=float("nan"), expected=[1])]
    ),
    Problem(status=404, code="ST733", detail="\ud800", more={"error": "\ud800"}),
    problem_of(InvalidInput("ST401", "x")),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.code)
def test_a_problem_fits_its_schema(problem):
    schema_of("Problem").validate(json.loads(problem.body()))


JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["columns", "data", "x", "index"]), inner)
    ),
    max_leaves=8,
)


@given(
    st.sampled_from(["dataframe_split", "dataframe_records", "inputs", "instances"]),
    JSON,
    st.none() | JSON,
    st.booleans(),
)
def test_an_invocation_that_gives_rows_fits_its_schema(form, value, params, with_params):
    one = Signature(features=(Feature(name="x", type="float64"),))
    body = {form: value, **({"params": params} if with_params else {})}

    got = mlflow.rows(json.dumps(body).encode(), "", one.seen)

    # The front refuses a request without rows.
    if not isinstance(got, Problem) and got:
        assert schema_of("MlflowRequest", made(one)).is_valid(body)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "name": st.sampled_from(["x", "y"]) | SCALARS,
                "shape": st.lists(st.integers(0, 2), min_size=1, max_size=2) | SCALARS,
                "datatype": st.sampled_from(["FP64", "BYTES", "BF16"]),
                "data": st.lists(SCALARS, max_size=3),
            },
            optional={"parameters": st.none() | st.dictionaries(st.text(max_size=2), SCALARS, max_size=1)},
        ),
        max_size=2,
    ),
    st.none()
    | st.lists(st.fixed_dictionaries({"name": st.sampled_from(["ids", "predictions", "z"])}), max_size=2)
    | SCALARS,
)
def test_a_request_of_tensors_that_gives_rows_fits_its_schema(tensors, outputs):
    body = {"inputs": tensors, "outputs": outputs}

    if not isinstance(oip.request(json.dumps(body).encode(), None, ["x"]), Problem):
        assert schema_of("InferRequest").is_valid(body)


def test_what_tensors_answer_fits_its_schema():
    asked = oip.Request(rows=[{}], id="a", outputs={"predictions": False, "ids": False})
    body, _ = oip.answer(asked, b"[1.5]", model="rates", version="ab", ids=[ID])

    schema_of("InferResponse").validate(json.loads(body))
