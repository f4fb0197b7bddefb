"""OpenAPI: the document of all routes, its rows compiled from the signature of the release that answers.

A schema never refuses what the server takes (times are written as RFC 3339 has them). For `/predict` and `/labels` the
reverse holds too: what fits the schema is taken. The protocols of others have rules that a schema can't say (a tensor
has as many values as its shape says), so there the server may still answer 422.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from staytrue.kernel.contract import list_item
from staytrue.serve.protocols.oip import IDS, PREDICTIONS, datatype_of, model_metadata
from staytrue.serve.routes import ROUTES, Route

__all__ = ["LONGEST_SOURCE", "document", "row_schema"]

LONGEST_SOURCE: Final = 200

_INT64: Final = (-(2**63), 2**63 - 1)
_JSON: Final = "application/json"
_PROBLEM: Final = "application/problem+json"
_HEX64: Final = "^[0-9a-f]{64}$"
_Document = dict[str, Any]


def document(
    app: str,
    signature: Mapping[str, Any] | None,
    version: str,
    *,
    label: str | None = None,
    release: str | None = None,
    example: Mapping[str, Any] | None = None,
    needs_token: bool = True,
    most_rows: int = 100_000,
    most_labels: int = 100_000,
) -> _Document:
    """The OpenAPI 3.1 document of a server.

    Args:
        signature: as `Signature.document()` gives it, perhaps with a `label` of a `type`; None when nothing answers yet:
            rows may then be anything.
        version: of staytrue.
        label: the type of the label, where the signature does not tell it.
        release: one that answers, as an example.
        example: a row, as an example; left out, one is made of the signature.
        needs_token: whether the gate asks for one.
        most_rows: of one request; most_labels: likewise.

    Example:
        >>> made = document("rates", None, "1.0")
        >>> made["openapi"], sorted(made["paths"])[:3]
        ('3.1.0', ['/healthz', '/invocations', '/labels'])
    """
    columns = signature["columns"] if signature else []
    if label is None and signature and signature.get("label"):
        label = signature["label"]["type"]
    row = dict(example) if example else _example(columns)
    operations = {
        "/predict": _predict(row, most_rows),
        "/labels": _labels(most_labels),
        "/invocations": _invocations(columns, row, most_rows),
        "/healthz": _read("healthz", "Does the process live?", _ref("Health")),
        "/readyz": _read("readyz", "May requests be sent here?", _ref("Health")),
        "/metrics": _text("metrics", "What the server counts, in Prometheus' format."),
        "/openapi.json": _read("openapi", "This document.", {"type": "object"}),
        "/v2": _read("serverMetadata", "The server, in the Open Inference Protocol.", {"type": "object"}),
        "/v2/health/live": _read("serverLive", "Does the process live?", {"type": "object"}),
        "/v2/health/ready": _read("serverReady", "May requests be sent here?", {"type": "object"}),
        "/v2/models/{name}": _read("modelMetadata", "The model's tensors.", _ref("ModelMetadata")),
        "/v2/models/{name}/ready": _read("modelReady", "Does the model answer?", {"type": "object"}),
        "/v2/models/{name}/infer": _infer(app, columns, row, label),
    }
    paths = {}
    for route in ROUTES:
        at_version = "/versions/{version}" in route.path
        made = operations[route.path.replace("/versions/{version}", "")]
        paths[route.path] = _with_all(made, route, app, release, needs_token=needs_token, at_version=at_version)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": app,
            "version": version,
            "description": "Predictions of one app by staytrue. Every answer names its release in the header "
            "`staytrue-release`; a W3C `traceparent` is kept. Errors are RFC 9457 problems with a stable code.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(app, signature, columns, label, most_rows=most_rows, most_labels=most_labels),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`staytrue token new NAME --scope ...` makes a token.",
                }
            },
        },
    }


# -- rows ---------------------------------------------------------------------------------------------------------------


def row_schema(signature: Mapping[str, Any] | None) -> _Document:
    """The JSON schema of a row.

    Example:
        >>> from staytrue.kernel.signature import Feature, Signature
        >>> made = Signature(features=(Feature(name="size", type="int64"),), extra="refuse")
        >>> schema = row_schema(made.document())
        >>> schema["properties"]["size"]["type"], schema["required"], schema["additionalProperties"]
        ('integer', ['size'], False)
    """
    if signature is None:
        return {"type": "object"}
    columns = signature["columns"]
    properties = {column["name"]: _column(column) for column in columns}
    if signature["extra"] == "refuse":
        properties = {**{name: {"description": "Not looked at."} for name in signature["ignored"]}, **properties}
    return {
        "type": "object",
        "properties": properties,
        "required": [column["name"] for column in columns if column["required"]],
        "additionalProperties": signature["extra"] != "refuse",
    }


def _column(column: Mapping[str, Any]) -> _Document:
    """The schema of a column's values: what its actions refuse, and no more."""
    schema = _type(column["type"])
    actions = column["actions"]
    low, high = _bounds(column)
    if "minimum" in schema and low is not None and high is not None:
        whole = schema["type"] == "integer"
        schema["minimum"] = max(schema["minimum"], _inner(low, whole=whole, up=True))
        schema["maximum"] = min(schema["maximum"], _inner(high, whole=whole, up=False))
    elif "minimum" in schema and schema["type"] == "number" and actions["nonfinite"] != "refuse":
        schema = {"type": "number"}
    names = column["categories"]
    # A long text is known by a hash, of which no list can be made.
    if names is not None and actions["category"] == "refuse" and not any("…" in name for name in names):
        schema["enum"] = [name[1:] for name in names]
    if "type" in schema and actions["null"] != "refuse":
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
    said = _said(column)
    return {**schema, "description": said} if said else schema


def _bounds(column: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Beyond which a value is refused, if any is."""
    actions = column["actions"]
    if actions["range"] == "refuse":
        # Beyond the unit's bounds it is the unit's action that counts.
        let_through = actions["unit"] == "flag" and column["unit_low"] is not None
        return (None, None) if let_through else (column["low"], column["high"])
    return (column["unit_low"], column["unit_high"]) if actions["unit"] == "refuse" else (None, None)


def _inner(bound: float, *, whole: bool, up: bool) -> float:
    """The bound as a number of the column's kind, inwards."""
    if not whole:
        return bound
    nearest = int(bound)
    return nearest + (up and nearest < bound) - (not up and nearest > bound)


def _said(column: Mapping[str, Any]) -> str:
    """What a schema can't say about a column."""
    said = []
    if column["role"] != "feature":
        said.append(f"The {column['role']} of the row; the model does not see it.")
    if column["low"] is not None and column["role"] == "feature":
        said.append(f"Training saw {column['low']:g} to {column['high']:g}.")
    if column["categories"] is not None:
        few = [name[1:] for name in column["categories"][:20]]
        more = ", ..." if len(column["categories"]) > len(few) else ""
        said.append(f"Training saw {', '.join(few)}{more}.")
    return " ".join(said)


# RFC 3339 has no name for a time without a zone. A pattern can't tell leap years: it has no 29th of February.
_WITHOUT_ZONE: Final = (
    "^[1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    "T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?$"
)


def _type(type_name: str) -> _Document:
    """The schema of a type of `store/frames.py`."""
    if type_name.startswith("list<"):
        item, size = list_item(type_name)
        inner = _type(item)
        if size is not None:
            return {"type": "array", "items": inner, "minItems": size, "maxItems": size}
        return {"type": "array", "items": {**inner, "type": [inner["type"], "null"]} if "type" in inner else inner}
    largest = sys.float_info.max
    types: Mapping[str, _Document] = {
        "int64": {"type": "integer", "format": "int64", "minimum": _INT64[0], "maximum": _INT64[1]},
        "uint64": {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
        "float32": {"type": "number", "format": "float", "minimum": -largest, "maximum": largest},
        "float64": {"type": "number", "format": "double", "minimum": -largest, "maximum": largest},
        "bool": {"type": "boolean"},
        "string": {"type": "string"},
        "date": {"type": "string", "format": "date"},
        "timestamp[UTC]": {"type": "string", "format": "date-time"},
        "timestamp": {"type": "string", "pattern": _WITHOUT_ZONE},
    }
    return dict(types.get(type_name, {}))


_EXAMPLES: Final[Mapping[str, Any]] = {
    "int64": 1,
    "uint64": 1,
    "float32": 1.5,
    "float64": 1.5,
    "bool": True,
    "string": "text",
    "date": "2026-03-01",
    "timestamp[UTC]": "2026-03-01T12:00:00Z",
    "timestamp": "2026-03-01T12:00:00",
}


def _example(columns: Sequence[Mapping[str, Any]]) -> _Document:
    """A row that is like training."""
    return {column["name"]: _example_value(column) for column in columns if column["required"]}


def _example_value(column: Mapping[str, Any]) -> Any:
    type_name = column["type"]
    if type_name.startswith("list<"):
        item, size = list_item(type_name)
        return [_EXAMPLES.get(item)] * (1 if size is None else size)
    spelled_out = [name[1:] for name in column["categories"] or () if "…" not in name]
    if spelled_out:
        return spelled_out[0]
    if column["low"] is not None and "int" in type_name:
        return int(column["low"])
    if column["low"] is not None and type_name.startswith("float"):
        return column["low"]
    return _EXAMPLES.get(type_name)


# -- schemas ------------------------------------------------------------------------------------------------------------


def _schemas(
    app: str,
    signature: Mapping[str, Any] | None,
    columns: Sequence[Mapping[str, Any]],
    label: str | None,
    *,
    most_rows: int,
    most_labels: int,
) -> _Document:
    release = {"type": "string", "pattern": _HEX64}
    rows = {"type": "array", "items": _ref("Row"), "minItems": 1, "maxItems": most_rows}
    return {
        "Row": row_schema(signature),
        "PredictRequest": _object({"rows": rows}),
        "PredictResponse": {
            "type": "object",
            "properties": {
                "predictions": {"type": "array", "description": "One for each row, in their order."},
                "ids": {
                    "type": "array",
                    "items": {"type": "string", "format": "uuid"},
                    "description": "To send labels by.",
                },
                "release": {**release, "description": "Which release answered."},
                "releases": {"type": "array", "items": release, "description": "One for each row, where several did."},
                "flags": {
                    "type": "array",
                    "items": _ref("Fault"),
                    "description": "What was odd, and answered all the same.",
                },
            },
            "required": ["predictions", "ids", "release"],
        },
        "Label": {
            **_object(
                {
                    "id": {"type": "string", "format": "uuid", "description": "Of the prediction."},
                    "key": {
                        "anyOf": [
                            {"type": "string"},
                            {"type": "integer", "minimum": _INT64[0], "maximum": _INT64[1]},
                        ],
                        "description": "The row's key, where no id is known.",
                    },
                    "label": {"description": "What became true: any JSON value."},
                    "at": {
                        "type": "string",
                        "format": "date-time",
                        "description": "When it became true; now, if left out.",
                    },
                    "source": {
                        "type": "string",
                        "maxLength": LONGEST_SOURCE,
                        "description": "Who says so.",
                    },
                },
                required=["label"],
            ),
            "oneOf": [{"required": ["id"]}, {"required": ["key"]}],
        },
        "LabelsRequest": _object(
            {"labels": {"type": "array", "items": _ref("Label"), "minItems": 1, "maxItems": most_labels}}
        ),
        "LabelsResponse": _object({"accepted": {"type": "integer", "minimum": 0}}),
        "MlflowRequest": _mlflow_request(columns),
        "MlflowResponse": {
            "type": "object",
            "properties": {"predictions": {"type": "array"}},
            "required": ["predictions"],
        },
        "InferRequest": _infer_request(),
        "InferResponse": {
            "type": "object",
            "properties": {
                "model_name": {"type": "string", "const": app},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "outputs": {"type": "array", "items": _tensor()},
            },
            "required": ["model_name", "outputs"],
        },
        "ModelMetadata": {
            "type": "object",
            "properties": {name: {} for name in ("name", "versions", "platform", "inputs", "outputs")},
            "required": ["name", "inputs", "outputs"],
            "examples": [model_metadata(app, [], columns, label)],
        },
        "Health": _object({"status": {"type": "string"}}),
        "Fault": _fault(),
        "Problem": _problem(),
    }


def _mlflow_request(columns: Sequence[Mapping[str, Any]]) -> _Document:
    features = [column for column in columns if column["role"] == "feature"]
    records = {"type": "array", "items": {"type": "object"}, "minItems": 1}
    listed = {"type": "array", "minItems": 1}
    split = {
        "type": "object",
        "properties": {
            "columns": {"type": ["array", "null"], "items": {"type": "string"}},
            "index": {},
            "data": {"type": "array", "items": {} if len(features) == 1 else {"type": "array"}, "minItems": 1},
        },
        "required": ["data"],
        "additionalProperties": False,
    }
    forms = {
        "dataframe_split": split,
        "dataframe_records": records,
        "inputs": {"anyOf": [{"type": "object"}, listed], "description": "Columns by name, or a list of rows."},
        "instances": listed,
    }
    return {
        "type": "object",
        # Objects, lists and texts that are empty, and numbers that are zero, are no parameters.
        "properties": {**forms, "params": {"enum": [None, {}, [], "", 0, False]}},
        "additionalProperties": False,
        "oneOf": [{"required": [form]} for form in forms],
    }


def _infer_request() -> _Document:
    parameters = {"type": ["object", "null"]}
    output = {
        "type": "object",
        "properties": {"name": {"enum": [PREDICTIONS, IDS]}, "parameters": parameters},
        "required": ["name"],
    }
    return {
        "type": "object",
        "properties": {
            "id": {"type": ["string", "null"]},
            "parameters": parameters,
            "inputs": {"type": "array", "items": _tensor(), "minItems": 1},
            "outputs": {"type": ["array", "null"], "items": output},
        },
        "required": ["inputs"],
    }


def _tensor() -> _Document:
    kinds = ["BOOL", "BYTES", "FP16", "FP32", "FP64", *(f"{u}INT{bits}" for u in ("", "U") for bits in (8, 16, 32, 64))]
    size = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
    return {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": size, "minItems": 1, "maxItems": 2},
            "datatype": {"type": "string", "enum": kinds},
            "parameters": {"type": ["object", "null"]},
            "data": {"description": "The values, flat or a list for each row; left out for a binary tensor."},
        },
        "required": ["name", "shape", "datatype"],
    }


def _fault() -> _Document:
    texts = {name: {"type": ["string", "null"]} for name in ("field", "fault")}
    properties = {
        "row": {"type": ["integer", "null"]},
        **texts,
        "message": {"type": "string"},
        "got": {},
        "expected": {},
    }
    return {"type": "object", "properties": properties, "required": ["message"]}


def _problem() -> _Document:
    return {
        "type": "object",
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string", "description": "What was wrong, and what to do."},
            "code": {"type": "string", "pattern": "^ST[0-9]{3,4}$", "description": "Stable; listed in docs/errors.md."},
            "errors": {"type": "array", "items": _ref("Fault")},
        },
        "required": ["type", "title", "status", "detail", "code"],
    }


def _object(properties: _Document, *, required: Sequence[str] | None = None) -> _Document:
    """Of exactly these members, all of them required unless said otherwise."""
    needed = list(properties) if required is None else list(required)
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


def _ref(name: str) -> _Document:
    return {"$ref": f"#/components/schemas/{name}"}


# -- operations ---------------------------------------------------------------------------------------------------------

_STATUSES: Final[Mapping[int, str]] = {
    400: "The request can't be read.",
    401: "No token, or none that is in use.",
    403: "The token may not do this, or a page of another site asks.",
    404: "No such model or release.",
    408: "The request did not come in time.",
    413: "The request is too large.",
    415: "The request has a type that is not read here.",
    421: "The request is for another host.",
    422: "The request can't be answered; `errors` names rows and fields.",
    431: "The headers are too large.",
    503: "Too much is asked at the moment, or nothing answers yet: try again after `Retry-After` seconds.",
}
_ALWAYS: Final = (400, 401, 403, 421, 431, 503)
_OF_BODIES: Final = (408, 413, 415, 422)


def _with_all(
    made: _Document, route: Route, app: str, release: str | None, *, needs_token: bool, at_version: bool
) -> _Document:
    """The path's entry: an operation with what all have, problems, security and parameters of the path."""
    method = "post" if "POST" in route.methods else "get"
    operation = dict(made)
    if at_version:
        operation["operationId"] += "OfVersion"
        operation["summary"] += " Of one release."
    statuses = {*_ALWAYS, *(_OF_BODIES if method == "post" else ()), *((404,) if "{name}" in route.path else ())}
    problem = {_PROBLEM: {"schema": _ref("Problem")}}
    operation["responses"] = {
        **operation["responses"],
        **{str(status): {"description": _STATUSES[status], "content": problem} for status in sorted(statuses)},
    }
    if route.path == "/readyz":
        operation["responses"]["503"] = {
            "description": "Not now.",
            "content": {_JSON: {"schema": _ref("Health")}, **problem},
        }
    operation["security"] = [{"bearer": []}] if needs_token and route.scope is not None else []
    if route.scope is not None:
        operation["description"] = f"{made.get('description', '')} Needs the scope `{route.scope}`.".strip()
    entry: _Document = {method: operation}
    parameters = []
    if "{name}" in route.path:
        parameters.append({"name": "name", "in": "path", "required": True, "schema": {"type": "string", "enum": [app]}})
    if at_version:
        version: _Document = {"name": "version", "in": "path", "required": True}
        version["schema"] = {"type": "string", "pattern": "^[0-9a-f]{8,64}$"}
        parameters.append(version if release is None else {**version, "example": release})
    if parameters:
        entry["parameters"] = parameters
    return entry


def _operation(name: str, summary: str, content: _Document, **more: Any) -> _Document:
    return {
        "operationId": name,
        "summary": summary,
        **more,
        "responses": {"200": {"description": "It was done.", "content": content}},
    }


def _read(name: str, summary: str, schema: _Document) -> _Document:
    return _operation(name, summary, {_JSON: {"schema": schema}})


def _text(name: str, summary: str) -> _Document:
    return _operation(name, summary, {"text/plain": {"schema": {"type": "string"}}})


def _body(schema: str, example: Any = None, **more: Any) -> _Document:
    content = {"schema": _ref(schema)} if example is None else {"schema": _ref(schema), "example": example}
    return {"required": True, "content": {_JSON: content, **more}}


def _predict(example: _Document, most_rows: int) -> _Document:
    made = _operation(
        "predict",
        f"Predictions for 1 to {most_rows:,} rows.",
        {_JSON: {"schema": _ref("PredictResponse")}},
        requestBody=_body("PredictRequest", {"rows": [example]} if example else None),
    )
    released = {"description": "Which release answered.", "schema": {"type": "string", "pattern": _HEX64}}
    made["responses"]["200"]["headers"] = {"staytrue-release": released}
    return made


def _labels(most_labels: int) -> _Document:
    one = {"id": "01956f3e-7c00-7000-8000-000000000000", "label": 12.5, "at": "2026-03-01T12:00:00Z"}
    return _operation(
        "labels",
        f"What became true, for 1 to {most_labels:,} predictions; on disk when it is answered.",
        {_JSON: {"schema": _ref("LabelsResponse")}},
        description="The same label again changes nothing, a later one replaces it, and it may come before its prediction.",
        requestBody=_body("LabelsRequest", {"labels": [one]}),
    )


def _invocations(columns: Sequence[Mapping[str, Any]], example: _Document, most_rows: int) -> _Document:
    names = ", ".join(column["name"] for column in columns if column["role"] == "feature")
    return _operation(
        "invocations",
        f"Predictions for 1 to {most_rows:,} rows, in MLflow's scoring protocol.",
        {_JSON: {"schema": _ref("MlflowResponse")}},
        description=f"Rows without names are read in the order {names}." if names else "",
        requestBody=_body(
            "MlflowRequest",
            {"dataframe_records": [example]} if example else None,
            **{"text/csv": {"schema": {"type": "string"}}},
        ),
    )


def _infer(app: str, columns: Sequence[Mapping[str, Any]], row: Mapping[str, Any], label: str | None) -> _Document:
    inputs = [
        {
            "name": column["name"],
            "shape": [1],
            "datatype": datatype_of(column["type"])[0],
            "data": [row[column["name"]]],
        }
        for column in columns
        if column["required"] and not column["type"].startswith("list<") and column["type"] != "null"
    ]
    whole = bool(inputs) and len(inputs) == sum(column["required"] for column in columns)
    kind = model_metadata(app, [], columns, label)["outputs"][0]["datatype"]
    return _operation(
        "infer",
        "Predictions, in the Open Inference Protocol.",
        {_JSON: {"schema": _ref("InferResponse")}, "application/octet-stream": {"schema": {}}},
        description=f"One tensor for each column, or one with all features. Predictions are {kind}. Tensors may come and go as "
        "binary, with the header Inference-Header-Content-Length.",
        requestBody=_body("InferRequest", {"inputs": inputs} if whole else None),
    )
