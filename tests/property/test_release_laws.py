"""Laws of releases: written and read they stay the same, a revert can be undone, what differs has a name."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, reject
from hypothesis import strategies as st

from staytrue.errors import InvalidInput
from staytrue.kernel.canonical_json import canonical_json
from staytrue.kernel.release import (
    AXES,
    Digest,
    Recipe,
    Release,
    ancestors,
    axes,
    common_ancestor,
    describe_axes,
    revert,
    trained_by,
)
from staytrue.store.objects import digest, manifest

# Few different digests, so that equal ones meet often.
digests = st.integers(0, 3).map(lambda n: digest(bytes([n])))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | digests,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
params = st.dictionaries(st.text(), json_values, max_size=2)
small_params = st.sampled_from([{}, {"depth": 3}, {"depth": 4}])
tables = st.dictionaries(st.sampled_from(["bookings", "weather"]), digests, max_size=2)


@st.composite
def recipes(draw, values=params):
    return Recipe(
        training_code=draw(digests),
        tables=draw(tables),
        env=draw(digests),
        params=draw(values),
        seed=draw(st.integers(0, 2)),
        previous=draw(st.none() | digests),
    )


def recipe_id(recipe: Recipe) -> Digest:
    return digest(canonical_json(recipe.document()))


@st.composite
def releases(draw, values=params):
    """A release whose model was trained by the recipe of its own inputs: what a training makes."""
    recipe = draw(recipes(values))
    return recipe, Release(
        app="rates",
        code=draw(digests),
        training_code=recipe.training_code,
        tables=recipe.tables,
        env=recipe.env,
        params=recipe.params,
        seed=recipe.seed,
        model=draw(digests),
        recipe=recipe_id(recipe),
        as_trained=True,
        golden=draw(st.none() | digests),
        scores=draw(st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=2)),
        parents=tuple(draw(st.lists(digests, max_size=2))),
    )


@given(releases())
def test_recipe_and_release_come_back_from_their_documents(made):
    recipe, release = made
    assert Recipe.from_document(recipe.document()) == recipe
    assert Release.from_document(release.document()) == release


@given(releases())
def test_a_document_refers_to_exactly_its_objects_whatever_the_params_hold(made):
    recipe, release = made
    found = manifest(canonical_json(release.document()))
    assert found is not None
    assert found.canonical
    expected = {release.code, release.training_code, release.env, release.model, release.recipe, *release.parents}
    assert found.references == expected | ({release.golden} if release.golden else set())
    of_recipe = manifest(canonical_json(recipe.document()))
    assert of_recipe is not None
    assert of_recipe.references == {recipe.training_code, recipe.env, *([recipe.previous] if recipe.previous else [])}


@given(releases(small_params), releases(small_params))
def test_axes_are_symmetric_and_every_axis_has_a_sentence(one, two):
    (_, a), (_, b) = one, two
    found = axes(a, b)
    assert found == axes(b, a)
    assert axes(a, a) == ()
    told = {sentence.partition(":")[0] for sentence in describe_axes(a, b)}
    assert told == set(found)


@given(releases(small_params), releases(small_params), st.sets(st.sampled_from(AXES), min_size=1))
def test_a_revert_takes_the_named_axes_and_reverting_it_back_restores_the_release(one, two, asked):
    (recipe_a, a), (recipe_b, b) = one, two
    known = {a.recipe: recipe_a, b.recipe: recipe_b}
    try:
        mixed = revert(a, b, frozenset(asked), current_id=digest(b"a"), recipes=known)
    except InvalidInput:
        reject()  # equal on these axes: tests/unit/kernel/test_release.py
    # Axes that were not asked for are those of the release before; so only asked ones can differ from it.
    assert set(axes(a, mixed)) <= asked
    assert mixed.as_trained == trained_by(mixed, known[mixed.recipe])
    back = revert(mixed, a, frozenset(asked), current_id=digest(b"mixed"), recipes=known)
    assert axes(back, a) == ()
    assert back.as_trained
    assert replace(back, parents=a.parents, scores=a.scores, golden=a.golden) == a


@given(st.lists(st.lists(st.integers(0, 11), max_size=2), max_size=12), st.integers(0, 11), st.integers(0, 11))
def test_a_common_ancestor_is_one_of_both_and_does_not_hang_on_the_order(links, left, right):
    # given: a history in which a release has only older parents
    name = {n: digest(bytes([n])) for n in range(12)}
    parents = {name[n]: tuple(name[p] for p in older if p < n) for n, older in enumerate(links)}
    a, b = name[left], name[right]
    # when
    found = common_ancestor(a, b, parents)
    # then
    lines = [{a, *ancestors(a, parents)}, {b, *ancestors(b, parents)}]
    assert found == common_ancestor(b, a, parents)
    assert (found in lines[0] & lines[1]) if found else lines[0].isdisjoint(lines[1])
    assert a not in ancestors(a, parents)
