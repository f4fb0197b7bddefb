"""Metrics: what the server counts, in Prometheus' text format and under OpenTelemetry's names.

Everything is summed up as it happens, in lists made beforehand, so that a scrape reads and computes nothing but the
process's own figures. A caller keeps the child for its labels (`seen = metrics.duration.labels("POST", "/predict",
"200")`) and tells only that on the hot path, which takes about 0.2 us. Not for several threads at once.

A label's values may come from outside (the name of a column that does not exist): each metric keeps a bounded number of
children, and whatever comes later is counted under `other`.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

__all__ = [
    "CONTENT_TYPE",
    "DURATION_BUCKETS",
    "Counter",
    "Family",
    "Gauge",
    "Histogram",
    "Metrics",
    "Spread",
    "as_utf8",
    "method_label",
]

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

DURATION_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds: those of OpenTelemetry's `http.server.request.duration`."""
WAIT_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
ROWS_BUCKETS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0, 65536.0)
OTHER: Final = "other"

_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


class Counter:
    """Goes up only."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, n: float = 1) -> None:
        """Count `n` more."""
        self.value += n

    def read(self) -> float:
        """What it is."""
        return self.value

    def samples(self, name: str, labels: str) -> Iterator[str]:
        """Its line."""
        yield f"{name}{_braced(labels)} {_number(self.value)}\n"


class Gauge:
    """Goes up and down, or is read from a function when somebody asks."""

    __slots__ = ("_read", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._read: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        """It is this now."""
        self.value = value

    def inc(self, n: float = 1) -> None:
        """So much more, or less."""
        self.value += n

    def follow(self, read: Callable[[], float]) -> None:
        """From now on `read()` says what it is."""
        self._read = read

    def read(self) -> float:
        """What it is."""
        return self.value if self._read is None else self._read()

    def samples(self, name: str, labels: str) -> Iterator[str]:
        """Its line."""
        yield f"{name}{_braced(labels)} {_number(self.read())}\n"


class Spread(NamedTuple):
    """What a histogram holds.

    Attributes:
        bounds: ascending.
        counts: one more than bounds: values up to each bound and beyond the one before, and beyond the last.
        sum: of all values.
    """

    bounds: tuple[float, ...]
    counts: list[int]
    sum: float


class Histogram:
    """How often a value was at most each bound, and the sum of all."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, n: int = 1) -> None:
        """`n` times this value."""
        self._counts[bisect_left(self._bounds, value)] += n
        self._sum += value * n

    @property
    def counts(self) -> list[int]:
        """How many values lay between each bound and the one before, and beyond the last."""
        return list(self._counts)

    def read(self) -> Spread:
        """What it is."""
        return Spread(self._bounds, self.counts, self._sum)

    def samples(self, name: str, labels: str) -> Iterator[str]:
        """Its lines: a cumulative count for each bound, the sum, the count."""
        comma = "," if labels else ""
        total = 0
        for bound, count in zip([*map(_number, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels}{comma}le="{bound}"}} {total}\n'
        yield f"{name}_sum{_braced(labels)} {_number(self._sum)}\n"
        yield f"{name}_count{_braced(labels)} {total}\n"


Child = TypeVar("Child", Counter, Gauge, Histogram)
Valued = TypeVar("Valued", Counter, Gauge)
AnyFamily: TypeAlias = "Family[Counter] | Family[Gauge] | Family[Histogram]"


class Family(Generic[Child]):
    """One metric with labels: a child for each combination of values, `most` of them at most.

    Example:
        >>> shed = Family("staytrue_shed_total", "counter", "Rows.", ("reason",), Counter, most=2)
        >>> for reason in ("queue", "queue", "memory", "moon"):
        ...     shed.labels(reason).inc()
        >>> print("".join(shed.lines()), end="")
        # HELP staytrue_shed_total Rows.
        # TYPE staytrue_shed_total counter
        staytrue_shed_total{reason="queue"} 2
        staytrue_shed_total{reason="memory"} 1
        staytrue_shed_total{reason="other"} 1
    """

    def __init__(
        self, name: str, kind: str, what: str, names: Sequence[str], make: Callable[[], Child], *, most: int = 200
    ) -> None:
        self.name = name
        self.kind = kind
        self.what = what
        self.names = tuple(names)
        self._make: Callable[[], Child] = make
        self._most = most
        self._children: dict[tuple[str, ...], Child] = {}
        if not names:
            self._children[()] = make()

    def labels(self, *values: str) -> Child:
        """The child with these values, in the order of the label names: to be kept by the caller."""
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self.names):
                raise TypeError(f"{self.name} has the labels {', '.join(self.names)}; got {len(values)} values")
            if len(self._children) >= self._most:
                values = (OTHER,) * len(self.names)
            child = self._children.setdefault(values, self._make())
        return child

    def forget(self, *values: str) -> None:
        """Drop the child with these values: what it counts is over, as for a release that no longer answers."""
        self._children.pop(values, None)

    def show(self: Family[Valued], values: Mapping[tuple[str, ...], float]) -> None:
        """From now on these children and no others, with these values; what is not known is not among them.

        Example:
            >>> loss = Family("staytrue_loss", "gauge", "Mean loss.", (), Gauge)
            >>> loss.show({})
            >>> loss.items()
            []
        """
        children = {}
        for labels, value in values.items():
            children[labels] = child = self._make()
            child.value = float(value)
        self._children = children

    def items(self) -> list[tuple[tuple[str, ...], Child]]:
        """Every child there is, with its values."""
        return list(self._children.items())

    def lines(self) -> Iterator[str]:
        """The metric as text."""
        yield f"# HELP {self.name} {self.what}\n# TYPE {self.name} {self.kind}\n"
        for values, child in self._children.items():
            labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(self.names, values, strict=True))
            yield from child.samples(self.name, labels)


class Metrics:
    r"""Every metric of a server.

    Example:
        >>> metrics = Metrics()
        >>> metrics.swaps.inc()
        >>> b"staytrue_swaps_total 1\n" in metrics.text()
        True
    """

    def __init__(self) -> None:
        self._families: list[AnyFamily] = []
        http = ("http_request_method", "http_route", "http_response_status_code")
        self.duration = self._histograms(
            "http_server_request_duration_seconds",
            "Time from a request's first byte to its answer.",
            http,
            DURATION_BUCKETS,
        )
        self.active_requests = self._gauge("http_server_active_requests", "Requests under way.")
        self.predictions = self._counters(
            "staytrue_predictions_total", "Rows answered, by the release that did and its arm.", ("release", "arm")
        )
        self.rows = self._counter("staytrue_rows_total", "Rows admitted.")
        self.queue_rows = self._gauge("staytrue_queue_rows", "Rows that wait for a worker.")
        self.queue_wait = self._histogram(
            "staytrue_queue_wait_seconds", "How long a request waited for a worker.", WAIT_BUCKETS
        )
        self.batch_rows = self._histogram("staytrue_batch_rows", "Rows of a micro-batch.", ROWS_BUCKETS)
        self.shed = self._counters("staytrue_shed_total", "Requests refused to stay standing, by reason.", ("reason",))
        by_field = ("fault", "field")
        self.refused_rows = self._counters("staytrue_refused_rows_total", "Rows refused, by what was wrong.", by_field)
        self.flagged_rows = self._counters(
            "staytrue_flagged_rows_total", "Rows answered though something was odd, by what.", by_field
        )
        self.unlogged_rows = self._counter("staytrue_unlogged_rows_total", "Rows answered that the log does not hold.")
        self.shadow_dropped = self._counter("staytrue_shadow_dropped_total", "Rows that the shadow did not get to see.")
        self.challenger_failed = self._counter(
            "staytrue_challenger_failed_total", "Rows that the challenger failed on and the champion answered."
        )
        self.failed_rows = self._counters(
            "staytrue_failed_rows_total",
            "Rows that a release did not answer, by release, arm and error; those of a shadow nobody waited for.",
            ("release", "arm", "code"),
        )
        self.guard_evidence = self._gauges(
            "staytrue_guard_evidence",
            "What speaks against a release that can be stood in for; beyond 300 it is cut off.",
            ("release", "role", "guard"),
        )
        self.tripped = self._counters(
            "staytrue_tripped_total", "Releases that were cut off, by role and guard.", ("role", "guard")
        )
        self.swaps = self._counter("staytrue_swaps_total", "Changes of the release that answers.")
        self.worker_restarts = self._counter("staytrue_worker_restarts_total", "Workers started again after they died.")
        self.loop_lag = self._gauge("staytrue_loop_lag_seconds", "How late the event loop was when last looked at.")
        self.labels = self._counter("staytrue_labels_total", "Labels accepted.")
        self.up = self._gauge("staytrue_up_seconds", "How long this front has been running.")
        self.ready = self._gauge("staytrue_ready", "1 when requests can be answered, else 0.")
        self.unready = self._counter("staytrue_unready_seconds_total", "Seconds in which none could be answered.")
        self.error_ratio = self._gauge("staytrue_error_ratio", "5xx among the predictions of the last minute.")
        self.p99 = self._gauge("staytrue_p99_seconds", "Of the predictions of the last minute; from the buckets.")
        self.disk_free = self._gauge("staytrue_disk_free_bytes", "Free on the store's disk.")
        self.disk_reserve = self._gauge("staytrue_disk_reserve_bytes", "Kept aside there for ledger and gc.")
        self.ledger_read = self._gauge("staytrue_ledger_read_seconds", "How long the ledger last took to be read.")
        self.ledger_append = self._gauge("staytrue_ledger_append_seconds", "How long it last took to be written.")
        self.clock_jumps = self._counter("staytrue_clock_jumps_total", "Jumps of the wall clock by over a second.")
        self.alarm = self._gauges("staytrue_alarm", "1 while a system alarm is open, by what it is about.", ("what",))
        self.otel_failures = self._counter(
            "staytrue_otel_failures_total", "Rounds of these figures that no OpenTelemetry collector took."
        )
        self._of_the_loop()

    def _of_the_loop(self) -> None:
        """What the loop knows of the champion: `serve/health.py` shows it. What is not known has no sample."""
        self.health = self._gauges(
            "staytrue_health", "1 for the verdict on the champion: right, harmed or unknown.", ("state",)
        )
        self.champion = self._gauges("staytrue_champion_info", "1, for the release that is champion.", ("release",))
        self.loss = self._unknown("staytrue_loss", "The champion's mean loss a row of late.")
        self.loss_low = self._unknown("staytrue_loss_low", "Lower 95 % bound of that loss.")
        self.loss_high = self._unknown("staytrue_loss_high", "Upper 95 % bound of that loss.")
        self.loss_rows = self._unknown("staytrue_loss_rows", "Labelled rows that this loss rests on.")
        self.fresh_loss = self._unknown("staytrue_fresh_loss", "What the champion lost a row when it was fresh.")
        self.predictive_alarm = self._gauges(
            "staytrue_predictive_alarm", "1 while an alarm about the champion is open, by its kind.", ("alarm",)
        )
        self.data_until = self._unknown("staytrue_data_until_seconds", "Up to when rows were judged, since 1970.")
        self.rows_since = self._unknown(
            "staytrue_rows_since_training", "Labelled rows that came since the champion's training."
        )
        self.trial = self._gauges("staytrue_trial", "1 for the stage that a challenger is in.", ("stage",))
        self.incidents = self._gauges(
            "staytrue_incidents", "Incidents that stand open, by kind and state.", ("kind", "state")
        )
        self.decisions = self._counters(
            "staytrue_decisions_total", "What the loop has decided since the app began, in all.", ("decision",)
        )

    def families(self) -> list[AnyFamily]:
        """Every metric, those of the process too, as it is now."""
        return [*self._families, *_process_families()]

    def text(self) -> bytes:
        """All of it, as Prometheus reads it; the content type is `CONTENT_TYPE`."""
        return "".join(line for family in self.families() for line in family.lines()).encode()

    def _histograms(
        self, name: str, what: str, labels: tuple[str, ...], bounds: tuple[float, ...], *, most: int = 200
    ) -> Family[Histogram]:
        return self._add(Family(name, "histogram", what, labels, lambda: Histogram(bounds), most=most))

    def _histogram(self, name: str, what: str, bounds: tuple[float, ...]) -> Histogram:
        return self._histograms(name, what, (), bounds).labels()

    def _counters(self, name: str, what: str, labels: tuple[str, ...]) -> Family[Counter]:
        return self._add(Family(name, "counter", what, labels, Counter))

    def _counter(self, name: str, what: str) -> Counter:
        return self._counters(name, what, ()).labels()

    def _gauges(self, name: str, what: str, labels: tuple[str, ...]) -> Family[Gauge]:
        return self._add(Family(name, "gauge", what, labels, Gauge))

    def _gauge(self, name: str, what: str) -> Gauge:
        return self._gauges(name, what, ()).labels()

    def _unknown(self, name: str, what: str) -> Family[Gauge]:
        family = self._gauges(name, what, ())
        family.forget()
        return family

    def _add(self, family: Family[Child]) -> Family[Child]:
        self._families.append(family)
        return family


def method_label(method: str) -> str:
    """A method as a label: one of HTTP's, else `_OTHER`, as OpenTelemetry has it."""
    return method if method in _METHODS else "_OTHER"


def as_utf8(value: str) -> str:
    """A label's value, with `?` for what UTF-8 has no bytes for: half of a surrogate pair, as JSON may hold it."""
    return value.encode("utf-8", "replace").decode()


def _process_families() -> Iterator[Family[Counter] | Family[Gauge]]:
    """What Prometheus' own clients say of their process; what the platform does not tell is left out."""
    cpu_s = Family("process_cpu_seconds_total", "counter", "CPU time used by the server's front.", (), Counter)
    cpu_s.labels().inc(time.process_time())
    yield cpu_s
    try:
        stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        up_s = float(Path("/proc/uptime").read_text().split()[0])
        open_fds = len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - one of them is this listing's own
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return
    # Field 22 of stat: started so many ticks after the machine.
    started_at = time.time() - up_s + int(stat[19]) / os.sysconf("SC_CLK_TCK")
    for name, what, value in (
        ("process_resident_memory_bytes", "Memory of the server's front.", memory),
        ("process_open_fds", "Open files and sockets of the server's front.", open_fds),
        ("process_start_time_seconds", "When the server's front started, since 1970.", started_at),
    ):
        gauge = Family(name, "gauge", what, (), Gauge)
        gauge.labels().set(value)
        yield gauge


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _braced(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _escaped(value: str) -> str:
    return as_utf8(value).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
