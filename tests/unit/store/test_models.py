"""Models: only what this store sealed is loaded, and not one bit of it may differ."""

from __future__ import annotations

import math
import os
import pickle
import random
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from staytrue.errors import Corrupt, InvalidInput, Refused, StaytrueError
from staytrue.kernel.release import Digest
from staytrue.store import models
from staytrue.store.models import Golden, answers_equal, dump, load, manifest, parse, seal, store_key
from staytrue.store.objects import LocalObjects

RECIPE = Digest("cd" * 32)


@pytest.fixture
def objects(tmp_path):
    return LocalObjects(tmp_path / "store")


@pytest.fixture
def key(objects):
    return store_key(objects.root)


def keep(objects, key, model, save=None):
    """A model kept as the loop keeps it: its id and its seal."""
    form, data = dump(model, save)
    document = manifest(data=objects.put(data), form=form, size=len(data), golden=None, recipe=RECIPE)
    return objects.put_document(document), seal(key, document)


def test_a_model_comes_back_as_it_was(objects, key):
    model, sealed = keep(objects, key, {"weights": np.arange(3.0)})
    assert np.array_equal(load(objects, model, sealed, key)["weights"], np.arange(3.0))


def test_the_apps_own_way_of_storing_is_used_in_both_directions(objects, key):
    model, sealed = keep(objects, key, [1, 2], save=bytearray)
    assert load(objects, model, sealed, key, list) == [1, 2]
    with pytest.raises(InvalidInput) as caught:
        load(objects, model, sealed, key)
    assert caught.value.code == "ST316"


def test_a_training_that_gives_none_is_refused():
    with pytest.raises(InvalidInput, match="return") as caught:
        dump(None)
    assert caught.value.code == "ST310"


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (lambda rows: rows, "function"),
        ({"lock": threading.Lock()}, "dict"),
        (sys.stdout, ""),
        ((n for n in ()), "generator"),
    ],
)
def test_what_cannot_be_pickled_is_refused_with_type_cause_and_next_step(model, kind):
    with pytest.raises(InvalidInput, match=r"@app\.save and @app\.load") as caught:
        dump(model)
    assert caught.value.code == "ST311"
    assert kind in caught.value.facts["type"]
    assert "0x" not in caught.value.message


@pytest.mark.parametrize("save", [lambda model: "text", lambda model: None, lambda model: 1 / 0])
def test_a_save_function_that_gives_no_bytes_is_refused(save):
    with pytest.raises(InvalidInput) as caught:
        dump("model", save)
    assert caught.value.code == "ST312"


class Bomb:
    """A pickle that runs code when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_foreign_pickle_is_never_loaded(objects, key, tmp_path):
    # given: somebody who can write objects, sealed by a key of their own
    model, sealed = keep(objects, b"k" * 32, Bomb(tmp_path / "ran"))
    # when
    for wrong in (sealed, "", "00" * 32, "ü"):
        with pytest.raises(Refused, match="`key`") as caught:
            load(objects, model, wrong, key)
        assert caught.value.code == "ST313"
    # then
    assert not (tmp_path / "ran").exists()


def test_the_seal_of_one_model_does_not_open_another(objects, key, tmp_path):
    _, sealed = keep(objects, key, "mine")
    foreign, _ = keep(objects, b"k" * 32, Bomb(tmp_path / "ran"))
    with pytest.raises(Refused):
        load(objects, foreign, sealed, key)
    assert not (tmp_path / "ran").exists()


def test_a_flipped_bit_anywhere_in_model_or_manifest_is_an_error(objects, key):
    # given
    model, sealed = keep(objects, key, {"weights": list(range(50))})
    content = Digest(objects.get_document(model)["bytes"])
    rng = random.Random(7)
    for name in (model, content):
        path = objects.root / "objects" / name[:2] / name[2:]
        data = path.read_bytes()
        for at in range(len(data)):
            # when
            path.chmod(0o644)
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
            # then
            with pytest.raises(Corrupt):
                load(objects, model, sealed, key)
        path.write_bytes(data)
    assert load(objects, model, sealed, key)["weights"] == list(range(50))


@pytest.mark.parametrize(
    "damage",
    [{"kind": "table"}, {"bytes": "short"}, {"bytes": None}, {"size": 1}, {"format": "joblib"}, {"format": None}],
)
def test_a_manifest_that_does_not_fit_is_corrupt_even_when_sealed(objects, key, damage):
    form, data = dump("model")
    document = manifest(data=objects.put(data), form=form, size=len(data), golden=None, recipe=RECIPE) | damage
    with pytest.raises(Corrupt) as caught:
        load(objects, objects.put_document(document), seal(key, document), key)
    assert caught.value.code == "ST314"


def test_bytes_that_need_a_library_that_is_gone_are_refused_and_name_it():
    data = pickle.dumps(models.Golden).replace(b"staytrue.store.models", b"staytrue.store.modelx")
    with pytest.raises(Refused, match="modelx") as caught:
        parse("pickle", data)
    assert caught.value.code == "ST315"


def test_every_error_crosses_a_process_border(objects, key):
    with pytest.raises(StaytrueError) as caught:
        dump(lambda: 1)
    assert pickle.loads(pickle.dumps(caught.value)).document() == caught.value.document()


# ---------------------------------------------------------------- the key


def test_the_key_is_made_once_for_all_who_ask_at_the_same_time(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: store_key(tmp_path / "new" / "store"), range(40)))
    assert len(keys) == 1
    assert [path.name for path in (tmp_path / "new" / "store").iterdir()] == ["key"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
def test_only_its_owner_can_read_the_key(tmp_path):
    store_key(tmp_path)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_two_stores_have_two_keys(tmp_path):
    assert store_key(tmp_path / "a") != store_key(tmp_path / "b")


def test_a_damaged_key_is_neither_used_nor_replaced(tmp_path):
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(Corrupt) as caught:
        store_key(tmp_path)
    assert caught.value.code == "ST317"
    assert (tmp_path / "key").read_bytes() == b"short"


def test_a_seal_stays_what_stores_out_there_hold():
    assert (
        seal(bytes(range(32)), {"kind": "model", "size": 3})
        == "aac7e0fdcffb733c16589371fcc722adeab8f533db08081c2cb6a2bbcda8045c"
    )


# ---------------------------------------------------------------- golden rows


def test_golden_rows_come_back_and_no_answer_looks_like_a_reference(objects):
    # given: an answer that is itself a hash
    golden = Golden(rows=objects.put(b"rows"), answers=[np.float64(1.5), None, ["a", 2], "ab" * 32])
    # when
    document = golden.document()
    # then
    assert "ab" * 32 not in document.values()
    assert Golden.from_document(document).answers == [1.5, None, ["a", 2], "ab" * 32]


def test_more_golden_rows_than_are_checked_at_a_load_are_refused():
    with pytest.raises(InvalidInput) as caught:
        Golden(rows=RECIPE, answers=[0.0] * 33).document()
    assert caught.value.code == "ST318"


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "golden"},
        {"kind": "x", "rows": "ab" * 32, "answers": "[]"},
        {"kind": "golden", "rows": "ab" * 32, "answers": "{}"},
    ],
)
def test_what_is_no_golden_document_is_corrupt(document):
    with pytest.raises(Corrupt) as caught:
        Golden.from_document(document)
    assert caught.value.code == "ST314"


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ([], []),
        ([1.0], [1.0 + 1e-7]),
        ([0.0], [1e-15]),
        ([1], [1.0]),
        ([1.5, "a", None, True], np.array([1.5, "a", None, True], dtype=object)),
        ([[0.1, 0.9], [1, [2]]], [np.array([0.1, 0.9]), (1, [2])]),
        ([math.nan], [float("nan")]),
        ([math.inf], [math.inf]),
        ([{"text": "hi", "score": 1.0}], [{"score": 1.0, "text": "hi"}]),
    ],
)
def test_answers_that_mean_the_same_are_equal(expected, got):
    assert answers_equal(expected, got) is None


@pytest.mark.parametrize(
    ("expected", "got", "sentence"),
    [
        ([1.0], [1.0, 2.0], "2 answers, expected 1"),
        ([1.0, 1.0], [1.0, 1.00001], "row 1 answers 1.00001, expected 1.0"),
        ([1_000_000], [1_000_001], "row 0 answers 1000001, expected 1000000"),
        ([True], [1], "row 0 answers 1, expected True"),
        (["1"], [1], "row 0 answers 1, expected '1'"),
        ([None], [0.0], "row 0 answers 0.0, expected None"),
        ([math.nan], [0.0], "row 0 answers 0.0, expected nan"),
        ([[1, 2]], [[1, 2, 3]], "row 0 answers [1, 2, 3], expected [1, 2]"),
        ([{"a": 1}], [{"b": 1}], "row 0 answers {'b': 1}, expected {'a': 1}"),
    ],
)
def test_the_first_row_that_differs_is_named(expected, got, sentence):
    assert answers_equal(expected, got) == sentence
