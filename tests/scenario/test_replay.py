"""Replay: the same loop on the past, told the same way each time."""

from __future__ import annotations

import json


def timeline(document) -> bytes:
    return json.dumps(document["timeline"]).encode()


def without_what_is_saved(document):
    """The policies without what a store that knows the models already does better: trainings and time."""
    return [{k: v for k, v in p.items() if k not in {"trained", "seconds"}} for p in document["policies"]]


def test_the_same_replay_twice_gives_byte_equal_timelines_in_one_store_and_in_two(shop, tmp_path):
    shop.fetched()
    first = shop.run("replay", "--policy", "payback", "--policy", "every:28d").document

    again = shop.run("replay", "--policy", "payback", "--policy", "every:28d").document
    shop.run("fetch", "--since", "2026-01-01", "--until", "2026-07-20", store=tmp_path / "other")
    elsewhere = shop.run("replay", "--policy", "payback", "--policy", "every:28d", store=tmp_path / "other").document

    assert len(first["timeline"]) > 4
    assert timeline(first) == timeline(again) == timeline(elsewhere)
    assert without_what_is_saved(first) == without_what_is_saved(again) == without_what_is_saved(elsewhere)
    assert [p["trained"] for p in again["policies"]] == [0, 0]
    assert shop.verifies()
