"""OpenTelemetry: all of `/metrics`, sent by OTLP over HTTP, where the standard variables name a collector. An extra: `otel`.

The families of `serve/metrics.py` are the only bookkeeping. A round reads them as a scrape does, on the event loop, and hands
plain values to a thread of its own, which encodes and sends them; nobody waits for it. No instrument of the SDK stands in
between: none of them can tell of a histogram that is counted elsewhere. What the collector does not take is not kept: the figures
are totals, so the next round tells of it too.

Left out: incidents as log records, since the SDK's logs are not stable (`opentelemetry.sdk._logs`); `staytrue_incidents` says
which stand open.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from staytrue import __version__
from staytrue.serve.metrics import Metrics, Spread, as_utf8

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import Metric, MetricExporter, MetricsData
    from opentelemetry.sdk.resources import Resource

__all__ = ["Figure", "Sender", "figures", "otel_sender"]

_INTERVAL_MS: Final = 60_000.0
_LAST_S: Final = 1.0
"""So long the end of the server waits for the last round."""
_STATUS: Final = "http.response.status_code"
_NAMES: Final = {
    "http_server_request_duration_seconds": "http.server.request.duration",
    "http_server_active_requests": "http.server.active_requests",
    "http_request_method": "http.request.method",
    "http_route": "http.route",
    "http_response_status_code": _STATUS,
}
"""Metrics and labels that OpenTelemetry has names for; all others are called as in `/metrics`."""
_UNITS: Final = {"seconds": "s", "bytes": "By"}
_OVERALL: Final = frozenset({"staytrue_decisions_total"})
"""Counted since before this process began."""


class Figure(NamedTuple):
    """A metric at one moment.

    Attributes:
        kind: `counter`, `gauge` or `histogram`.
        points: label values, in the order of `labels`, and what they hold.
    """

    name: str
    kind: str
    what: str
    labels: tuple[str, ...]
    points: list[tuple[tuple[str, ...], float | Spread]]


def figures(metrics: Metrics) -> list[Figure]:
    """All metrics, as they are now. To be called where they are counted: on the event loop."""
    return [
        Figure(one.name, one.kind, one.what, one.names, [(values, child.read()) for values, child in one.items()])
        for one in metrics.families()
    ]


def otel_sender(metrics: Metrics, app: str, *, say: Callable[[str], None]) -> Sender | None:
    """What sends these metrics, as the environment's `OTEL_...` variables have it; None: they ask for nothing, or it can't.

    Args:
        app: the service's name, unless the environment has another one.
        say: called with a sentence for the person who runs the server.
    """
    if not _is_asked():
        return None
    protocol = _of_metrics("PROTOCOL") or "http/protobuf"
    if protocol != "http/protobuf":
        say(f"OpenTelemetry: nothing is exported: the protocol asked for is {protocol!r}, known is 'http/protobuf'.")
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.resources import Resource
    except ImportError:
        say("OpenTelemetry: nothing is exported, since it is not installed: pip install 'staytrue[otel]'")
        return None
    # A handler that drops all: without any, warnings of each try would go to stderr. We say it once, and count.
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
    try:
        exporter = OTLPMetricExporter()
        resource = Resource.create()
    except Exception as exc:  # noqa: BLE001 - it reads files and plugins that the environment names: the server goes on
        say(f"OpenTelemetry: nothing is exported: its variables can't be followed ({type(exc).__name__}).")
        return None
    if str(resource.attributes.get("service.name", "unknown_service")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": app}))
    return Sender(metrics, exporter, resource, interval_s=_interval_s(say), say=say)


def _is_asked() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    wanted = os.environ.get("OTEL_METRICS_EXPORTER", "").replace(" ", "") or "otlp"
    return "otlp" in wanted.split(",") and bool(_of_metrics("ENDPOINT"))


def _of_metrics(name: str) -> str:
    """A variable of the exporter: the one for metrics, else the one for all."""
    return (
        os.environ.get(f"OTEL_EXPORTER_OTLP_METRICS_{name}") or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") or ""
    ).strip()


def _interval_s(say: Callable[[str], None]) -> float:
    given = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "").strip()
    with suppress(ValueError):
        if not given or 0 < float(given) < float("inf"):
            return (float(given) if given else _INTERVAL_MS) / 1_000
    say(f"OpenTelemetry: OTEL_METRIC_EXPORT_INTERVAL is {given!r}, expected milliseconds; figures are sent every 60 s.")
    return _INTERVAL_MS / 1_000


class Sender:
    """Sends all metrics now and then. `run` it.

    Args:
        metrics: read at each round; it also counts rounds that failed.
        exporter: where to.
        resource: who is speaking.
        interval_s: between two rounds.
        say: called, from a thread, when it begins to fail and when it works again.
    """

    def __init__(
        self,
        metrics: Metrics,
        exporter: MetricExporter,
        resource: Resource,
        *,
        interval_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._metrics, self._exporter, self._resource = metrics, exporter, resource
        self.interval_s, self._say = interval_s, say
        self._began_ns = time.time_ns()
        self._round: threading.Thread | None = None
        self._fails = False

    async def run(self) -> None:
        """Until it is cancelled; then once more, for what happened since."""
        try:
            while True:
                await asyncio.sleep(self.interval_s)
                try:
                    self.send()
                except Exception:  # noqa: BLE001 - no thread to be had, a figure that can't be read: the next round tells
                    sys.stderr.write(traceback.format_exc())
        finally:
            self.close()

    def send(self) -> None:
        """Begin a round, unless the one before is not over: a collector that hangs holds up nobody."""
        if self._round is not None and self._round.is_alive():
            return
        now = (figures(self._metrics), time.time_ns())
        # A daemon: the process may end while a collector is silent.
        self._round = threading.Thread(target=self._deliver, args=now, daemon=True, name="otel")
        self._round.start()

    def wait(self, timeout_s: float) -> None:
        """Until the round is over, or the time is."""
        if self._round is not None:
            self._round.join(timeout_s)

    def close(self) -> None:
        """One last round, and the end, within a second."""
        self.send()
        self.wait(_LAST_S)
        with suppress(Exception):  # whatever a library does at its end, the server ends too
            self._exporter.shutdown()

    def _deliver(self, found: list[Figure], now_ns: int) -> None:
        """In a thread."""
        from opentelemetry.sdk.metrics.export import MetricExportResult

        try:
            data = _document(found, self._resource, began_ns=self._began_ns, now_ns=now_ns)
            taken = self._exporter.export(data) is MetricExportResult.SUCCESS
            why = "the collector did not take them"
        except Exception as exc:  # noqa: BLE001 - of the library or the net: counted and said, whatever it is
            taken, why = False, type(exc).__name__
        if not taken:
            self._metrics.otel_failures.inc()
        if taken is self._fails:
            again = f"tried again every {self.interval_s:g} s, and counted in staytrue_otel_failures_total"
            self._say(
                "OpenTelemetry: figures are taken again."
                if taken
                else f"OpenTelemetry: figures were not exported: {why}. It is {again}."
            )
            self._fails = not taken


# ------------------------------------------------------------ figures as OpenTelemetry has them


def _document(found: Iterable[Figure], resource: Resource, *, began_ns: int, now_ns: int) -> MetricsData:
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    metrics = [
        _metric(one, began_ns=0 if one.name in _OVERALL else began_ns, now_ns=now_ns) for one in found if one.points
    ]
    scope = ScopeMetrics(scope=InstrumentationScope("staytrue", __version__), metrics=metrics, schema_url="")
    return MetricsData(resource_metrics=[ResourceMetrics(resource=resource, scope_metrics=[scope], schema_url="")])


def _metric(one: Figure, *, began_ns: int, now_ns: int) -> Metric:
    from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, Metric, Sum

    points = [_point(one, values, held, began_ns=began_ns, now_ns=now_ns) for values, held in one.points]
    total = AggregationTemporality.CUMULATIVE
    data: Any
    if one.kind == "histogram":
        data = Histogram(data_points=points, aggregation_temporality=total)
    elif one.kind == "counter":
        data = Sum(data_points=points, aggregation_temporality=total, is_monotonic=True)
    else:
        data = Gauge(data_points=points)
    unit = _UNITS.get(one.name.removesuffix("_total").rpartition("_")[2], "")
    return Metric(name=_NAMES.get(one.name, one.name), description=one.what, unit=unit, data=data)


def _point(one: Figure, values: tuple[str, ...], held: float | Spread, *, began_ns: int, now_ns: int) -> Any:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint, NumberDataPoint

    names = [_NAMES.get(name, name) for name in one.labels]
    attributes: dict[str, Any] = dict(zip(names, map(as_utf8, values), strict=True))
    if attributes.get(_STATUS, "").isdigit():
        attributes[_STATUS] = int(attributes[_STATUS])  # a number, says the convention
    told: dict[str, Any] = {"attributes": attributes, "start_time_unix_nano": began_ns, "time_unix_nano": now_ns}
    if not isinstance(held, Spread):
        return NumberDataPoint(value=held, **told)
    # Ours knows no smallest and largest value. Both are optional in the protocol, where None leaves them out.
    told |= {"min": None, "max": None}
    return HistogramDataPoint(
        count=sum(held.counts), sum=held.sum, bucket_counts=held.counts, explicit_bounds=held.bounds, **told
    )
