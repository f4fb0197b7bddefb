"""Metrics: what is counted is what Prometheus' own parser reads, for any label, within a bound."""

from __future__ import annotations

import math
import os
import time
import timeit
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from staytrue.serve.metrics import DURATION_BUCKETS, Counter, Family, Gauge, Histogram, Metrics, method_label


def read(metrics: Metrics) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """sample name -> labels -> value, as Prometheus' parser sees the text."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_every_metric_is_there_with_the_type_and_a_sentence():
    families = {f.name: (f.type, f.documentation) for f in text_string_to_metric_families(Metrics().text().decode())}

    assert {name: kind for name, (kind, _) in families.items() if not name.startswith("process_")} == {
        "http_server_request_duration_seconds": "histogram",
        "http_server_active_requests": "gauge",
        "staytrue_predictions": "counter",
        "staytrue_rows": "counter",
        "staytrue_queue_rows": "gauge",
        "staytrue_queue_wait_seconds": "histogram",
        "staytrue_batch_rows": "histogram",
        "staytrue_shed": "counter",
        "staytrue_refused_rows": "counter",
        "staytrue_flagged_rows": "counter",
        "staytrue_unlogged_rows": "counter",
        "staytrue_shadow_dropped": "counter",
        "staytrue_challenger_failed": "counter",
        "staytrue_failed_rows": "counter",
        "staytrue_guard_evidence": "gauge",
        "staytrue_tripped": "counter",
        "staytrue_swaps": "counter",
        "staytrue_worker_restarts": "counter",
        "staytrue_loop_lag_seconds": "gauge",
        "staytrue_labels": "counter",
        "staytrue_up_seconds": "gauge",
        "staytrue_ready": "gauge",
        "staytrue_unready_seconds": "counter",
        "staytrue_error_ratio": "gauge",
        "staytrue_p99_seconds": "gauge",
        "staytrue_disk_free_bytes": "gauge",
        "staytrue_disk_reserve_bytes": "gauge",
        "staytrue_ledger_read_seconds": "gauge",
        "staytrue_ledger_append_seconds": "gauge",
        "staytrue_clock_jumps": "counter",
        "staytrue_alarm": "gauge",
        "staytrue_otel_failures": "counter",
        "staytrue_health": "gauge",
        "staytrue_champion_info": "gauge",
        "staytrue_loss": "gauge",
        "staytrue_loss_low": "gauge",
        "staytrue_loss_high": "gauge",
        "staytrue_loss_rows": "gauge",
        "staytrue_fresh_loss": "gauge",
        "staytrue_predictive_alarm": "gauge",
        "staytrue_data_until_seconds": "gauge",
        "staytrue_rows_since_training": "gauge",
        "staytrue_trial": "gauge",
        "staytrue_incidents": "gauge",
        "staytrue_decisions": "counter",
    }
    assert all(sentence.endswith(".") for _, sentence in families.values())


def test_the_duration_has_the_buckets_and_labels_of_the_convention():
    metrics = Metrics()
    seen = metrics.duration.labels("POST", "/predict", "200")

    for seconds in (0.001, 0.005, 0.006, 3.0, 100.0):
        seen.observe(seconds)

    said = read(metrics)
    buckets = {dict(labels)["le"]: n for labels, n in said["http_server_request_duration_seconds_bucket"].items()}
    assert [float(le) for le in buckets] == [*DURATION_BUCKETS, math.inf]
    assert (buckets["0.005"], buckets["0.01"], buckets["2.5"], buckets["5"], buckets["10"], buckets["+Inf"]) == (
        2,
        3,
        3,
        4,
        4,
        5,
    )
    ((labels, total),) = said["http_server_request_duration_seconds_sum"].items()
    assert dict(labels) == {
        "http_request_method": "POST", "http_route": "/predict", "http_response_status_code": "200",
    }  # fmt: skip
    assert total == pytest.approx(103.012)


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 5)), max_size=30))
def test_a_histogram_is_what_counting_one_by_one_gives(values):
    histogram = Histogram(DURATION_BUCKETS)

    for value, n in values:
        histogram.observe(value, n)

    lines = [line.rpartition(" ") for line in histogram.samples("x", "")]
    counted = [int(count) for name, _, count in lines if "_bucket" in name]
    assert counted == [sum(n for value, n in values if value <= bound) for bound in (*DURATION_BUCKETS, math.inf)]
    assert float(lines[-2][2]) == pytest.approx(sum(value * n for value, n in values))


@given(st.lists(st.tuples(st.text(), st.text()), max_size=10, unique=True))
def test_any_label_value_is_read_back_as_it_was(pairs):
    metrics = Metrics()

    for fault, field in pairs:
        metrics.refused_rows.labels(fault, field).inc(2)

    said = read(metrics).get("staytrue_refused_rows_total", {})
    assert {(dict(labels)["fault"], dict(labels)["field"]): value for labels, value in said.items()} == dict.fromkeys(
        pairs, 2.0
    )


def test_a_label_without_utf8_can_be_scraped():
    metrics = Metrics()

    metrics.refused_rows.labels("extra", "\ud800").inc()

    assert read(metrics)["staytrue_refused_rows_total"] == {(("fault", "extra"), ("field", "?")): 1}


def test_names_from_outside_do_not_grow_without_end_and_nothing_goes_uncounted():
    metrics = Metrics()

    for i in range(10_000):
        metrics.refused_rows.labels("extra", f"column{i}").inc()

    said = read(metrics)["staytrue_refused_rows_total"]
    assert len(said) <= 201
    assert sum(said.values()) == 10_000
    assert said[("fault", "other"), ("field", "other")] > 9_000


def test_a_child_that_is_forgotten_is_no_longer_shown():
    metrics = Metrics()
    metrics.predictions.labels("a" * 64, "champion").inc()

    metrics.predictions.forget("a" * 64, "champion")

    assert "staytrue_predictions_total" not in read(metrics)


def test_too_few_label_values_are_a_fault_of_the_caller():
    with pytest.raises(TypeError, match="fault, field"):
        Metrics().refused_rows.labels("extra")


def test_a_gauge_says_what_was_set_counted_or_what_its_function_says():
    metrics = Metrics()
    metrics.active_requests.inc()
    metrics.active_requests.inc(2)
    metrics.active_requests.inc(-1)
    metrics.loop_lag.set(0.25)
    metrics.queue_rows.follow(lambda: 7)

    said = read(metrics)

    assert said["http_server_active_requests"] == {(): 2}
    assert said["staytrue_loop_lag_seconds"] == {(): 0.25}
    assert said["staytrue_queue_rows"] == {(): 7}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc on this platform")
def test_the_figures_of_the_process_are_those_of_this_process():
    said = {name: samples[()] for name, samples in read(Metrics()).items() if name.startswith("process_")}

    assert set(said) == {
        "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds",
    }  # fmt: skip
    assert 0 < said["process_cpu_seconds_total"] <= time.process_time()
    assert 10e6 < said["process_resident_memory_bytes"] < 10e9
    assert abs(said["process_open_fds"] - len(list(Path("/proc/self/fd").iterdir()))) <= 2
    created = Path(f"/proc/{os.getpid()}").stat().st_mtime
    assert abs(said["process_start_time_seconds"] - created) < 3600
    assert said["process_start_time_seconds"] < time.time()


@pytest.mark.parametrize(("method", "label"), [("GET", "GET"), ("get", "_OTHER"), ("BREW", "_OTHER"), ("", "_OTHER")])
def test_a_method_from_outside_is_one_of_a_few_labels(method, label):
    assert method_label(method) == label


def test_an_observation_costs_little_more_than_the_smallest_python_call():
    # A ratio, so that a busy machine does not decide: measured 0.25 us against 0.06 us for an empty call.
    counter, gauge, histogram = Counter(), Gauge(), Histogram(DURATION_BUCKETS)

    def nothing(value, n):
        pass

    def cost(call):
        return min(timeit.repeat(call, number=2000, repeat=15))

    base = cost(lambda: nothing(0.03, 1))
    assert cost(lambda: histogram.observe(0.03, 1)) < 12 * base
    assert cost(lambda: counter.inc(1)) < 8 * base
    assert cost(lambda: gauge.inc(1)) < 8 * base


def test_a_family_without_labels_is_shown_before_anything_is_counted():
    assert list(Family("x_total", "counter", "X.", (), Counter).lines())[1] == "x_total 0\n"


def test_what_is_not_known_has_no_sample_and_what_is_shown_replaces_all_before():
    metrics = Metrics()
    before = read(metrics)
    metrics.trial.show({("shadow",): 1})
    metrics.loss.show({(): 2.5})
    metrics.trial.show({("canary",): 1})

    assert "staytrue_loss" not in before
    assert read(metrics)["staytrue_trial"] == {(("stage", "canary"),): 1}
    assert read(metrics)["staytrue_loss"] == {(): 2.5}
