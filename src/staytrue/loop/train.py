"""Train: from a recipe to a model, once. A recipe that was trained before takes its model from the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from staytrue.engines.process import Job, Outcome
from staytrue.errors import Conflict, InvalidInput
from staytrue.kernel.duration import duration
from staytrue.kernel.release import Digest, Recipe
from staytrue.loop.context import Context
from staytrue.loop.jobs import Steps, result_of
from staytrue.store import models, tables
from staytrue.store.ledger import Entry, Ref
from staytrue.store.tables import Table

__all__ = ["TRAININGS", "Trained", "train"]

TRAININGS = "trainings"
"""The timeline of trainings: what a recipe gave holds on every timeline, so no replay trains what another one has trained."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model, the code that answers with it, and where it came from. `ran` is False when it was found by its recipe."""

    code: Digest
    entry: Path
    model: Digest
    recipe: Digest
    tables: Mapping[str, Digest]
    golden: Digest | None
    seal: str
    rows: int
    ran: bool
    refs: tuple[Ref, ...] = field(default=())
    interpreter: Path | None = None
    """The Python that it answers in; None: the one that runs here."""


def train(ctx: Context, inputs: Mapping[str, Table], *, previous: Digest | None = None) -> Steps[Trained]:
    """The model that `inputs` give, trained in its own process unless this recipe was trained before.

    Args:
        inputs: source -> the rows to train on.
        previous: the champion's model, for an app that starts from it; ignored by others.

    Raises:
        InvalidInput, Refused: the training raised, hung, ran out of memory, gave None or what can't be stored.
    """
    inputs = {name: inputs[name] for name in ctx.app.inputs()}
    manifests = {name: tables.save(ctx.store.objects, table) for name, table in inputs.items()}
    recipe = Recipe(
        training_code=ctx.training_code,
        tables={name: table.id for name, table in inputs.items()},
        env=ctx.env,
        params=ctx.params,
        seed=ctx.seed,
        previous=previous if ctx.app.wants_previous else None,
    )
    recipe_id = ctx.store.objects.put_document(recipe.document())
    rows = sum(part.rows - part.unlabelled for name in inputs for part in inputs[name].parts if _labelled(ctx, name))
    refs = tuple(
        Ref(kind="table", name=table.id, digest=manifests[name]) for name, table in inputs.items()
    )  # what a release refers to by table id is kept by these
    times = len(ctx.store.ledger.refs(kind="model", name=recipe_id))
    known, ran = ctx.store.model_of(recipe_id), False
    if known is None:
        outcome = (yield [_job(ctx, recipe, recipe_id, inputs, manifests)])[0]
        known = ctx.store.model_of(recipe_id)  # another policy may have asked for the same training, and was first
        if known is None:
            known, ran = _keep(ctx, recipe_id, outcome, refs, rows, times=times), True
    model, event = known
    return Trained(
        code=ctx.code,
        entry=ctx.entry,
        model=model,
        recipe=recipe_id,
        tables=recipe.tables,
        golden=event.body.get("golden"),
        seal=event.body["seal"],
        rows=rows,
        ran=ran,
        refs=refs,
        interpreter=ctx.interpreter,
    )


def _labelled(ctx: Context, name: str) -> bool:
    return ctx.app.sources[name].spec.label is not None


def _job(
    ctx: Context, recipe: Recipe, recipe_id: Digest, inputs: Mapping[str, Table], manifests: Mapping[str, Digest]
) -> Job:
    asked = ctx.app.inputs()
    previous = {"model": recipe.previous, "seal": ctx.store.seal_of(recipe.previous)} if recipe.previous else None
    settings = ctx.app.settings
    return Job(
        key=f"train:{recipe_id}",
        task="staytrue.loop.tasks:train",
        payload=ctx.payload(
            sources=[{"name": name, "manifest": manifests[name], "frame": asked[name]} for name in inputs],
            params=dict(recipe.params),
            seed=recipe.seed,
            previous=previous,
        ),
        workspace=ctx.tree,
        timeout_s=duration(settings.timeout).total_seconds(),
        memory_bytes=settings.memory_mb * 2**20 if settings.memory_mb else None,
        interpreter=ctx.interpreter,
        app=ctx.app.name,
    )


def _keep(
    ctx: Context, recipe_id: Digest, outcome: Outcome, refs: tuple[Ref, ...], rows: int, *, times: int
) -> tuple[Digest, Any]:
    """Objects first, durable; then one ledger row that makes the model exist.

    `times` is how often this recipe was trained before (more than never: its model is lost). It is in the key: of two processes
    that train the same recipe at the same time one is first, and its model is the recipe's for both.
    """
    result = result_of(outcome, doing=f"train {ctx.app.name}")
    outbox = outcome.outbox
    if outbox is None:
        raise InvalidInput("ST363", f"The training of {ctx.app.name} left no model behind.")
    objects = ctx.store.objects
    data = objects.put_file(Path(outbox) / result["file"])
    golden = None
    if "golden" in result:
        golden_rows = objects.put_file(Path(outbox) / result["golden_rows"])
        golden = objects.put_document(models.Golden(rows=golden_rows, answers=result["golden"]).document())
    document = models.manifest(data=data, form=result["format"], size=result["size"], golden=golden, recipe=recipe_id)
    model = objects.put_document(document)
    seal = models.seal(ctx.store.key, document)
    now = datetime.now(UTC)
    entry = Entry(
        app=ctx.app.name,
        timeline=TRAININGS,
        key=f"trained:{recipe_id}:{times}",
        at=now,
        kind="trained",
        sentence=f"Trained model {model[:8]} on {rows:,} rows.",
        body={
            "recipe": recipe_id,
            "model": model,
            "seal": seal,
            "golden": golden,
            "rows": rows,
            "seconds": round(outcome.seconds, 3),
        },
        refs=(
            Ref(kind="model", name=recipe_id, digest=model),
            Ref(kind="recipe", name=recipe_id, digest=recipe_id),
            *refs,
        ),
    )
    try:
        return model, ctx.store.ledger.append([entry], recorded_at=now)[0]
    except Conflict:
        first = ctx.store.model_of(recipe_id)
        if first is None:
            raise
        return first
