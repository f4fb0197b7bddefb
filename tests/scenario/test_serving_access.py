"""Who may ask a server, and when it does not start at all."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from contextlib import closing

import pytest
from server import PATIENCE_S, ROW, serving, until

from staytrue.serve.routes import ROUTES

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is refused, or served with TLS and tokens
PREDICT = json.dumps({"rows": [ROW]})


def made_token(shop, name, *scopes):
    said = shop.run("token", "new", name, *(part for scope in scopes for part in ("--scope", scope)))
    assert said.code == 0, said.err
    return said.document["token"]


def filled(route, server):
    return route.path.format_map({"name": "shop", "version": server.release[:12]})


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def test_tokens_open_what_they_are_for_and_a_revoked_one_nothing(served):
    """One server for all of it: each start takes seconds."""
    scopes = ("predict", "label", "read", "operate")
    tokens = {scope: made_token(served, scope, scope) for scope in scopes}
    with serving(served.store_path) as server:
        # Without a token, with a wrong one and with one of another scope: every route but the health of the process.
        for route in ROUTES:
            method, path = route.methods[0], filled(route, server)
            body = b"{}" if method == "POST" else None
            bare = server.ask(method, path, body)
            wrong = server.ask(method, path, body, headers=bearer("st_wrong"))
            told = {
                scope: server.ask(method, path, body, headers=bearer(token)).status for scope, token in tokens.items()
            }
            if route.scope is None:
                assert (bare.status, wrong.status, set(told.values())) == (200, 200, {200}), path
                continue
            assert (bare.status, bare.code, wrong.status, wrong.code) == (401, "ST724", 401, "ST724"), path
            assert bare.headers["www-authenticate"].startswith("Bearer"), path
            assert {scope for scope, status in told.items() if status not in {401, 403}} == {route.scope}, path
        # What is no route is not told to strangers; a wrong method is no way in.
        assert server.get("/nothing").status == 401
        assert server.get("/nothing", headers=bearer(tokens["read"])).status == 404
        assert server.ask("DELETE", "/predict").status == 401
        assert server.predict(ROW, headers=bearer(tokens["predict"])).status == 200
        assert server.get("/openapi.json", headers=bearer(tokens["read"])).json["paths"]["/predict"]["post"]["security"]

        # Made and revoked by another process, while it runs.
        fresh = made_token(served, "fresh", "predict")
        until(lambda: server.predict(ROW, headers=bearer(fresh)).status == 200, "the new token opens", seconds=3)
        assert served.run("token", "revoke", "fresh").code == 0
        until(lambda: server.predict(ROW, headers=bearer(fresh)).status == 401, "the token is of no use", seconds=3)
        assert fresh not in server.stderr


def test_other_addresses_need_a_token_and_tls_or_a_proxy(served):
    bare = served.run("up", "--no-loop", "--host", EVERYWHERE, "--port", "0")
    made_token(served, "till", "predict")
    clear = served.run("up", "--no-loop", "--host", EVERYWHERE, "--port", "0")

    assert (bare.code, bare.document["code"]) == (1, "ST720")
    assert "staytrue token new" in bare.document["message"]
    assert (clear.code, clear.document["code"]) == (1, "ST721")
    assert "--tls-cert" in clear.document["message"]


def test_it_speaks_tls_with_a_certificate_of_the_users(served, tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on PATH to make a certificate with")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    token = made_token(served, "till", "predict")
    tls = ["--tls-cert", str(cert), "--tls-key", str(key)]

    with serving(served.store_path, "--host", EVERYWHERE, *tls, token=token, trust=cert) as server:
        assert server.url.startswith("https://")
        assert server.predict(ROW).status == 200
        assert server.predict(ROW, headers={"authorization": "Bearer st_wrong"}).status == 401


def test_behind_a_proxy_a_token_is_needed_on_loopback_too(served):
    refused = served.run("up", "--no-loop", "--behind-proxy", "--port", "0")

    assert (refused.code, refused.document["code"]) == (1, "ST720")


def test_a_server_that_is_not_ready_yet_says_so_and_when_to_come_again(served):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = []

    def ask():
        with contextlib.suppress(OSError), closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as asking:
            for method, path, body in (
                ("GET", "/healthz", None),
                ("GET", "/readyz", None),
                ("POST", "/predict", PREDICT),
            ):
                asking.request(method, path, body)
                got = asking.getresponse()
                told.append((path, got.status, got.getheader("retry-after"), got.read()))

    def ask_until_ready():
        while not [one for one in told if one[:2] == ("/readyz", 200)]:
            ask()
            time.sleep(0.01)

    asking = threading.Thread(target=ask_until_ready, daemon=True)
    asking.start()
    with serving(served.store_path, "--port", str(port)):
        asking.join(PATIENCE_S)

    before = [one for one in told if one[1] == 503]
    assert {path for path, *_ in before} == {"/readyz", "/predict"}
    assert {json.loads(body)["code"] for path, _, _, body in before if path == "/predict"} == {"ST765"}
    assert {after for path, _, after, _ in before if path == "/predict"} == {"1"}
    assert {status for path, status, *_ in told if path == "/healthz"} == {200}
    assert {status for _, status, *_ in told} == {200, 503}


def test_two_servers_on_one_port_are_one_too_many(served, staytrue):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        code, out, _ = staytrue("up", "--store", served.store_path, "--port", port, "--json")

    said = json.loads(out)
    assert (code, said["code"]) == (5, "ST774")
    assert str(port) in said["message"]


def test_what_can_not_be_served_is_told_what_to_do_first(shop, stocked):
    said = stocked.run("up", "--no-loop", "--port", "0")

    assert (said.code, said.document["code"]) == (3, "ST772")
    assert "`staytrue train`" in said.document["message"]


def test_a_store_that_is_not_there_is_not_served_and_not_made(shop):
    said = shop.run("up", "--no-loop", "--port", "0")

    assert (said.code, said.document["code"]) == (3, "ST470")
    assert not shop.store_path.exists()


@pytest.mark.parametrize(
    "flags",
    [["--tls-cert", "cert.pem"], ["--rows", "0"], ["--queue-rows", "-5"], ["--deadline-s", "nan"], ["--body-bytes", "inf"],
     ["--lanes", "0"], ["--threads", "-1"], ["--tls-cert", "no.pem", "--tls-key", "no.pem"]],
    ids=" ".join,
)  # fmt: skip
def test_flags_that_mean_nothing_are_refused_in_words(served, flags):
    said = served.run("up", "--port", "0", *flags)

    assert (said.code, said.document["code"]) == (2, "ST773")
    assert flags[0] in said.document["message"]
