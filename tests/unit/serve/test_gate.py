"""The gate: every route, method and token; hosts, pages of others, and who may start at all."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staytrue.errors import InvalidInput, Refused
from staytrue.serve.gate import Gate
from staytrue.serve.routes import PAGES, ROUTES, match
from staytrue.store.tokens import SCOPES, Token, fingerprint

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HERE = (b"host", b"127.0.0.1:8484")
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "BREW", ""]
OPEN = {"/healthz", "/readyz"}
# Paths that mean a route to a lenient reader, and are none.
TRICKS = [
    "//predict", "/predict/", "/predict//", "/PREDICT", "/Predict", "/./predict", "/x/../predict", "/%70redict",
    "/predict%00",
    "/predict\0", "/predict;a=b", "/predict?x", "/predict#", "http://127.0.0.1:8484/predict", "predict", "",
    "*", "/apps", "/apps/", "/apps//x", "/apps/../predict", "/static/../ledger.db", "/static/a/./b", "/static/..\\ledger.db",
    "/api/",
    "/static/\0", "/static/a\nb", "/actions/", "/events/", "/sign-in/", "/static/" + "a" * 2_000, " /predict",
    "/healthz/", "//healthz", "/healthz/../predict", "/HEALTHZ", "/healthz;/predict", "/readyz\\..\\predict", "/v2/",
    "/v2//health/live",
    "/v2/models//infer", "/v2/models/a/b/infer", "/v2/models/a/infer/", "/v2/models/a/../a/infer",
]  # fmt: skip


def token(name: str, *scopes: str) -> Token:
    return Token(name=name, sha256=fingerprint(f"st_{name}"), scopes=scopes, made_at=NOW)


def bearer(name: str) -> tuple[bytes, bytes]:
    return (b"authorization", f"Bearer st_{name}".encode())


def filled(path: str) -> str:
    return path.replace("{name}", "rates").replace("{version}", "0123456789abcdef")


@pytest.fixture
def open_gate() -> Gate:
    return Gate(host="127.0.0.1")


@pytest.fixture
def closed_gate() -> Gate:
    return Gate(host="127.0.0.1", tokens=[token(scope, scope) for scope in SCOPES])


def status(gate: Gate, *headers: tuple[bytes, bytes], method="GET", path="/predict", scheme="http") -> int:
    problem = gate.check(method, path, list(headers), scheme)
    return 200 if problem is None else problem.status


# -- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*(filled(route.path) for route in ROUTES), *TRICKS])
def test_every_route_and_method_needs_a_right_token_but_the_health_routes(closed_gate, path):
    for method in METHODS:
        without = status(closed_gate, HERE, method=method, path=path)
        wrong = status(closed_gate, HERE, bearer("guess"), method=method, path=path)

        assert (without, wrong) == ((200, 200) if path in OPEN else (401, 401)), method


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_a_token_opens_the_routes_of_its_scope_and_no_others(closed_gate, route, scope):
    expected = 200 if route.scope in {None, scope} else 403

    for method in METHODS:
        assert status(closed_gate, HERE, bearer(scope), method=method, path=filled(route.path)) == expected


@pytest.mark.parametrize("path", TRICKS)
def test_a_path_that_only_looks_like_a_route_is_none(path):
    assert match(path)[0] is None


def test_who_has_any_token_is_let_through_to_the_404_of_a_path_that_does_not_exist(closed_gate):
    assert status(closed_gate, HERE, bearer("operate"), path="/nothing") == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"Bearer", b"Bearer ", b"st_predict", b"Basic st_predict", b"Bearer st_predict x", b"Bearer st_PREDICT",
        b"Bearer \xff",
        b"Bearer st_predict,st_predict", b"Bearer st_", b"Bearer " + fingerprint("st_predict").encode(), b"Bearer null",
    ],
)  # fmt: skip
def test_a_wrong_authorization_is_401_with_a_challenge(closed_gate, sent):
    problem = closed_gate.check("POST", "/predict", [HERE, (b"authorization", sent)], "http")

    assert problem is not None
    assert (problem.status, problem.code) == (401, "ST724")
    assert dict(problem.headers)[b"www-authenticate"].startswith(b"Bearer realm=")
    assert b"st_predict" not in problem.body()


def test_two_authorizations_are_refused_even_if_both_are_right(closed_gate):
    assert status(closed_gate, HERE, bearer("predict"), bearer("predict")) == 401


def test_the_word_bearer_is_read_in_any_case(closed_gate):
    assert status(closed_gate, HERE, (b"authorization", b"bEARER st_predict")) == 200


def test_a_token_without_the_scope_is_403_and_says_which_it_lacks(closed_gate):
    problem = closed_gate.check("POST", "/labels", [HERE, bearer("predict")], "http")

    assert problem is not None
    assert (problem.status, problem.code) == (403, "ST725")
    assert b'scope="label"' in dict(problem.headers)[b"www-authenticate"]
    assert "--scope label" in problem.detail


def test_without_tokens_loopback_is_open_to_its_own_machine(open_gate):
    assert not open_gate.needs_token
    assert {status(open_gate, HERE, path=filled(route.path)) for route in ROUTES} == {200}


def test_a_token_made_while_it_runs_closes_the_gate_and_revoking_it_does_not_open_it(open_gate):
    open_gate.check("POST", "/predict", [HERE], "http")
    open_gate.renew([token("late", "predict")])
    assert (status(open_gate, HERE), status(open_gate, HERE, bearer("late"))) == (401, 200)

    open_gate.renew([])

    assert (status(open_gate, HERE), status(open_gate, HERE, bearer("late"))) == (401, 401)


def test_a_revoked_token_does_not_count():
    gone = Token(name="x", sha256=fingerprint("st_x"), scopes=("predict",), made_at=NOW, revoked_at=NOW)

    with pytest.raises(Refused):
        Gate(host="10.0.0.7", tokens=[gone], tls=True)


# -- hosts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:1", b"127.0.0.1:65535", b"[::1]", b"[::1]:8484"])
def test_loopback_names_are_right_with_any_port(open_gate, host):
    assert [status(open_gate, (b"host", host)) for _ in range(2)] == [200, 200]


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example", b"evil.example:8484", b"localhost.evil.example", b"127.0.0.1.evil.example",
        b"localhost@evil.example",
        b"evil.example#localhost", b"localhost evil", b"localhost:", b"localhost:x", b"localhost:8484:1",
        b"localhost.", b"", b"[::1",
        b"::1", b"10.0.0.7", b"127.0.0.2", b"0.0.0.0", b"localhost\x00", b"l\xf6calhost", b"localhost,evil",
        b"2130706433", b"0x7f.1",
    ],
)  # fmt: skip
def test_another_host_is_refused(open_gate, host):
    for _ in range(2):
        problem = open_gate.check("GET", "/healthz", [(b"host", host)], "http")
        assert problem is not None
        assert (problem.status, problem.code) == (421, "ST722")


@pytest.mark.parametrize(
    "hosts", [[], [HERE, HERE], [HERE, (b"host", b"evil.example")], [(b"host", b"evil.example"), HERE]]
)
def test_no_host_and_two_hosts_are_refused(open_gate, hosts):
    open_gate.check("GET", "/predict", [HERE], "http")

    assert status(open_gate, *hosts) == 400


def test_a_host_given_by_name_is_right_with_its_port_or_with_any():
    gate = Gate(host="127.0.0.1", allowed_hosts=["models.example:443", "Inner.example", "fd00::7"])

    said = {host: status(gate, (b"host", host)) for host in (
        b"models.example:443", b"models.example:444", b"models.example", b"inner.example", b"INNER.example:9",
        b"[fd00::7]:1",
    )}  # fmt: skip

    assert list(said.values()) == [200, 421, 421, 200, 200, 200]


@pytest.mark.parametrize("given_host", ["", "http://x", "a b", "*", "a:b", "a/b", "é"])
def test_what_is_no_host_can_not_be_allowed(given_host):
    with pytest.raises(InvalidInput) as refused:
        Gate(host="127.0.0.1", allowed_hosts=[given_host])

    assert refused.value.code == "ST726"


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", ""])  # noqa: S104 - nothing is bound
def test_on_all_addresses_any_address_is_right_but_no_unknown_name(bind):
    gate = Gate(host=bind, tokens=[token("predict", "predict")], tls=True)
    key = bearer("predict")

    assert status(gate, key, (b"host", b"10.0.0.7:8484")) == 200
    assert status(gate, key, (b"host", b"[fd00::7]")) == 200
    assert status(gate, key, (b"host", b"evil.example")) == 421


def test_what_is_remembered_of_hosts_does_not_grow_without_end(open_gate):
    for port in range(5000):
        assert status(open_gate, (b"host", f"localhost:{port}".encode())) == 200

    assert len(open_gate._known_hosts) <= 1024


# -- pages of others --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "sent",
    [
        (b"origin", b"https://evil.example"), (b"origin", b"null"), (b"origin", b""), (b"origin",
        b"http://127.0.0.1:8485"),
        (b"origin", b"https://127.0.0.1:8484"), (b"origin", b"http://localhost:8484"), (b"origin", b"http://127.0.0.1"),
        (b"origin", b"http://127.0.0.1:8484/"), (b"origin", b"127.0.0.1:8484"), (b"origin",
        b"http://127.0.0.1:8484 http://evil"),
        (b"sec-fetch-site", b"cross-site"), (b"sec-fetch-site", b"same-site"), (b"sec-fetch-site", b""),
    ],
)  # fmt: skip
def test_a_page_of_another_origin_is_refused_whatever_the_method(open_gate, closed_gate, method, sent):
    for gate in (open_gate, closed_gate):
        assert status(gate, HERE, bearer("predict"), method=method) == 200
        problem = gate.check(method, "/predict", [HERE, sent, bearer("predict")], "http")
        assert problem is not None
        assert (problem.status, problem.code) == (403, "ST723")


@pytest.mark.parametrize(
    "headers",
    [
        [(b"origin", b"http://127.0.0.1:8484"), (b"sec-fetch-site", b"same-origin")],
        [(b"sec-fetch-site", b"none")],
        [(b"origin", b"HTTP://127.0.0.1:8484")],
    ],
)
def test_its_own_pages_and_typed_addresses_are_let_in(open_gate, headers):
    assert status(open_gate, HERE, *headers) == 200


def test_one_wrong_value_among_two_is_enough_to_refuse(open_gate):
    right = (b"origin", b"http://127.0.0.1:8484")
    assert status(open_gate, HERE, right, right) == 403
    assert status(open_gate, HERE, (b"sec-fetch-site", b"none"), (b"sec-fetch-site", b"cross-site")) == 403


def test_a_default_port_is_the_same_as_none(open_gate):
    assert status(open_gate, (b"host", b"localhost:80"), (b"origin", b"http://localhost")) == 200
    assert status(open_gate, (b"host", b"localhost"), (b"origin", b"https://localhost:443"), scheme="https") == 200


# -- proxies ----------------------------------------------------------------------------------------------------------

FORWARDED = [(b"x-forwarded-host", b"models.example"), (b"x-forwarded-proto", b"https")]
PUBLIC = (b"origin", b"https://models.example")


def test_forwarded_headers_count_behind_a_proxy_and_nowhere_else():
    keys = [token("predict", "predict")]
    direct = Gate(host="127.0.0.1", allowed_hosts=["models.example"], tokens=keys)
    behind = Gate(host="127.0.0.1", allowed_hosts=["models.example"], tokens=keys, behind_proxy=True)

    assert status(behind, HERE, bearer("predict"), PUBLIC, *FORWARDED) == 200
    assert status(direct, HERE, bearer("predict"), PUBLIC, *FORWARDED) == 403
    assert status(direct, HERE, bearer("predict"), (b"x-forwarded-host", b"evil.example")) == 200


def test_behind_a_proxy_the_name_that_it_was_asked_under_has_to_be_allowed_and_the_last_one_counts():
    gate = Gate(
        host="127.0.0.1", allowed_hosts=["models.example"], tokens=[token("predict", "predict")], behind_proxy=True
    )

    assert status(gate, HERE, bearer("predict"), (b"x-forwarded-host", b"evil.example")) == 421
    assert status(gate, HERE, bearer("predict"), (b"x-forwarded-host", b"models.example, evil.example")) == 421
    assert status(gate, HERE, bearer("predict"), (b"x-forwarded-host", b"evil.example, models.example")) == 200


# -- who may start ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"])
def test_loopback_starts_with_nothing(host):
    assert not Gate(host=host).needs_token


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "10.0.0.7", "models.example", "localhost.evil.example", "128.0.0.1"],  # noqa: S104 - as above
)
def test_another_address_starts_with_a_token_and_with_tls_or_a_proxy_only(host):
    keys = [token("predict", "predict")]
    for tls in (False, True):
        for behind_proxy in (False, True):
            with pytest.raises(Refused, match="staytrue token new") as refused:
                Gate(host=host, tls=tls, behind_proxy=behind_proxy)
            assert refused.value.code == "ST720"
    with pytest.raises(Refused, match="--tls-cert") as refused:
        Gate(host=host, tokens=keys)
    assert refused.value.code == "ST721"

    assert Gate(host=host, tokens=keys, tls=True).needs_token
    assert Gate(host=host, tokens=keys, behind_proxy=True).needs_token


def test_loopback_behind_a_proxy_is_not_loopback():
    with pytest.raises(Refused) as refused:
        Gate(host="127.0.0.1", behind_proxy=True)

    assert refused.value.code == "ST720"


# -- anything at all --------------------------------------------------------------------------------------------------

NAMES = st.sampled_from([
    b"host", b"origin", b"sec-fetch-site", b"authorization", b"x-forwarded-host", b"x-forwarded-proto", b"accept",
])  # fmt: skip
VALUES = st.binary(max_size=20) | st.sampled_from([b"localhost:1", b"http://localhost:1", b"same-origin", b"Bearer x"])


@given(
    st.text(), st.text(), st.lists(st.tuples(NAMES, VALUES)), st.sampled_from(["http", "https", "ws"]), st.booleans()
)
def test_whatever_is_sent_is_answered_and_nobody_gets_in_without_a_token(method, path, headers, scheme, behind_proxy):
    gate = Gate(host="127.0.0.1", tokens=[token("predict", "predict")], behind_proxy=behind_proxy)

    problem = gate.check(method, path, headers, scheme)

    assert path in OPEN or problem is not None
    assert problem is None or problem.body()


# -- the page ---------------------------------------------------------------------------------------------------------

PAGE_PATHS = [(route, route.path.replace("{path}", "rates/x")) for route in PAGES]
NAVIGATED = [(b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", b"navigate"), (b"sec-fetch-dest", b"document")]


def cookie(name: str, *, key: bytes = b"staytrue") -> tuple[bytes, bytes]:
    return (b"cookie", b"theme=dark; %s=st_%s" % (key, name.encode()))


@pytest.mark.parametrize(("route", "path"), PAGE_PATHS, ids=lambda one: getattr(one, "path", one))
def test_a_route_of_the_page_needs_its_scope_by_header_or_by_cookie(closed_gate, route, path):
    for scope in SCOPES:
        expected = 200 if route.scope in {None, scope} else 403
        assert status(closed_gate, HERE, bearer(scope), path=path) == expected
        assert status(closed_gate, HERE, cookie(scope), path=path) == expected
    assert status(closed_gate, HERE, path=path) == (200 if route.scope is None else 401)
    assert status(closed_gate, HERE, cookie("guess"), path=path) == (200 if route.scope is None else 401)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_a_cookie_opens_no_route_for_programs(closed_gate, route):
    for scope in SCOPES:
        assert status(closed_gate, HERE, cookie(scope), path=filled(route.path)) == (200 if route.path in OPEN else 401)


def test_a_header_that_is_wrong_is_not_made_good_by_a_cookie(closed_gate):
    assert status(closed_gate, HERE, bearer("guess"), cookie("read"), path="/") == 401


def test_two_cookies_of_the_name_are_none(closed_gate):
    assert status(closed_gate, HERE, cookie("read"), cookie("read"), path="/") == 401


def test_over_tls_only_the_cookie_counts_that_never_went_without(closed_gate):
    secure = cookie("read", key=b"__Host-staytrue")

    assert status(closed_gate, HERE, secure, path="/", scheme="https") == 200
    assert status(closed_gate, HERE, cookie("read"), path="/", scheme="https") == 401
    assert status(closed_gate, HERE, secure, path="/") == 401


@pytest.mark.parametrize("path", ["/", "/apps/rates", "/api/rates"])
def test_a_link_from_elsewhere_leads_to_a_page_and_to_nothing_that_acts(open_gate, path):
    assert status(open_gate, HERE, *NAVIGATED, path=path) == 200
    assert status(open_gate, HERE, *NAVIGATED[:2], path=path) == 403
    assert status(open_gate, HERE, *NAVIGATED, (b"origin", b"null"), path=path) == 403
    assert status(open_gate, HERE, *NAVIGATED, path="/predict") == 403
    assert status(open_gate, HERE, *NAVIGATED, path="/actions/pause", method="POST") == 403


def test_who_asks_is_known_by_the_name_of_the_token(closed_gate, open_gate):
    by_header = closed_gate.caller([HERE, bearer("read")], "http")
    by_cookie = closed_gate.caller([HERE, cookie("operate")], "http")
    nobody = closed_gate.caller([HERE], "http")
    local = open_gate.caller([HERE], "http")

    assert (by_header.name, set(by_header.scopes), by_header.cookie) == ("read", {"read"}, "")
    assert (by_cookie.name, set(by_cookie.scopes), by_cookie.cookie) == ("operate", {"operate"}, "st_operate")
    assert (nobody.name, nobody.scopes, nobody.cookie) == ("", frozenset(), "")
    assert (local.name, set(local.scopes)) == ("", set(SCOPES))
