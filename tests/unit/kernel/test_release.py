"""Release identity: which axes differ, what a revert takes, who came from whom."""

from __future__ import annotations

from dataclasses import replace

import pytest

from staytrue.errors import Corrupt, InvalidInput, NotFound
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.release import (
    Digest,
    Recipe,
    Release,
    ancestors,
    as_digest,
    axes,
    common_ancestor,
    describe_axes,
    retrains,
    revert,
    trained_by,
)


def d(name: str) -> Digest:
    """A digest that is easy to tell: `d("a1")` is a1a1a1..."""
    return Digest(name.encode().hex().ljust(64, "0")[:64])


def recipe_of(release: Release) -> Recipe:
    return Recipe(
        training_code=release.training_code,
        tables=release.tables,
        env=release.env,
        params=release.params,
        seed=release.seed,
    )


def release(**changes) -> Release:
    base = Release(
        app="rates",
        code=d("code"),
        training_code=d("training"),
        tables={"bookings": d("table")},
        env=d("env"),
        params={"depth": 3},
        seed=0,
        model=d("model"),
        recipe=d("recipe"),
        as_trained=True,
        golden=d("golden"),
        scores={"mae": 12.5},
        parents=(d("parent"),),
    )
    return replace(base, **changes)


OLD = release()
NEW = release(
    code=d("code2"),
    training_code=d("training2"),
    tables={"bookings": d("table2")},
    env=d("env2"),
    params={"depth": 4},
    seed=1,
    model=d("model2"),
    recipe=d("recipe2"),
)
RECIPES = {d("recipe"): recipe_of(OLD), d("recipe2"): recipe_of(NEW)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ()),
        ({"scores": {"mae": 9.0}, "golden": None, "parents": ()}, ()),
        ({"code": d("docs only")}, ("code",)),
        ({"env": d("other")}, ("code",)),
        ({"params": {"depth": 4}}, ("code",)),
        ({"seed": 7}, ("code",)),
        ({"tables": {"bookings": d("other")}}, ("data",)),
        ({"model": d("other")}, ("model",)),
        # Retrained, as its data or its code says it had to be: the model is no axis of its own.
        ({"tables": {"bookings": d("t")}, "model": d("m"), "recipe": d("r")}, ("data",)),
        ({"code": d("c"), "training_code": d("t"), "model": d("m"), "recipe": d("r")}, ("code",)),
        # A docs-only change explains no other model.
        ({"code": d("docs only"), "model": d("m")}, ("code", "model")),
        # A warm start from another model: equal inputs, another recipe and another model.
        ({"model": d("m"), "recipe": d("r")}, ("model",)),
        # Taken from elsewhere by a revert.
        ({"tables": {"bookings": d("t")}, "model": d("m"), "recipe": d("r"), "as_trained": False}, ("data", "model")),
    ],
)
def test_two_releases_differ_on_exactly_the_axes_that_changed(changes, expected):
    assert axes(OLD, release(**changes)) == expected
    assert axes(release(**changes), OLD) == expected


def test_a_change_that_training_cannot_see_does_not_retrain():
    assert not retrains(OLD, release(code=d("docs only")))
    assert retrains(OLD, release(training_code=d("fit")))
    assert retrains(OLD, release(tables={"bookings": d("more")}))


def test_a_release_is_trained_by_the_recipe_of_its_own_inputs_and_by_no_other():
    assert trained_by(OLD, recipe_of(OLD))
    assert trained_by(OLD, replace(recipe_of(OLD), previous=d("champion")))
    assert not trained_by(OLD, recipe_of(NEW))


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ({"code"}, {"code", "training_code", "env", "params", "seed"}),
        ({"data"}, {"tables"}),
        ({"model"}, {"model", "recipe"}),
        ({"code", "data", "model"}, {"code", "training_code", "env", "params", "seed", "tables", "model", "recipe"}),
    ],
)
def test_a_revert_takes_exactly_the_named_axes(asked, taken):
    # when
    mixed = revert(NEW, OLD, frozenset(asked), current_id=d("new"), recipes=RECIPES)
    # then
    for name in ("code", "training_code", "env", "params", "seed", "tables", "model", "recipe"):
        assert getattr(mixed, name) == getattr(OLD if name in taken else NEW, name), name
    assert (mixed.parents, mixed.scores, mixed.golden) == ((d("new"),), {}, None)


def test_a_release_of_mixed_axes_is_not_as_trained_and_one_put_together_again_is():
    # given: the old code with today's model
    mixed = revert(NEW, OLD, frozenset({"code"}), current_id=d("new"), recipes=RECIPES)
    # when
    whole = revert(mixed, OLD, frozenset({"data", "model"}), current_id=d("mixed"), recipes=RECIPES)
    # then
    assert not mixed.as_trained
    assert whole.as_trained
    assert axes(whole, OLD) == ()


def test_a_reverted_axis_is_the_only_one_that_differs_from_the_release_before():
    for axis in ("code", "data", "model"):
        mixed = revert(NEW, OLD, frozenset({axis}), current_id=d("new"), recipes=RECIPES)
        assert axes(NEW, mixed) == (axis,)


@pytest.mark.parametrize(
    ("to", "asked", "code"),
    [
        (OLD, frozenset(), "ST452"),
        (OLD, frozenset({"weather"}), "ST452"),
        (replace(OLD, app="other"), frozenset({"code"}), "ST453"),
        (replace(NEW, tables=OLD.tables), frozenset({"code"}), "ST454"),
    ],
)
def test_a_revert_that_asks_for_nothing_is_refused(to, asked, code):
    with pytest.raises(InvalidInput) as caught:
        revert(NEW, to, asked, current_id=d("new"), recipes=RECIPES)
    assert caught.value.code == code


def test_the_differences_are_told_one_sentence_each():
    sentences = describe_axes(OLD, replace(NEW, params={"rate": 0.1}, tables={"weather": d("w")}, as_trained=False))
    assert sentences == (
        "code: what training sees differs",
        "code: the environment differs",
        "code: param depth 3 -> absent",
        "code: param rate absent -> 0.1",
        "code: seed 0 -> 1",
        "data: table bookings is gone",
        "data: table weather is new",
        "model: one model was trained from other code or data than the release holds",
    )
    assert describe_axes(OLD, release(code=d("docs"))) == ("code: files differ, none that training sees",)
    assert describe_axes(OLD, release(model=d("m"))) == (
        "model: one recipe gave two models: this training is not deterministic",
    )
    assert describe_axes(OLD, OLD) == ()


def test_ancestors_come_nearest_first_and_a_merge_is_walked_once():
    # given: a <- b <- d, a <- c <- d
    parents = {d("d"): (d("b"), d("c")), d("b"): (d("a"),), d("c"): (d("a"),)}
    # then
    assert ancestors(d("d"), parents) == (d("b"), d("c"), d("a"))
    assert common_ancestor(d("b"), d("c"), parents) == d("a")
    assert common_ancestor(d("b"), d("d"), parents) == d("b")
    assert common_ancestor(d("b"), d("x"), parents) is None


def test_no_table_id_and_no_param_looks_like_a_reference_to_an_object():
    # given: a params value as users write them to pin a file
    made = release(params={"pinned": "ab" * 32})
    # when
    document = made.document()
    # then: gc would wait for ever for an object that isn't one
    assert d("table") not in list(document["tables"].values())
    assert isinstance(document["params"], str)
    assert Release.from_document(document) == made


@pytest.mark.parametrize(
    "damage",
    [
        {"kind": "recipe"},
        {"app": None},
        {"code": "short"},
        {"tables": {"bookings": "ab" * 32}},
        {"tables": []},
        {"params": "[]"},
        {"params": {}},
        {"seed": True},
        {"as_trained": 1},
        {"golden": 5},
        {"scores": {"mae": "low"}},
        {"parents": ["x"]},
    ],
)
def test_a_damaged_release_document_is_corrupt_and_names_the_field(damage):
    with pytest.raises(Corrupt) as caught:
        Release.from_document(OLD.document() | damage)
    assert caught.value.code == "ST451"
    assert caught.value.facts["field"] == next(iter(damage))


@pytest.mark.parametrize("text", ["", "ab", "AB" * 32, "ab" * 33, "../" + "a" * 61, "ab" * 32 + "\n"])
def test_only_64_lowercase_hex_digits_are_an_id(text):
    with pytest.raises(InvalidInput) as caught:
        as_digest(text)
    assert caught.value.code == "ST450"


def test_the_written_form_of_recipe_and_release_stays_what_stores_out_there_hold():
    # given
    recipe, whole = recipe_of(OLD), release(parents=(), golden=None)
    ids = {name: getattr(whole, name) for name in ("code", "training_code", "env", "model", "recipe")}
    # then
    assert canonical_json(recipe.document()).decode() == (
        f'{{"env":"{ids["env"]}","kind":"recipe","params":"{{\\"depth\\":3}}","previous":null,"seed":0,'
        f'"tables":{{"bookings":"table:{d("table")}"}},"training_code":"{ids["training_code"]}"}}'
    )
    assert canonical_json(whole.document()).decode() == (
        f'{{"app":"rates","as_trained":true,"code":"{ids["code"]}","env":"{ids["env"]}","golden":null,"kind":"release",'
        f'"model":"{ids["model"]}","params":"{{\\"depth\\":3}}","parents":[],"recipe":"{ids["recipe"]}",'
        f'"scores":{{"mae":12.5}},"seed":0,"tables":{{"bookings":"table:{d("table")}"}},'
        f'"training_code":"{ids["training_code"]}"}}'
    )


# -- plain services ----------------------------------------------------------------------------------------------------

SERVICE = release(tables={}, model=None, recipe=None, scores={})


def test_a_release_with_a_model_has_the_id_that_it_always_had():
    # The document of a release that an earlier version has written, byte for byte: its digest is the release's id.
    written = canonical_json(OLD.document()).decode()

    assert f'"model":"{d("model")}"' in written
    assert f'"recipe":"{d("recipe")}"' in written
    assert sorted(OLD.document()) == [
        "app", "as_trained", "code", "env", "golden", "kind", "model", "params", "parents", "recipe", "scores", "seed",
        "tables", "training_code",
    ]  # fmt: skip


def test_a_plain_service_is_read_again_as_it_was_written():
    again = Release.from_document(SERVICE.document())

    assert again == SERVICE
    assert (again.is_service, OLD.is_service) == (True, False)
    assert OLD.trained() == (d("model"), d("recipe"))
    with pytest.raises(NotFound, match="plain service") as said:
        again.trained()
    assert said.value.code == "ST865"


@pytest.mark.parametrize(("model", "recipe"), [(None, d("recipe")), (d("model"), None)])
def test_a_model_without_its_recipe_is_no_release_nor_a_recipe_without_its_model(model, recipe):
    with pytest.raises(Corrupt) as said:
        Release.from_document(SERVICE.document() | {"model": model, "recipe": recipe})

    assert (said.value.code, said.value.facts["field"]) == ("ST451", "recipe")


def test_services_differ_in_code_alone_and_nothing_is_trained():
    other = replace(SERVICE, code=d("other"), training_code=d("other training"))

    assert axes(SERVICE, other) == ("code",)
    assert describe_axes(SERVICE, other) == ("code: files differ",)
    assert not retrains(SERVICE, other)


def test_a_service_takes_back_old_code_and_has_nothing_else_to_take_back():
    newer = replace(SERVICE, code=d("newer"), env=d("newer env"), golden=d("newer golden"))

    back = revert(newer, SERVICE, frozenset({"code"}), current_id=d("newer id"), recipes={})

    assert (back.code, back.env, back.golden, back.parents) == (SERVICE.code, SERVICE.env, None, (d("newer id"),))
    assert back.is_service
    assert back.as_trained
    with pytest.raises(InvalidInput) as said:
        revert(newer, SERVICE, frozenset({"model"}), current_id=d("newer id"), recipes={})
    assert said.value.code == "ST454"


def test_a_service_that_has_learned_something_since_goes_back_as_a_whole_or_not_at_all():
    recipes = {OLD.recipe: recipe_of(OLD)}

    with pytest.raises(InvalidInput) as said:
        revert(OLD, SERVICE, frozenset({"code"}), current_id=d("id"), recipes=recipes)
    back = revert(OLD, SERVICE, frozenset({"code", "data", "model"}), current_id=d("id"), recipes=recipes)
    forth = revert(SERVICE, OLD, frozenset({"code", "data", "model"}), current_id=d("id"), recipes=recipes)

    assert said.value.code == "ST866"
    assert (back.is_service, dict(back.tables), forth.model) == (True, {}, OLD.model)
    assert "model: is gone" in describe_axes(OLD, SERVICE)
    assert "data: table bookings is new" in describe_axes(SERVICE, OLD)
