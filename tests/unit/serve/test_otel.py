"""OpenTelemetry: a real OTLP receiver gets what `/metrics` says; one that is away, slow or rude disturbs nobody."""

from __future__ import annotations

import asyncio
import gzip
import importlib.util
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prometheus_client.parser import text_string_to_metric_families

from staytrue.serve.metrics import DURATION_BUCKETS, Metrics
from staytrue.serve.otel import otel_sender

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"

installed = pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry.exporter") is None or importlib.util.find_spec("opentelemetry.sdk") is None,
    reason="the extra is not installed: pip install 'staytrue[otel]'",
)


class Collector:
    """What an OpenTelemetry collector does with `/v1/metrics`: decode it, and say 200."""

    def __init__(self):
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        self.status = 200
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.arrived = threading.Event()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.got: list[ExportMetricsServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
                collector.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                collector.arrived.set()
                collector.may_answer.wait(20)
                if collector.status == 200:
                    collector.got.append(ExportMetricsServiceRequest.FromString(body))
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.may_answer.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def resource(self):
        (resource,) = [one.resource for one in self.got[-1].resource_metrics]
        return {one.key: one.value.string_value for one in resource.attributes}

    def metrics(self):
        """name -> metric of the newest request."""
        (resource,) = self.got[-1].resource_metrics
        (scope,) = resource.scope_metrics
        assert scope.scope.name == "staytrue"
        return {one.name: one for one in scope.metrics}


def attributes(point):
    return {one.key: one.value.int_value or one.value.string_value for one in point.attributes}


@pytest.fixture
def clean(monkeypatch):
    """No variable of OpenTelemetry that this machine happens to have."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def collector(clean):
    pytest.importorskip("opentelemetry.proto", reason="the extra is not installed: pip install 'staytrue[otel]'")
    made = Collector()
    clean.setenv(ENDPOINT, made.url)
    yield made
    made.close()


@pytest.fixture
def told():
    return []


@pytest.fixture
def metrics():
    made = Metrics()
    made.rows.inc(7)
    made.shed.labels("queue").inc(2)
    made.duration.labels("POST", "/predict", "200").observe(0.02, 3)
    made.duration.labels("POST", "/predict", "200").observe(99.0)
    made.health.show({("right",): 1, ("harmed",): 0, ("unknown",): 0})
    made.loss.show({(): 2.5})
    made.decisions.show({("promoted",): 3})
    return made


@pytest.fixture
def start(metrics, told):
    """`start()`: the sender as the server makes it."""
    return lambda: otel_sender(metrics, "rates", say=told.append)


def round_of(sender):
    sender.send()
    sender.wait(15)


@installed
def test_everything_of_the_page_reaches_a_collector_with_the_same_values(collector, start, metrics, told):
    sender = start()

    round_of(sender)

    found = collector.metrics()
    same = {"http_server_request_duration_seconds": "http.server.request.duration",
            "http_server_active_requests": "http.server.active_requests"}  # fmt: skip
    for family in text_string_to_metric_families(metrics.text().decode()):
        total = f"{family.name}_total" if family.type == "counter" else family.name
        if not family.samples or family.name.startswith("process_") or family.type == "histogram":
            continue
        one = found.pop(same.get(total, total))
        points = (one.sum if family.type == "counter" else one.gauge).data_points
        assert {tuple(attributes(point).items()): point.as_double for point in points} == {
            tuple(sample.labels.items()): sample.value for sample in family.samples
        }
        assert one.description == family.documentation
    assert sorted(found) == [
        "http.server.request.duration", "process_cpu_seconds_total", "process_open_fds", "process_resident_memory_bytes",
        "process_start_time_seconds", "staytrue_batch_rows", "staytrue_queue_wait_seconds",
    ]  # fmt: skip
    assert told == []


@installed
def test_a_histogram_arrives_with_its_buckets_and_the_convention_s_names(collector, start, metrics):
    round_of(start())

    one = collector.metrics()["http.server.request.duration"]
    (point,) = one.histogram.data_points

    assert one.unit == "s"
    assert one.histogram.aggregation_temporality == 2  # cumulative
    assert attributes(point) == {
        "http.request.method": "POST", "http.route": "/predict", "http.response.status_code": 200,
    }  # fmt: skip
    assert tuple(point.explicit_bounds) == DURATION_BUCKETS
    assert list(point.bucket_counts) == metrics.duration.labels("POST", "/predict", "200").counts
    assert (point.count, point.sum) == (4, pytest.approx(99.06))
    assert not point.HasField("min")
    assert not point.HasField("max")


@installed
def test_counters_are_totals_since_the_front_began_but_decisions_are_older(collector, start, metrics):
    before_ns = time.time_ns()
    sender = start()
    round_of(sender)
    metrics.rows.inc(5)
    round_of(sender)

    rows = collector.metrics()["staytrue_rows_total"]
    (point,) = rows.sum.data_points

    assert (rows.sum.is_monotonic, rows.sum.aggregation_temporality, point.as_double) == (True, 2, 12)
    assert before_ns <= point.start_time_unix_nano < point.time_unix_nano <= time.time_ns()
    (decided,) = collector.metrics()["staytrue_decisions_total"].sum.data_points
    assert decided.start_time_unix_nano == 0  # not said
    assert collector.metrics()["staytrue_disk_free_bytes"].unit == "By"


@installed
@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "rates"),
        ({"OTEL_SERVICE_NAME": "hotel"}, "hotel"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=inn,team=blue"}, "inn"),
    ],
)
def test_the_service_is_the_app_unless_the_environment_says_otherwise(collector, clean, start, variables, name):
    for key, value in variables.items():
        clean.setenv(key, value)

    round_of(start())

    assert collector.resource()["service.name"] == name
    assert collector.resource().get("team") == ("blue" if name == "inn" else None)


@installed
def test_the_standard_variables_are_followed(collector, clean, start, metrics):
    clean.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{collector.url}/of/ours")
    clean.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret")
    clean.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")

    round_of(start())

    ((path, headers),) = collector.asked
    assert path == "/of/ours"
    assert headers["authorization"] == "Bearer secret"
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["content-encoding"] == "gzip"
    assert "staytrue_rows_total" in collector.metrics()


@installed
def test_names_from_outside_arrive_whatever_they_are(collector, start, metrics, told):
    for name in ("größe\n", '"', "", "\ud800", "x" * 5_000):
        metrics.refused_rows.labels("extra", name).inc()

    round_of(start())

    points = collector.metrics()["staytrue_refused_rows_total"].sum.data_points
    assert sorted(len(attributes(point)["field"]) for point in points) == [0, 1, 1, 6, 5_000]
    assert (metrics.otel_failures.value, told) == (0, [])


@installed
def test_a_collector_that_is_away_is_counted_said_once_and_does_not_print(clean, start, metrics, told, capfd):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        clean.setenv(ENDPOINT, f"http://anna:secret@127.0.0.1:{taken.getsockname()[1]}")
        clean.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        sender = start()
        round_of(sender)
        round_of(sender)

    assert metrics.otel_failures.value == 2
    assert len(told) == 1
    assert "staytrue_otel_failures_total" in told[0]
    assert "secret" not in told[0]
    assert capfd.readouterr() == ("", "")


@installed
def test_a_collector_that_says_no_and_then_yes_is_told_of_twice(collector, start, metrics, told):
    sender = start()
    for status in (200, 400, 401, 200, 200):
        collector.status = status
        round_of(sender)

    assert metrics.otel_failures.value == 2
    assert [sentence.partition(": ")[2][:26] for sentence in told] == [
        "figures were not exported:",
        "figures are taken again.",
    ]
    (failures,) = collector.metrics()["staytrue_otel_failures_total"].sum.data_points
    assert failures.as_double == 2


@installed
def test_a_collector_that_hangs_holds_up_neither_the_loop_nor_the_end(collector, clean, start):
    collector.may_answer.clear()
    clean.setenv("OTEL_METRIC_EXPORT_INTERVAL", "10")
    sender = start()

    async def served():
        task = asyncio.create_task(sender.run())
        late_s = 0.0
        await asyncio.to_thread(collector.arrived.wait, 20)
        for _ in range(30):
            planned = time.perf_counter() + 0.01
            await asyncio.sleep(0.01)
            late_s = max(late_s, time.perf_counter() - planned)
        began_s = time.perf_counter()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return late_s, time.perf_counter() - began_s

    late_s, end_s = asyncio.run(served())

    assert len(collector.asked) == 1  # no second round while the first one waits
    assert late_s < 0.5  # the hang is 20 s; a busy machine is late too
    assert end_s < 3


@installed
def test_the_end_tells_what_happened_since_the_last_round(collector, start, metrics):
    sender = start()

    async def served():
        task = asyncio.create_task(sender.run())
        await asyncio.sleep(0)
        metrics.rows.inc(35)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(served())

    (point,) = collector.metrics()["staytrue_rows_total"].sum.data_points
    assert point.as_double == 42


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {ENDPOINT: ""},
        {ENDPOINT: "  "},
        {ENDPOINT: "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "TRUE"},
        {ENDPOINT: "http://127.0.0.1:1", "OTEL_METRICS_EXPORTER": "none"},
        {ENDPOINT: "http://127.0.0.1:1", "OTEL_METRICS_EXPORTER": "prometheus, console"},
    ],
)
def test_nothing_is_sent_or_said_where_nobody_asks_for_it(clean, start, told, variables):
    for key, value in variables.items():
        clean.setenv(key, value)

    assert start() is None
    assert told == []


def test_without_the_extra_one_line_says_what_to_install(clean, start, told):
    clean.setenv(ENDPOINT, "http://127.0.0.1:1")
    # As where it is not installed: Python refuses the import of a name that stands for None.
    clean.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)

    assert start() is None

    assert told == ["OpenTelemetry: nothing is exported, since it is not installed: pip install 'staytrue[otel]'"]


def test_another_protocol_is_said_to_be_unknown(clean, start, told):
    clean.setenv(ENDPOINT, "http://127.0.0.1:1")
    clean.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")

    assert start() is None

    assert told == ["OpenTelemetry: nothing is exported: the protocol asked for is 'grpc', known is 'http/protobuf'."]


@installed
@pytest.mark.parametrize(
    ("given", "seconds", "said"), [("", 60, 0), ("500", 0.5, 0), ("soon", 60, 1), ("0", 60, 1), ("nan", 60, 1)]
)
def test_the_interval_is_the_variable_s(clean, metrics, given, seconds, said):
    told = []
    clean.setenv(ENDPOINT, "http://127.0.0.1:1")
    clean.setenv("OTEL_METRIC_EXPORT_INTERVAL", given)

    assert otel_sender(metrics, "rates", say=told.append).interval_s == seconds
    assert len(told) == said
