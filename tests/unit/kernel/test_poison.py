"""Mislabelled rows are told from drift: by loss and agreement, part by part, and by group across parts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.poison import (
    FEWEST_ROWS,
    Experience,
    Suspicion,
    agreement,
    judge_groups,
    judge_part,
    key_prefix,
    key_prefixes,
    skill,
)


def part(rng, rows=60, noise=0.5):
    """Labels, and answers that go with them."""
    labels = rng.normal(10, 2, rows)
    return labels + rng.normal(0, noise, rows), labels


def judged(experience, answers, labels):
    return judge_part(experience, np.abs(answers - labels), agreement(answers, labels))


@pytest.fixture
def experience():
    rng, made = np.random.default_rng(0), Experience()
    for _ in range(40):
        answers, labels = part(rng)
        made = made.after(float(np.abs(answers - labels).mean()), float(agreement(answers, labels).rows.mean()))
    return made


# ---------------------------------------------------------------- parts


def test_of_four_hundred_clean_parts_at_most_one_in_a_hundred_is_held(experience):
    rng = np.random.default_rng(1)

    held = sum(judged(experience, *part(rng)).verdict == "quarantine" for _ in range(400))

    assert held <= 4


@pytest.mark.parametrize("spoil", ["mirrored", "shuffled", "half mirrored"])
def test_a_part_with_wrong_labels_is_held_and_the_numbers_say_why(experience, spoil):
    rng = np.random.default_rng(2)
    answers, labels = part(rng)
    which = np.arange(60) < (30 if spoil == "half mirrored" else 60)
    wrong = rng.permutation(labels) if spoil == "shuffled" else np.where(which, 20 - labels, labels)

    found = judged(experience, answers, wrong)

    assert found.verdict == "quarantine"
    assert found.seen > 2 * found.expected
    assert found.agreed < found.usual / 2
    assert "labels" in found.why
    json.dumps(found.document(), allow_nan=False)


@pytest.mark.parametrize("drift", ["all higher by half", "a trend that the champion missed", "ten times the unit"])
def test_drift_that_the_answers_still_go_with_is_not_held(experience, drift):
    answers, labels = part(np.random.default_rng(3))
    moved = {
        "all higher by half": 1.5 * labels,
        "a trend that the champion missed": labels + np.linspace(0, 4, 60),
        "ten times the unit": 10 * labels,
    }[drift]

    assert judged(experience, answers, moved).verdict == "suspect"


def test_a_part_that_is_as_bad_as_some_before_is_clean():
    rng = np.random.default_rng(4)
    made = Experience()
    for noise in np.tile([0.2, 0.5, 3.0, 6.0], 10):  # on every second day the champion knows nothing
        answers, labels = part(rng, noise=noise)
        made = made.after(float(np.abs(answers - labels).mean()), float(agreement(answers, labels).rows.mean()))

    assert judged(made, *part(rng, noise=6.0)).verdict == "clean"


def test_a_champion_that_never_agreed_much_can_not_tell_and_holds_nothing():
    made = Experience(losses=(0.4,) * 40, agreements=tuple(np.linspace(0.1, 0.3, 40)))
    labels = np.tile([0.0, 1.0], 50)

    assert judge_part(made, np.full(100, 0.9), agreement(np.roll(labels, 2) * 0, labels)).verdict != "quarantine"


@pytest.mark.parametrize("rows", [0, 1, FEWEST_ROWS - 1])
def test_too_few_rows_or_parts_say_nothing(experience, rows):
    losses = np.full(rows, 1e9)
    labels = np.arange(float(rows))

    assert judge_part(experience, losses, agreement(-labels, labels)).verdict == "clean"
    assert judge_part(Experience(), np.full(60, 1e9), None).verdict == "clean"


def test_without_agreement_a_part_is_suspect_at_most(experience):
    assert judge_part(experience, np.full(60, 50.0), None).verdict == "suspect"
    assert judge_part(experience, np.full(60, 0.4), None).verdict == "clean"


@pytest.mark.parametrize("bad", [np.array([np.nan] * 20), np.array([np.inf] * 20), np.zeros((20, 2))])
def test_losses_that_are_none_are_refused(experience, bad):
    with pytest.raises(InvalidInput) as caught:
        judge_part(experience, bad, None)

    assert caught.value.code == "ST939"


def test_experience_is_bounded_and_survives_json(experience):
    for _ in range(300):
        experience = experience.after(0.5, 0.9)

    assert len(experience.losses) == len(experience.agreements) == 100
    assert Experience.from_document(json.loads(json.dumps(experience.document()))) == experience


# ---------------------------------------------------------------- agreement


def test_agreement_of_classes_ranks_and_constants():
    assert agreement([0, 1, 1, 0], [0, 1, 1, 0]).rows.mean() == pytest.approx(1)
    assert agreement([True, False], [0.0, 1.0]).rows.mean() == pytest.approx(-1)
    assert agreement([5, 5, 5], [1, 2, 3]).rows.tolist() == [0, 0, 0]
    assert agreement([], []).rows.shape == (0,)
    for answers in (["a", "b"], [[1, 2], [3, 4]], [None, 1.0], [np.nan, 1.0], [{"a": 1}, 2]):
        assert agreement(answers, [1.0, 2.0]) is None


def test_skill_knows_good_answers_from_shuffled_and_opposite_ones():
    usual = np.full(4, 0.5)

    assert skill(np.zeros(4), usual).rows.mean() == 1
    assert skill(np.full(4, 0.5), usual).rows.mean() == 0
    assert skill(np.ones(4), usual).rows.mean() == -1
    assert skill(np.ones(4), np.zeros(4)).rows.tolist() == [0, 0, 0, 0]


# ---------------------------------------------------------------- groups


def lived(rng, parts, share, spoil, *, rows=50, of_group=lambda labels: labels):
    """Suspicions and findings after parts in which a share of the rows is in the group `x`."""
    suspicions, found, at = {}, [], None
    for i in range(parts):
        answers, labels = part(rng, rows)
        x = rng.random(rows) < share
        answers = np.where(x, of_group(answers), answers)
        labels = np.where(x, spoil(of_group(labels)), labels)
        other = rng.integers(0, 5, rows)
        groups = {f"o{n}": (other == n) & ~x for n in range(5)} | {"x": x}
        losses, agreed = np.abs(answers - labels), agreement(answers, labels)
        suspicions, found = judge_groups(suspicions, losses, agreed, groups, str(i))
        held = [one for one in found if one.verdict == "quarantine"]
        if held and at is None:
            at = i, held
    return suspicions, found, at


@pytest.mark.parametrize(("share", "within"), [(0.2, 8), (0.05, 25), (0.02, 60)])
def test_a_group_whose_labels_are_flipped_is_named_and_no_other(share, within):
    _, _, at = lived(np.random.default_rng(5), within, share, lambda labels: 20 - labels)

    assert at is not None
    assert [one.group for one in at[1]] == ["x"]
    assert at[1][0].rows < 40
    assert at[1][0].agreed < 0 < at[1][0].usual


def test_a_group_that_is_harder_or_dearer_than_the_others_is_not_held():
    rng = np.random.default_rng(6)
    dearer = lived(rng, 60, 0.2, lambda labels: labels * 1.3)
    harder = lived(rng, 60, 0.2, lambda labels: labels + rng.normal(0, 1, len(labels)))
    alike = lived(rng, 60, 0.2, lambda labels: labels, of_group=lambda values: 10 + (values - 10) / 10)

    assert [at for *_, at in (dearer, harder, alike)] == [None, None, None]


def test_clean_groups_are_never_held_in_five_thousand_rows():
    assert lived(np.random.default_rng(7), 100, 0.1, lambda labels: labels)[2] is None


def test_a_group_with_most_of_the_rows_is_no_group():
    assert lived(np.random.default_rng(8), 20, 0.6, lambda labels: 20 - labels)[2] is None


def test_a_group_whose_labels_are_right_again_is_soon_beyond_suspicion():
    rng = np.random.default_rng(9)
    suspicions, _, at = lived(rng, 40, 0.2, lambda labels: 20 - labels)
    for i in range(40, 60):
        answers, labels = part(rng, 50)
        groups = {"x": rng.random(50) < 0.2}
        losses, agreed = np.abs(answers - labels), agreement(answers, labels)
        suspicions, _ = judge_groups(suspicions, losses, agreed, groups, str(i))

    assert at is not None
    assert suspicions["x"].wealth <= 0


def test_suspicions_are_bounded_and_survive_json():
    suspicions = {}
    for i in range(20):
        groups = {f"{i}-{n}": np.arange(40) == n for n in range(20)}
        suspicions, _ = judge_groups(suspicions, np.arange(40.0), None, groups, str(i))

    assert len(suspicions) == 64
    assert {
        n: Suspicion.from_document(json.loads(json.dumps(s.document()))) for n, s in suspicions.items()
    } == suspicions


def test_a_part_of_one_group_or_of_no_rows_changes_nothing():
    assert judge_groups({}, np.zeros(0), None, {"x": np.zeros(0, bool)}, "0") == ({}, [])
    assert judge_groups({}, np.ones(3), None, {"x": np.ones(3, bool)}, "0") == ({}, [])


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        ("bot-17", "bot-"),
        ("DE1234", "DE"),
        ("日本:1", "日本:"),
        ("-7", ""),
        ("plain", ""),
        ("2026-01-01/3", "2026-"),
        (17, ""),
        (None, ""),
        ("", ""),
    ],
)
def test_a_key_begins_up_to_its_first_separator_or_with_its_letters(key, prefix):
    assert key_prefix(key) == prefix


def test_prefixes_are_the_frequent_ones_and_those_known():
    keys = [f"p{n}-{n}" for n in range(1000)] + [f"often-{n}" for n in range(5)]

    found = key_prefixes(keys, ["p7-", "gone-"])

    assert set(found) == {"often-", "p7-"}
    assert int(found["often-"].sum()) == 5
