"""The OpenAPI document of a running server, held against what it does: generated requests, right and wrong ones.

Few examples here; `pytest -m slow tests/scenario/test_openapi_fuzz.py` asks for longer.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from server import ROW, Server, serving

from staytrue.serve.routes import ROUTES
from staytrue.store.store import open_store
from staytrue.store.tokens import SCOPES, make_token

FEW, MANY = 8, 300
POSTED = [route.path for route in ROUTES if "POST" in route.methods]
# A tensor has as many values as its shape says, a list of columns equally many: no schema can say so. Nor can one say that
# a whole number anywhere in a label has 64 bits.
EXACT = ["/predict", "/labels"]
_SKIPPED = {
    "positive_data_acceptance": lambda path: path != "/predict",
    "negative_data_rejection": lambda path: path not in EXACT,
    # Asked for all routes and methods below, and by tests/unit/serve/test_gate.py.
    "ignored_auth": lambda _: True,
    # There is no resource that could be made or deleted.
    "use_after_free": lambda _: True,
    "ensure_resource_availability": lambda _: True,
    "object_level_authorization": lambda _: True,
}


def checks_of(path):
    names = [name for name in CHECKS.get_all_names() if name not in _SKIPPED or not _SKIPPED[name](path)]
    return CHECKS.get_by_names(names)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, _kept_server):
    """A server that asks for tokens, and one for each set of scopes: the token by its name."""
    place = tmp_path_factory.mktemp("guarded")
    shutil.copytree(_kept_server, place, dirs_exist_ok=True)
    store, now = open_store(place / "store"), datetime.now(UTC)
    tokens = {
        "all scopes": make_token(store.ledger, "shop", "all", SCOPES, now=now),
        "read only": make_token(store.ledger, "shop", "reader", ["read"], now=now),
        "wrong": "st_" + "0" * 43,
        "none": "",
    }
    store.close()
    with serving(place / "store", token=tokens["all scopes"]) as server:
        yield server, tokens


def documented(server: Server):
    """The schema that the server gives."""
    schema = schemathesis.openapi.from_dict(server.get("/openapi.json").json)
    schema.config.update(base_url=server.url)
    return schema


def fuzz(server, path, mode, examples, *, token="", checks=None):
    """Ask one route so many times; the statuses that were answered."""
    schema = documented(server)
    method = next(route.methods[0] for route in ROUTES if route.path == path)
    operation = schema[path][method]
    headers = {"authorization": f"Bearer {token}"} if token else {}
    statuses: set[int] = set()
    with requests.Session() as session:

        @settings(
            max_examples=examples, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case):
            response = case.call(session=session, headers=headers)
            if path != "/labels" or b'"ST713"' not in response.content:
                statuses.add(response.status_code)
            case.validate_response(response, checks=checks or checks_of(path), headers=headers)

        ask()
    return statuses


@pytest.mark.parametrize("path", [route.path for route in ROUTES])
def test_what_the_document_allows_is_answered_as_it_says(up, path):
    statuses = fuzz(up, path, GenerationMode.POSITIVE, FEW)

    assert path not in EXACT or statuses == {200}


@pytest.mark.parametrize("path", POSTED)
def test_what_the_document_forbids_is_refused_as_it_says(up, path):
    statuses = fuzz(up, path, GenerationMode.NEGATIVE, FEW)

    assert path not in EXACT or 200 not in statuses


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", POSTED)
def test_many_requests_of_every_kind_find_no_fault_of_the_servers(up, path, mode):
    fuzz(up, path, mode, MANY)

    assert up.predict(ROW).status == 200
    assert "Traceback" not in up.stderr


@pytest.mark.parametrize("whose", ["none", "wrong", "read only", "all scopes"])
def test_every_route_and_method_is_behind_the_gate(guarded, whose):
    server, tokens = guarded
    headers = {"authorization": f"Bearer {tokens[whose]}"}
    walked = 0
    with requests.Session() as session:
        for route in ROUTES:
            path = route.path.format_map({"name": "shop", "version": server.release})
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
                got = session.request(method, server.url + path, headers=headers if tokens[whose] else {}, timeout=10)
                walked += 1
                assert got.status_code < 500, (method, path)
                if route.scope is None or whose == "all scopes":
                    assert got.status_code not in {401, 403}, (method, path)
                elif whose == "read only":
                    assert (got.status_code == 403) == (route.scope != "read"), (method, path)
                else:
                    assert got.status_code == 401, (method, path)
    assert walked == 8 * len(ROUTES)


@pytest.mark.parametrize("path", EXACT)
def test_with_a_token_the_document_holds_too(guarded, path):
    server, tokens = guarded

    fuzz(server, path, GenerationMode.POSITIVE, FEW, token=tokens["all scopes"])
    assert fuzz(server, path, GenerationMode.POSITIVE, 3, token=tokens["read only"]) == {403}
    assert fuzz(server, path, GenerationMode.NEGATIVE, 3) <= {401, 403}
