"""A champion behind HTTP: what it answers, what it refuses, what it writes down."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from prometheus_client.parser import text_string_to_metric_families
from server import ROW, post, until

from staytrue.serve.limits import ServerLimits
from staytrue.store.store import open_store

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def logged(up):
    """`logged(ids)`: the rows of these predictions in `store.traffic()`, by id."""
    store = open_store(up.store_path, must_exist=True)

    def of(ids):
        rows = store.traffic().to_pandas()
        return rows[rows["id"].isin(ids)].set_index("id").loc[ids]

    yield of
    store.close()


def at_once(up, *rows):
    """These rows as requests of their own, which reach the model together: they wait behind a slow one."""
    with ThreadPoolExecutor(len(rows) + 1) as pool:
        slow = pool.submit(up.predict, ROW | {"note": "slow"})
        until(lambda: up.metric("http_server_active_requests") >= 2, "the slow request is under way")
        asked = [pool.submit(up.predict, row) for row in rows]
        assert slow.result().status == 200
        return [one.result() for one in asked]


# -- answers ------------------------------------------------------------------------------------------------------------


def test_it_answers_what_the_released_model_says(up):
    store = open_store(up.store_path, must_exist=True)
    sizes = [1.5, 2.0, 4.25]

    got = up.predict(*(ROW | {"size": size} for size in sizes))

    model = store.release(got.json["release"]).model()
    store.close()
    assert got.status == 200
    assert got.json["predictions"] == pytest.approx(np.polyval(model, sizes).tolist(), rel=1e-12)


def test_every_answer_names_its_release_in_header_and_body(up):
    got = up.predict(ROW)

    assert (got.release, got.json["release"]) == (up.release, up.release)


def test_each_row_has_an_id_of_its_own_that_tells_when_it_was(up):
    before_ms = time.time_ns() // 1_000_000
    ids = up.predict(*[ROW] * 3).json["ids"]
    after_ms = time.time_ns() // 1_000_000

    assert len(set(ids)) == 3
    assert ids == sorted(ids)
    assert {UUID(one).version for one in ids} == {7}
    assert all(before_ms <= UUID(one).int >> 80 <= after_ms for one in ids)


def test_a_large_request_is_answered_row_by_row_as_a_small_one(up, logged):
    sizes = np.linspace(1.5, 4.5, 6_000).round(3).tolist()
    rows = [ROW | {"size": size, "id": at} for at, size in enumerate(sizes)]
    rows[4_321]["city"] = "faro"

    got = up.predict(*rows)

    alone = [up.predict(rows[at]).json["predictions"][0] for at in (0, 4_321, 5_999)]
    assert got.status == 200
    assert [got.json["predictions"][at] for at in (0, 4_321, 5_999)] == pytest.approx(alone, rel=1e-12)
    assert got.json["predictions"] == sorted(got.json["predictions"])
    assert [(one["row"], one["fault"]) for one in got.json["flags"]] == [(4_321, "category")]
    assert len(set(got.json["ids"])) == 6_000
    written = logged(got.json["ids"])
    assert written["size"].tolist() == sizes
    assert written["answer"].tolist() == got.json["predictions"]
    assert written["flags"].notna().tolist() == [at == 4_321 for at in range(6_000)]


def test_a_bad_row_in_a_large_request_is_named_and_nothing_is_predicted(up):
    rows = [dict(ROW) for _ in range(6_000)]
    rows[5_555]["size"] = "40"

    got = up.predict(*rows)

    assert (got.status, got.errors["size"]["row"], got.errors["size"]["fault"]) == (422, 5_555, "type")


def test_small_requests_are_answered_while_a_large_one_is(up):
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(up.predict, *[ROW] * 50_000)
        small = []
        while not large.done():
            small.append(up.predict(ROW).status)

    assert (large.result().status, set(small)) == (200, {200})
    assert len(small) >= 3


# -- traffic ------------------------------------------------------------------------------------------------------------


def test_a_prediction_is_in_the_log_when_its_answer_is_there(up, logged):
    got = up.predict(ROW | {"id": 7, "note": "a quiet one"}, ROW | {"size": 3.5}).json

    rows = logged(got["ids"])
    assert rows["answer"].tolist() == got["predictions"]
    assert rows["size"].tolist() == [2.0, 3.5]
    assert rows["note"].iloc[0] == "a quiet one"
    assert pd.isna(rows["note"].iloc[1])
    assert set(rows["release"]) == {up.release}
    assert set(rows["arm"]) == {"champion"}
    assert set(rows["weight"]) == {1.0}


def test_a_label_joins_by_the_id_of_the_prediction_and_by_the_key_of_the_row(up, logged):
    ids = up.predict(ROW | {"id": 900_001}, ROW | {"id": 900_002}, ROW).json["ids"]

    said = up.post("/labels", {"labels": [{"id": ids[0], "label": 31.5}, {"key": 900_002, "label": 32.5}]})

    assert (said.status, said.json) == (200, {"accepted": 2})
    assert logged(ids)["label"].tolist()[:2] == [31.5, 32.5]
    assert np.isnan(logged(ids)["label"].iloc[2])


def test_a_label_counts_once_and_the_latest_one_holds(up, logged):
    ids = up.predict(ROW).json["ids"]
    first = {"id": ids[0], "label": 30.0, "at": "2026-03-01T12:00:00Z"}
    later = {"id": ids[0], "label": 33.0, "at": "2026-03-02T12:00:00Z"}

    for label in (later, first, first):
        assert up.post("/labels", {"labels": [label]}).status == 200

    assert logged(ids)["label"].tolist() == [33.0]


@pytest.mark.parametrize(
    "label",
    [
        {"label": 1.0},
        {"id": "no id", "label": 1.0},
        {"id": "01956f3e-7c00-7000-8000-000000000000"},
        {"id": "01956f3e-7c00-7000-8000-000000000000", "key": 1, "label": 1.0},
        {"key": 1, "label": 1.0, "at": "yesterday"},
        {"key": 1, "label": 1.0, "colour": "red"},
        {"key": 2.5, "label": 1.0},
        {"key": 2**70, "label": 1.0},
        {"key": 1, "label": 1.0, "at": "9999-12-31T23:59:59-12:00"},
        {"key": 1, "label": 1.0, "at": "0001-01-01T00:00:00+12:00"},
    ],
)  # fmt: skip
def test_a_label_that_says_too_little_or_too_much_is_not_accepted(up, label):
    got = up.post("/labels", {"labels": [{"key": "good", "label": 1.0}, label]})

    assert (got.status, got.headers["content-type"]) == (422, "application/problem+json")


# -- the input contract -------------------------------------------------------------------------------------------------

ANSWERED = {
    "like training": ({}, {}),
    "a whole number for a number": ({"size": 2}, {}),
    "a number with a point for a whole number": ({"rooms": 2.0}, {}),
    "null where training saw nulls": ({"built": None}, {}),
    "a date": ({"built": "1984-05-06"}, {}),
    "a key and a time, which the model does not see": ({"id": 10**12, "at": "2031-01-01T00:00:00Z"}, {}),
    "the label, which is no column of a request": ({"rate": 1.0}, {}),
    "a text where all texts are different": ({"note": "never seen"}, {}),
    "beyond what training saw": ({"size": 7.5}, {"size": "range"}),
    "a word that training never saw": ({"city": "faro"}, {"city": "category"}),
    "a column that nobody knows": ({"colour": "red"}, {"colour": "extra"}),
    "10 times beyond": ({"size": 45}, {"size": "range"}),
}
REFUSED = {
    "100 times beyond": ({"size": 600.0}, "size", "unit"),
    "1000 times beyond": ({"size": 6000}, "size", "unit"),
    "beyond, where the app says refuse": ({"rooms": 9}, "rooms", "range"),
    "an unknown word, where the app says refuse": ({"kind": "castle"}, "kind", "category"),
    "null where training saw none": ({"size": None}, "size", "null"),
    "true for a number": ({"size": True}, "size", "type"),
    "a text for a number": ({"size": "40"}, "size", "type"),
    "a text for a whole number": ({"rooms": "2"}, "rooms", "type"),
    "a number for a text": ({"city": 5}, "city", "type"),
    "half a room": ({"rooms": 2.5}, "rooms", "type"),
    "1 for true": ({"lift": 1}, "lift", "type"),
    "a list for a number": ({"size": [2.0]}, "size", "type"),
    "an object for a text": ({"city": {"name": "porto"}}, "city", "type"),
    "a text that is no date": ({"built": "1984-13-01"}, "built", "type"),
    "a whole number beyond 64 bits": ({"rooms": 2**80}, "rooms", "type"),
    "NaN, as Python writes it": ({"size": float("nan")}, "size", "nonfinite"),
    "Infinity": ({"size": float("inf")}, "size", "nonfinite"),
    "-Infinity": ({"size": float("-inf")}, "size", "nonfinite"),
}


@pytest.mark.parametrize("what", ANSWERED)
def test_it_is_answered_and_flagged_as_documented(up, what):
    row, flags = ANSWERED[what]

    got = up.predict(ROW, ROW | row)

    assert (got.status, got.flags) == (200, flags)
    assert {one["row"] for one in got.json.get("flags", [])} <= {1}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_with_row_field_got_and_expected(up, what):
    row, field, fault = REFUSED[what]

    got = up.predict(ROW, ROW | row)

    assert (got.status, got.code) == (422, "ST759")
    assert got.headers["content-type"] == "application/problem+json"
    (error,) = got.json["errors"]
    assert (error["row"], error["field"], error["fault"]) == (1, field, fault)
    assert error["got"]
    assert error["expected"]


def test_a_number_that_no_float_holds_is_not_finite(up):
    got = up.post("/predict", b'{"rows": [{"size": 1e400, "rooms": 2, "city": "porto", "kind": "flat"}]}')

    assert (got.status, got.errors["size"]["fault"]) == (422, "nonfinite")


def test_a_column_that_is_missing_is_named_beside_the_one_that_may_be_meant(up):
    row = dict(ROW)
    row["sise"] = row.pop("size")

    got = up.predict(row)

    assert got.status == 422
    assert got.errors["size"]["fault"] == "missing"
    assert "'sise'" in got.errors["size"]["message"]


def test_an_unknown_word_is_told_the_nearest_known_one(up):
    flag = up.predict(ROW | {"city": "prto"}).json["flags"][0]

    assert "did you mean 'porto'?" in flag["message"]
    assert flag["expected"] == "one of lisbon, porto"


def test_one_bad_row_refuses_the_request_and_every_bad_field_is_named(up):
    before = up.metric("staytrue_rows_total")

    got = up.predict(ROW, {"size": "x", "rooms": None, "city": "porto"}, ROW | {"size": None})

    assert {(one["row"], one["field"]) for one in got.json["errors"]} == {
        (1, "size"), (1, "rooms"), (1, "kind"), (2, "size"),
    }  # fmt: skip
    assert up.metric("staytrue_rows_total") == before


def test_what_is_odd_is_logged_and_counted(up, logged):
    before = up.metric("staytrue_flagged_rows_total")

    got = up.predict(ROW, ROW | {"city": "faro"})

    assert "city:category" in str(logged(got.json["ids"])["flags"].iloc[1])
    assert up.metric("staytrue_flagged_rows_total") == before + 1


# -- what is no request of rows -----------------------------------------------------------------------------------------

DEEP = b'{"rows": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
NO_ROWS = {
    "nothing": (b"", 400, "ST757"),
    "no JSON": (b"size=2", 400, "ST757"),
    "JSON that ends early": (b'{"rows": [{"size": 2', 400, "ST757"),
    "bytes that are no UTF-8": (b'{"rows": [{"city": "\xff\xfe"}]}', 400, "ST757"),
    "half a character": (b'{"rows": [{"size": 2, "rooms": 2, "city": "\\ud800", "kind": "flat"}]}', 400, "ST757"),
    "JSON nested 100,000 deep": (DEEP, 400, "ST757"),
    "a list": (b"[]", 422, "ST756"),
    "a row without rows": (json.dumps(ROW).encode(), 422, "ST756"),
    "rows that are no list": (b'{"rows": {"size": 2}}', 422, "ST756"),
    "something beside the rows": (json.dumps({"rows": [ROW], "model": "x"}).encode(), 422, "ST756"),
    "no row": (b'{"rows": []}', 422, "ST758"),
    "rows that are no objects": (b'{"rows": [2.0]}', 422, "ST759"),
    "100,001 rows": (b'{"rows": [' + b"{}," * 100_000 + b"{}]}", 422, "ST758"),
}


@pytest.mark.parametrize("what", NO_ROWS)
def test_what_is_no_request_is_told_so(up, what):
    body, status, code = NO_ROWS[what]

    got = up.post("/predict", body)

    assert (got.status, got.code) == (status, code)
    assert got.json.keys() >= {"type", "title", "status", "detail", "code"}
    assert "Traceback" not in up.stderr


@pytest.mark.parametrize("how", ["content-length", "chunked"])
def test_a_body_beyond_the_limit_is_413_and_the_server_goes_on(up, how):
    size = ServerLimits().body_bytes + 1
    piece = b" " * (1 << 16)
    with up.connection() as connection:
        if how == "content-length":
            # Told, so that nobody has to read it.
            connection.send(b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n {" % size)
        else:
            connection.send(b"POST /predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(size // len(piece) + 1):
                connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        got = connection.answer()

    assert (got.status, got.code) == (413, "ST766")
    assert up.predict(ROW).status == 200


# -- HTTP ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/apps/", "/predict/", "//predict", "/PREDICT", "/nothing", "/v2/models/other/infer/", "/%2e/predict"]
)
def test_an_unknown_path_is_404(up, path):
    (got,) = up.talk(f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n".encode())

    assert (got.status, got.code) == (404, "ST769")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/predict", "POST"), ("PUT", "/predict", "POST"), ("DELETE", "/labels", "POST"), ("TRACE", "/predict", "POST"),
     ("OPTIONS", "/predict", "POST"), ("BREW", "/predict", "POST"), ("POST", "/metrics", "GET, HEAD")],
)  # fmt: skip
def test_a_wrong_method_is_405_and_told_the_right_ones(up, method, path, allowed):
    got = up.ask(method, path)

    if method == "BREW":  # not even a method: the parser hangs up
        assert got.status in {400, 405}
    else:
        assert (got.status, got.code, got.headers["allow"]) == (405, "ST770", allowed)


def test_health_and_readiness(up):
    assert (up.get("/healthz").json, up.get("/readyz").json) == ({"status": "ok"}, {"status": "ready"})


def test_head_answers_as_get_without_the_body(up):
    with up.connection() as connection:
        connection.send(b"HEAD /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        head = connection.answer(to_head=True)
        # The connection is in step still: no body came.
        connection.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        got = connection.answer()

    assert (head.status, int(head.headers["content-length"])) == (200, len(got.body))


def test_two_requests_in_one_go_are_answered_in_their_order(up):
    rows = [ROW | {"size": size} for size in (1.0, 5.0)]

    first, second = up.talk(b"".join(post("/predict", {"rows": [row]}) for row in rows), answers=2)

    assert first.json["predictions"][0] < second.json["predictions"][0]


def test_a_body_may_come_in_chunks(up):
    head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    body = json.dumps({"rows": [ROW]}).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:8], body[8:]))

    (got,) = up.talk(head + chunks + b"0\r\n\r\n")

    assert (got.status, len(got.json["predictions"])) == (200, 1)


def test_who_expects_to_be_asked_for_the_body_is_asked(up):
    body = json.dumps({"rows": [ROW]}).encode()
    with up.connection() as connection:
        connection.send(
            b"POST /predict HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n"
            % len(body)
        )
        asked = connection.answer()
        connection.send(body)
        got = connection.answer()

    assert (asked.status, got.status) == (100, 200)


def test_a_caller_of_http_1_0_is_answered_and_let_go(up):
    data = json.dumps({"rows": [ROW]}).encode()
    with up.connection() as connection:
        connection.send(
            b"POST /predict HTTP/1.0\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%s" % (len(data), data)
        )

        assert connection.answer().status == 200
        assert connection.is_over


@pytest.mark.parametrize("row", [ROW, {"size": "x"}], ids=["answered", "refused"])
def test_the_trace_of_the_caller_comes_back(up, row):
    assert up.predict(row, headers={"traceparent": TRACE}).headers["traceparent"] == TRACE
    assert up.get("/healthz", headers={"traceparent": TRACE}).headers["traceparent"] == TRACE


def test_a_page_of_another_site_is_not_answered(up):
    assert up.predict(ROW, headers={"origin": "https://evil.example"}).status == 403
    assert up.predict(ROW, headers={"sec-fetch-site": "cross-site"}).status == 403
    assert up.predict(ROW, headers={"host": "evil.example"}).status == 421
    assert up.predict(ROW, headers={"origin": up.url, "host": up.url.removeprefix("http://")}).status == 200


def test_prometheus_reads_the_metrics(up):
    answered = up.metric("staytrue_rows_total")
    up.predict(*[ROW] * 5)

    got = up.get("/metrics")

    families = {one.name: one for one in text_string_to_metric_families(got.body.decode())}
    assert got.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert families["staytrue_rows"].samples[0].value == answered + 5
    routes = {sample.labels["http_route"] for sample in families["http_server_request_duration_seconds"].samples}
    assert {"/predict", "/metrics"} <= routes
    assert families["staytrue_predictions"].samples[0].labels == {"release": up.release[:12], "arm": "champion"}


# -- an app that fails --------------------------------------------------------------------------------------------------


def test_a_request_that_the_app_fails_on_is_500_and_those_beside_it_are_answered(up):
    first, bad, last = at_once(up, ROW | {"size": 1.0}, ROW | {"note": "raise"}, ROW | {"size": 5.0})

    assert (bad.status, bad.code) == (500, "ST303")
    assert "no quote for this one" in bad.json["detail"]
    assert [first.status, last.status] == [200, 200]
    assert first.json["predictions"] < last.json["predictions"]


def test_the_row_that_the_app_fails_on_is_named(up):
    got = up.predict(ROW, ROW, ROW | {"note": "raise"}, ROW)

    assert (got.status, [one["row"] for one in got.json["errors"]]) == (500, [2])


def test_a_failure_on_odd_values_is_the_callers_to_mend(up):
    got = up.predict(ROW | {"note": "raise", "city": "faro"})

    assert (got.status, got.errors["city"]["fault"]) == (422, "category")


def test_nothing_of_a_failed_request_is_in_the_log(up):
    up.predict(ROW | {"note": "raise", "id": 910_001})
    ids = up.predict(ROW | {"id": 910_002}).json["ids"]

    store = open_store(up.store_path)
    rows = store.traffic().to_pandas()
    store.close()
    assert rows[rows["id"].isin(ids)]["id"].tolist() == ids
    assert 910_002 in set(rows["row.id"])
    assert 910_001 not in set(rows["row.id"])


def test_a_request_that_kills_the_models_process_is_500_and_those_beside_it_are_answered(up):
    first, bad, last = at_once(up, ROW, ROW | {"note": "die"}, ROW)

    assert (bad.status, bad.code) == (500, "ST763")
    assert [first.status, last.status] == [200, 200]
    assert up.metric("staytrue_worker_restarts_total") >= 1
