"""What stands before a page: who may look and act, what a browser is told, and that nothing of it costs a prediction."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest
from drawn import LARGE, SCRIPT
from server import PATIENCE_S, ROW, serving, until

from staytrue.serve.routes import PAGES
from staytrue.store.ledger import Entry
from staytrue.store.store import open_store

PROGRAM = (str(Path(__file__).with_name("drawn.py")),)
BROWSER = {"accept": "text/html,application/xhtml+xml"}
FORM = {**BROWSER, "content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, _kept_server):
    """A server with a page, shared by the stories that only look; without tokens."""
    place = tmp_path_factory.mktemp("drawn")
    shutil.copytree(_kept_server, place, dirs_exist_ok=True)
    with serving(place / "store", program=PROGRAM) as server:
        until(lambda: look(server, "/").status == 200, "a first page")
        yield server


@pytest.fixture
def acting(served):
    """A server with a page, for one story that acts."""
    with serving(served.store_path, program=PROGRAM) as server:
        until(lambda: look(server, "/").status == 200, "a first page")
        yield server


def look(server, path, **headers):
    return server.get(path, headers={**BROWSER, **{name.replace("_", "-"): value for name, value in headers.items()}})


def act(server, what, *, headers=None, **fields):
    return server.ask("POST", f"/actions/{what}", urlencode(fields).encode(), headers={**FORM, **(headers or {})})


def made_token(shop, name, *scopes):
    said = shop.run("token", "new", name, *(part for scope in scopes for part in ("--scope", scope)))
    assert said.code == 0, said.err
    return said.document["token"]


def orders(store_path):
    store = open_store(store_path, must_exist=True)
    found = [
        (event.body["what"], event.body["by"], event.body.get("why")) for event in store.ledger.events("shop", "orders")
    ]
    store.close()
    return found


def happened(store_path):
    """Something is written into the ledger."""
    store = open_store(store_path, must_exist=True)
    at = datetime.now(UTC)
    store.ledger.append(
        [Entry(app="shop", key=f"note:{at}", at=at, kind="note", sentence="A note.", body={})], recorded_at=at
    )
    store.close()


class Listener:
    """Somebody who hears events."""

    def __init__(self, server, query="app=shop&path=/apps/shop", **headers):
        self.sock = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self.sock.sendall(f"GET /events?{query} HTTP/1.1\r\nhost: localhost\r\n{head}\r\n".encode())
        self.lines = self.sock.makefile("rb")
        self.status = int(self.lines.readline().split()[1])

    def event(self, wanted=None):
        """The next event (of this name): name, data, id."""
        found = {}
        while True:
            line = self.lines.readline()
            assert line not in {b"", b"0\r\n"}, "the stream ended"
            name, _, value = line.decode().strip().partition(": ")
            if name in {"event", "data", "id"}:
                found[name] = value
            elif not name and "event" in found:
                if wanted in {None, found["event"]}:
                    return found["event"], json.loads(found["data"]), found.get("id")
                found = {}

    def close(self):
        self.lines.close()
        self.sock.close()


@contextlib.contextmanager
def asking(server):
    """Predictions, one after the other, from four sides; afterwards how many there were, and the failures."""
    told, stop = [], threading.Event()

    def ask():
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        while not stop.is_set():
            try:
                connection.request("POST", "/predict", json.dumps({"rows": [ROW]}))
                got = connection.getresponse()
                got.read()
                told.append(got.status)
            except OSError as exc:
                told.append(repr(exc))
                connection.close()
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)


# -- looking ------------------------------------------------------------------------------------------------------------


def test_a_page_is_answered_with_its_type_and_kept_by_nobody(drawn):
    got = look(drawn, "/apps/shop")

    assert (got.status, got.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<h1>shop</h1>" in got.body
    assert got.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200), ("HEAD", "/", 200), ("GET", "/apps/shop/nothing", 404), ("GET", "/apps/shop/broken", 500),
        ("GET", "/apps/shop/gone", 404), ("GET", "/api/x", 200), ("GET", SCRIPT, 200), ("GET", "/static/none.js", 404),
        ("HEAD", "/events", 200), ("POST", "/actions/nothing", 403), ("PUT", "/", 405), ("GET", "/actions/pause", 405),
        ("GET", "/sign-in", 200), ("GET", f"/?{'x' * 5000}", 414), ("GET", "/api/x?" + "a&" * 200, 422),
    ],
)  # fmt: skip
def test_headers_of_safety_are_on_every_answer(drawn, method, path, status):
    for headers in ({}, BROWSER):
        got = drawn.ask(method, path, headers=headers)

        assert got.status == status
        assert got.headers["content-security-policy"] == POLICY
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["referrer-policy"] == "same-origin"
        assert "cache-control" in got.headers
        assert b"/srv/place" not in got.body
        assert b"Traceback" not in got.body
        assert "unsafe" not in got.headers["content-security-policy"]


def test_a_head_is_a_get_without_its_body(drawn):
    with drawn.connection() as connection:
        connection.send(b"HEAD /apps/shop HTTP/1.1\r\nhost: localhost\r\naccept: text/html\r\n\r\n")
        head = connection.answer(to_head=True)
        connection.send(b"GET /apps/shop HTTP/1.1\r\nhost: localhost\r\naccept: text/html\r\n\r\n")
        whole = connection.answer()

    assert head.status == whole.status == 200
    assert head.headers["content-length"] == str(len(whole.body))


def test_a_file_is_fetched_once(drawn):
    first = drawn.get(SCRIPT)
    plain = drawn.get("/static/plain.css")
    again = drawn.get(SCRIPT, headers={"if-none-match": f'"x", W/{first.headers["etag"]}'})

    assert first.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert plain.headers["cache-control"] == "no-cache"
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert again.headers["content-security-policy"] == POLICY


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../ledger.db", "/static/..%2f..%2fledger.db", "/static/%2e%2e/ledger.db", "/static/..\\ledger.db",
        "/static/%5c..%5cledger.db", "/static//etc/passwd", "/static/", "/static/%00", "/apps/../predict", "/apps//shop",
        "/static/a%0d%0aset-cookie:x", "/static/" + "a" * 3000, "//", "/apps",
    ],
)  # fmt: skip
def test_a_path_that_means_another_one_is_none(drawn, path):
    (got,) = drawn.talk(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode("latin-1"))

    assert (got.status, got.code) == (404, "ST769")


def test_what_is_asked_is_what_is_drawn(drawn):
    said = drawn.get("/api/apps/shop/a%20b?column=%3Cscript%3E&empty=&n=1").json

    assert (said["path"], said["query"]) == ("/api/apps/shop/a b", {"column": "<script>", "empty": "", "n": "1"})
    assert {"disk", "ledger", "errors", "latency", "worker"} <= set(said["live"]["server"])
    assert (said["live"]["signed_in"], "operate" in said["live"]["may"]) == (False, True)
    assert said["live"]["who"]


def test_a_host_that_is_not_ours_sees_no_page(drawn):
    got = look(drawn, "/", host="evil.example")

    assert (got.status, got.headers["content-security-policy"]) == (421, POLICY)
    assert b"shop</h1>" not in got.body


def test_a_page_says_what_is_wrong_in_html_and_a_program_is_told_in_json(drawn):
    page, document = look(drawn, "/apps/shop/gone"), drawn.get("/apps/shop/gone")

    assert page.headers["content-type"].startswith("text/html")
    assert b"ST473" in page.body
    assert (document.status, document.code) == (404, "ST473")


def test_two_hundred_look_at_once_and_a_slow_page_holds_up_no_prediction(drawn):
    with ThreadPoolExecutor(200) as pool:
        slow = pool.submit(look, drawn, "/apps/shop/slow")
        began = time.monotonic()
        predicted = drawn.predict(ROW)
        took = time.monotonic() - began
        got = list(pool.map(lambda _: look(drawn, "/"), range(200)))

    assert predicted.status == 200
    assert took < 0.9
    assert {one.status for one in got} == {200}
    assert slow.result().status == 404


def test_who_reads_a_large_page_slowly_holds_up_nobody(drawn):
    slow = []
    for _ in range(10):
        sock = socket.create_connection(("127.0.0.1", drawn.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b"GET /apps/shop/large HTTP/1.1\r\nhost: localhost\r\n\r\n")
        slow.append(sock)
    time.sleep(0.5)

    whole = drawn.get("/apps/shop/large", timeout=60)

    assert len(whole.body) == LARGE
    assert drawn.predict(ROW).status == 200
    for sock in slow:
        sock.close()


# -- acting -------------------------------------------------------------------------------------------------------------


def test_an_action_is_an_order_and_the_page_tells_what_was_asked(acting):
    got = act(acting, "pause", app="shop", why="a look at the <data>", back="/apps/shop?tab=log")
    place = got.headers["location"]
    told = look(acting, place)
    again = act(acting, "pause", app="shop")

    assert (got.status, place.partition("asked=")[0]) == (303, "/apps/shop?tab=log&")
    assert b"begins nothing new until" in told.body
    assert b"is paused already" in look(acting, again.headers["location"]).body
    (order,) = orders(acting.store_path)
    assert (order[0], order[2]) == ("pause", "a look at the <data>")


def test_a_program_that_acts_is_told_in_json(acting):
    got = acting.ask("POST", "/actions/resume", urlencode({"app": "shop"}).encode(), headers={**FORM, "accept": "*/*"})
    none = acting.ask(
        "POST", "/actions/promote", urlencode({"app": "shop"}).encode(), headers={**FORM, "accept": "*/*"}
    )

    assert (got.status, got.json["state"], got.json["sentence"]) == (200, "done", "The loop of shop is not paused.")
    assert (none.status, none.json["state"], none.json["code"]) == (409, "refused", "ST853")


@pytest.mark.parametrize(
    "back", ["//evil.example/x", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nb: c"]
)
def test_after_an_action_nobody_is_led_elsewhere(acting, back):
    got = act(acting, "resume", app="shop", back=back)

    assert got.status == 303
    assert re.fullmatch(r"/apps/shop\?asked=[0-9a-f]+", got.headers["location"])


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
        {"origin": "http://localhost:1"},
    ],
)  # fmt: skip
def test_a_page_of_somebody_else_acts_in_nobodys_name(acting, headers):
    got = act(acting, "pause", app="shop", headers=headers)

    assert got.status == 403
    assert orders(acting.store_path) == []


def test_an_action_that_says_not_where_it_is_from_is_refused(acting):
    headers = {"content-type": "application/x-www-form-urlencoded"}
    silent = acting.ask("POST", "/actions/pause", b"app=shop", headers=headers)
    got = acting.ask("GET", "/actions/pause?app=shop", headers=BROWSER)
    typed = acting.ask(
        "POST", "/actions/pause", b'{"app": "shop"}', headers={**FORM, "content-type": "application/json"}
    )
    large = acting.ask("POST", "/actions/pause", b"why=" + b"x" * 70_000, headers=FORM)

    assert [one.status for one in (silent, got, typed, large)] == [403, 405, 415, 413]
    assert orders(acting.store_path) == []


def test_what_there_is_not_is_refused_in_words(acting):
    unknown = act(acting, "explode", app="shop")
    app = act(acting, "pause", app="none")
    window = look(acting, act(acting, "drop", app="shop").headers["location"])

    assert (unknown.status, app.status) == (422, 404)
    assert b"ST1020" in unknown.body
    assert b"which window" in window.body


@pytest.mark.slow
def test_what_takes_a_while_goes_on_and_tells_its_end(acting):
    place = act(acting, "revert", app="shop", code="1", to=acting.release).headers["location"]

    first = look(acting, place).body
    end = until(lambda: (body := look(acting, place).body) != first and body, "the end of the revert", seconds=180)

    assert b"is being made" in first
    assert b"both releases have the same already" in end


# -- tokens -------------------------------------------------------------------------------------------------------------


def signed_in(server, token, back="/"):
    form = urlencode({"token": token, "back": back}).encode()
    got = server.ask("POST", "/sign-in", form, headers=FORM)
    return got, got.headers.get("set-cookie", "").partition(";")[0]


def test_who_has_no_token_signs_in_and_does_what_the_token_may(served):
    reads, operates = made_token(served, "reader", "read"), made_token(served, "boss", "read", "operate")
    predicts = made_token(served, "till", "predict")
    with serving(served.store_path, program=PROGRAM) as server:
        until(lambda: look(server, "/", authorization=f"Bearer {reads}").status == 200, "a first page")

        asked = look(server, "/apps/shop?x=<y>")
        wrong, none = signed_in(server, "st_guess")
        got, cookie = signed_in(server, reads, "/apps/shop?x=1")

        # A form in place of the page; nothing else without a token.
        assert asked.status == 401
        assert b'action="/sign-in"' in asked.body
        assert b"/apps/shop?x=%3Cy%3E" in asked.body
        assert asked.headers["content-security-policy"] == POLICY
        assert (wrong.status, none) == (401, "")
        assert server.get("/api/x").code == "ST724"
        assert server.get("/events").status == 401
        assert server.get(SCRIPT).status == 200
        assert act(server, "pause", app="shop").status == 401

        # The cookie: no script reads it, no other site sends it.
        assert (got.status, got.headers["location"]) == (303, "/apps/shop?x=1")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {
            part.strip() for part in got.headers["set-cookie"].split(";")
        }
        assert look(server, "/", cookie=cookie).status == 200
        assert signed_in(server, reads, "//evil.example")[0].headers["location"] == "/"

        # Who may read may not act; and a cookie that may, only with what the form says.
        live = server.get("/api/x", headers={"cookie": cookie}).json["live"]
        assert (live["who"], live["may"], live["signed_in"]) == ("reader", ["read"], True)
        assert act(server, "pause", app="shop", csrf=live["csrf"], headers={"cookie": cookie}).status == 403
        _, boss = signed_in(server, operates)
        csrf = server.get("/api/x", headers={"cookie": boss}).json["live"]["csrf"]
        assert csrf != live["csrf"]
        for said in ({}, {"csrf": ""}, {"csrf": live["csrf"]}, {"csrf": "é"}):
            assert act(server, "pause", app="shop", headers={"cookie": boss}, **said).status == 403
        assert orders(served.store_path) == []
        assert act(server, "pause", app="shop", csrf=csrf, headers={"cookie": boss}).status == 303
        by_program = server.ask(
            "POST", "/actions/resume", b"app=shop",
            headers={"content-type": "application/x-www-form-urlencoded", "authorization": f"Bearer {operates}"},
        )  # fmt: skip
        assert by_program.status == 200
        assert [(what, by) for what, by, _ in orders(served.store_path)] == [("pause", "boss"), ("resume", "boss")]

        # A cookie is for pages only, a link from elsewhere leads to the form, and signing out is the end of it.
        assert server.predict(ROW, headers={"cookie": signed_in(server, predicts)[1]}).status == 401
        linked = look(server, "/", sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="document")
        assert (linked.status, b"Signed in already" in linked.body) == (401, True)
        out = server.ask("POST", "/sign-out", b"", headers={**FORM, "cookie": boss})
        assert (out.status, "Max-Age=0" in out.headers["set-cookie"]) == (303, True)
        assert reads not in server.stderr
        assert served.run("token", "revoke", "reader").code == 0
        until(lambda: look(server, "/", cookie=cookie).status == 401, "the cookie is of no use", seconds=3)


def test_over_tls_the_cookie_never_goes_without(served, tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on PATH to make a certificate with")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    token = made_token(served, "reader", "read")
    tls = ["--tls-cert", str(cert), "--tls-key", str(key)]
    everywhere = "0.0.0.0"  # noqa: S104 - with TLS and tokens

    with serving(served.store_path, "--host", everywhere, *tls, trust=cert, program=PROGRAM) as server:
        assert look(server, "/").status == 401
        got, cookie = signed_in(server, token)
        until(lambda: look(server, "/", cookie=cookie).status == 200, "a first page")

    assert cookie.startswith("__Host-staytrue=")
    assert "Secure" in got.headers["set-cookie"]


def test_every_route_of_the_page_goes_through_the_gate(served):
    tokens = {scope: made_token(served, scope, scope) for scope in ("predict", "label", "read", "operate")}
    with serving(served.store_path, program=PROGRAM) as server:
        until(lambda: look(server, "/", authorization=f"Bearer {tokens['read']}").status == 200, "a first page")
        for route in PAGES:
            # Not GET: events have no end.
            path, method = route.path.replace("{path}", "x"), "POST" if route.methods == ("POST",) else "HEAD"
            body = b"" if method == "POST" else None

            told = {scope: server.ask(method, path, body, headers={"authorization": f"Bearer {token}"}).status
                    for scope, token in tokens.items()}  # fmt: skip

            allowed = {scope for scope, status in told.items() if status not in {401, 403}}
            assert allowed == (set(tokens) if route.scope is None else {route.scope}), path
            assert (server.ask(method, path, body).status == 401) == (route.scope is not None), path


# -- events -------------------------------------------------------------------------------------------------------------


def test_a_page_hears_within_a_second_that_something_happened(drawn):
    listener = Listener(drawn)
    hello, data, first = listener.event()
    began = time.monotonic()

    happened(drawn.store_path)
    _, _, id_ = listener.event("changed")

    took = time.monotonic() - began
    assert (listener.status, hello, data["fragments"]) == (200, "hello", ["overview", "/apps/shop"])
    assert took < 1.0
    assert id_ != first
    listener.close()


def test_who_comes_back_hears_what_was_missed_and_nothing_else(drawn):
    time.sleep(1.0)
    listener = Listener(drawn)
    _, _, id_ = listener.event("hello")
    listener.close()

    same = Listener(drawn, last_event_id=id_)
    assert [same.event()[0] for _ in range(2)] == ["hello", "beat"]
    same.close()
    happened(drawn.store_path)
    missed = Listener(drawn, last_event_id=id_)

    assert [missed.event()[0] for _ in range(2)] == ["hello", "changed"]
    missed.close()


def test_so_many_may_listen_and_no_more_and_those_who_read_nothing_cost_nothing(drawn):
    time.sleep(0.5)
    listeners = [Listener(drawn) for _ in range(100)]

    crowded = Listener(drawn)
    began = time.monotonic()
    predicted, page = drawn.predict(ROW), look(drawn, "/")
    took = time.monotonic() - began

    assert {one.status for one in listeners} == {200}
    assert crowded.status == 503
    assert (predicted.status, page.status) == (200, 200)
    assert took < 2.0
    for one in [*listeners, crowded]:
        one.close()

    def has_room():
        one = Listener(drawn)
        one.close()
        return one.status == 200

    until(has_room, "room again")


def test_a_name_that_is_none_is_not_listened_for(drawn):
    assert drawn.get("/events?app=../../x").status == 404


def test_a_controller_that_is_dead_is_told_within_five_seconds(served):
    app = ["--app", str(served.folder / "app.py")]
    with serving(served.store_path, *app, program=PROGRAM) as server:
        controller = until(server.controller, "a controller")
        until(lambda: look(server, "/").status == 200, "a first page")
        listener = Listener(server)
        until(lambda: listener.event("beat")[1]["controller"] == "alive", "the controller's sign of life")

        controller.suspend()
        began = time.monotonic()
        until(lambda: listener.event("beat")[1]["controller"] == "dead", "that it is dead", seconds=10)

        assert time.monotonic() - began < 5.0
        controller.resume()
        listener.close()


# -- the page's process -------------------------------------------------------------------------------------------------


def test_a_page_that_is_killed_is_back_and_no_prediction_fails(acting):
    first = acting.page()
    other = Listener(acting)

    with asking(acting) as told:
        time.sleep(0.5)
        first.kill()
        began = time.monotonic()
        while (status := look(acting, "/").status) != 200:
            assert status == 503
            assert time.monotonic() - began < PATIENCE_S
            time.sleep(0.02)
        took = time.monotonic() - began
        time.sleep(0.5)

    assert took < 2.0 * slowness()
    assert set(told) == {200}
    assert acting.page().pid != first.pid
    assert [event for event in events(acting.store_path) if event == "alarm"] == []
    with contextlib.suppress(AssertionError, ConnectionError):
        while True:
            other.event()
    other.close()


def slowness():
    """How much longer than on a machine of its own something may take here: two cores that others use too."""
    return max(1.0, psutil.getloadavg()[0] / (psutil.cpu_count() or 1))


def events(store_path):
    store = open_store(store_path, must_exist=True)
    found = [event.kind for event in store.ledger.events("shop")]
    store.close()
    return found


def test_a_page_that_dies_while_it_draws_is_told_in_plain_words(acting):
    got = look(acting, "/apps/shop/dies")

    assert got.status == 503
    assert b"predictions go on" in got.body
    assert b'http-equiv="refresh"' in got.body
    assert got.headers["retry-after"] == "1"
    assert acting.predict(ROW).status == 200
    until(lambda: look(acting, "/").status == 200, "the page again")


def test_the_page_comes_after_everybody_else_and_ends_with_them(served):
    with serving(served.store_path, program=PROGRAM) as server:
        page = until(server.page, "the page's process")
        until(lambda: look(server, "/").status == 200, "a first page")
        listener = Listener(server)
        nice, threads = page.nice(), page.num_threads()
        began = time.monotonic()
        assert server.end() == 0
        took = time.monotonic() - began
        listener.close()

    assert (nice, threads) == (10, 1)
    assert took < 6.0
    assert not page.is_running()
    assert list((served.store_path / "work" / "page").glob("*.sock")) == []


def test_a_server_without_its_page_says_so(served):
    with serving(served.store_path, "--no-page", program=PROGRAM) as server:
        got = look(server, "/")
        assert (got.status, server.page()) == (404, None)
        assert b"--no-page" in got.body
        assert server.predict(ROW).status == 200


def test_where_the_page_is_stands_in_the_document(drawn):
    said = json.loads((drawn.store_path.parent / "up.out").read_text())

    assert said["page"] == f"{drawn.url}/"


def test_the_page_that_ships_is_light_live_and_runs_no_script_of_its_own(served):
    with serving(served.store_path) as server:
        page = until(lambda: (got := look(server, "/apps/shop")).status == 200 and got, "a first page").body.decode()
        files = {path: server.get(path) for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', page)}
        listener = Listener(server)
        _, hello, _ = listener.event("hello")
        listener.close()
        twin = server.get("/api/apps/shop")
        wrong = look(server, "/apps/none")

    assert {one.status for one in files.values()} == {200}
    assert {one.headers["cache-control"] for one in files.values()} == {"public, max-age=31536000, immutable"}
    assert len(page) + sum(len(one.body) for one in files.values()) < 100_000
    assert sum(len(one.body) for path, one in files.items() if path.endswith(".js")) < 60_000
    assert any("live" in path for path in files)
    assert not re.search(r"<script(?![^>]*src=)|<style|\son[a-z]+=|\sstyle=", page)
    assert any(f'id="{one}"' in page for one in hello["fragments"])
    assert (twin.status, twin.json["app"], wrong.status) == (200, "shop", 404)
