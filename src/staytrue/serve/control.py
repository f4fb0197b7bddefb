"""Control: every route but `POST /predict`: labels, health, metrics, and the protocols of other servers.

What predicts here goes the front's way: other protocols only translate rows and answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cached_property
from math import isfinite
from typing import Annotated, Any, Final, TypeAlias

import msgspec

from staytrue import __version__
from staytrue.errors import StaytrueError
from staytrue.kernel.contract import micros
from staytrue.serve import openapi
from staytrue.serve.ids import as_bytes, ids_list
from staytrue.serve.intake import Form
from staytrue.serve.metrics import CONTENT_TYPE
from staytrue.serve.problem import Problem, problem_of
from staytrue.serve.protocols import mlflow, oip
from staytrue.serve.response import JSON, Response
from staytrue.serve.routes import Route
from staytrue.serve.service import Predicted, Service
from staytrue.serve.supervisor import Supervisor
from staytrue.store.labels import Label, Labels

__all__ = ["Control"]

Parts: TypeAlias = Mapping[str, str]
Outcome: TypeAlias = Response | Problem
_encode = msgspec.json.Encoder().encode


class _LabelIn(msgspec.Struct, forbid_unknown_fields=True):
    """A label as it comes in."""

    label: Any
    id: str | msgspec.UnsetType = msgspec.UNSET
    key: str | Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float | msgspec.UnsetType = msgspec.UNSET
    at: Annotated[datetime, msgspec.Meta(tz=True)] | msgspec.UnsetType = msgspec.UNSET
    source: Annotated[str, msgspec.Meta(max_length=200)] = ""


class _LabelsIn(msgspec.Struct, forbid_unknown_fields=True):
    labels: Annotated[list[_LabelIn], msgspec.Meta(min_length=1, max_length=100_000)]


_decode_labels = msgspec.json.Decoder(_LabelsIn).decode


class Control:
    """Answers the routes of the table that are not the front's own."""

    def __init__(self, service: Service) -> None:
        self._service = service
        # Labels wait for the disk: in threads, several at a time, so that they share the wait.
        self._threads = ThreadPoolExecutor(max_workers=16, thread_name_prefix="labels")
        self._handlers: Mapping[str, Callable[..., Awaitable[Outcome]]] = {
            "/labels": self._labels,
            "/invocations": self._mlflow,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
            "/v2": self._oip_server,
            "/v2/health/live": self._oip_live,
            "/v2/health/ready": self._oip_server_ready,
            "/v2/models/{name}": self._oip_model,
            "/v2/models/{name}/ready": self._oip_ready,
            "/v2/models/{name}/infer": self._oip_infer,
            "/v2/models/{name}/versions/{version}": self._oip_model,
            "/v2/models/{name}/versions/{version}/ready": self._oip_ready,
            "/v2/models/{name}/versions/{version}/infer": self._oip_infer,
        }

    def close(self) -> None:
        """Bring labels to disk and end."""
        self._threads.shutdown()
        if "_writer" in self.__dict__:
            self._writer.close()

    @cached_property
    def _writer(self) -> Labels:
        return Labels(self._service.store.root, self._service.app)

    async def answer(self, scope: Any, route: Route | None, parts: Parts, receive: Any) -> Outcome:
        """The answer of a route; of no route, or another method, the problem."""
        if route is None:
            return NO_ROUTE
        if scope["method"] not in route.methods:
            allowed = ", ".join(route.methods)
            detail = f"{route.path} answers {allowed}."
            return Problem(status=405, code="ST770", detail=detail, headers=((b"allow", allowed.encode()),))
        try:
            return await self._handlers[route.path](scope, parts, receive)
        except StaytrueError as exc:
            return problem_of(exc)

    # ------------------------------------------------------------ labels

    async def _labels(self, scope: Any, _parts: Parts, receive: Any) -> Outcome:
        if self._service.vitals.disk == "full":
            return DISK_FULL
        body = await self._service.body(scope["headers"], receive)
        if isinstance(body, Problem):
            return body
        try:
            given = _decode_labels(body if isinstance(body, bytes) else b"".join(body)).labels
        except msgspec.ValidationError as exc:
            return Problem(status=422, code="ST771", detail=f"These labels can't be read: {str(exc)[:300]}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            return Problem(status=400, code="ST757", detail=f"The body is no JSON: {str(exc)[:200]}")
        now_us = time.time_ns() // 1000
        labels = []
        for at, one in enumerate(given):
            made = _label(at, one, now_us)
            if isinstance(made, Problem):
                return made
            labels.append(made)
        await asyncio.get_running_loop().run_in_executor(self._threads, self._writer.add, labels)
        self._service.metrics.labels.inc(len(labels))
        return Response(body=_encode({"accepted": len(labels)}))

    # ------------------------------------------------------------ health and figures

    async def _healthz(self, _scope: Any, _parts: Parts, _receive: Any) -> Outcome:
        return Response(body=b'{"status":"ok"}')

    async def _readyz(self, _scope: Any, _parts: Parts, _receive: Any) -> Outcome:
        if self._service.ending:
            return Response(status=503, body=b'{"status":"ending"}')
        if self._service.router.table.champion is None:
            return Response(status=503, body=b'{"status":"starting"}')
        return Response(body=b'{"status":"ready"}')

    async def _metrics(self, _scope: Any, _parts: Parts, _receive: Any) -> Outcome:
        return Response(headers=[(b"content-type", CONTENT_TYPE)], body=self._service.metrics.text())

    async def _openapi(self, _scope: Any, _parts: Parts, _receive: Any) -> Outcome:
        champion = self._service.router.table.champion
        signature = example = None
        if champion is not None:
            signature = {**champion.facts.signature.document(), "label": dict(champion.facts.label)}
            # A plain service's author has written its examples to be seen; a row of a training stays inside.
            example = champion.facts.example if champion.facts.label["name"] is None else None
        document = openapi.document(
            self._service.app,
            signature,
            __version__,
            release=None if champion is None else champion.release,
            example=example,
            needs_token=self._service.gate.needs_token,
            most_rows=self._service.limits.rows,
        )
        return Response(body=_encode(document))

    # ------------------------------------------------------------ MLflow

    async def _mlflow(self, scope: Any, _parts: Parts, receive: Any) -> Outcome:
        champion = self._service.ready()
        if isinstance(champion, Problem):
            return champion
        asked = await self._asked(scope, champion, "mlflow", b"content-type", receive)
        if isinstance(asked, Problem):
            return asked
        done, _ = asked
        ids = ids_list(done.first_id, done.size)
        return Response(headers=[JSON, *done.headers()], body=mlflow.answer(done.answers, ids))

    async def _asked(
        self, scope: Any, champion: Supervisor, form: Form, head: bytes, receive: Any
    ) -> tuple[Predicted, Any] | Problem:
        """The answers to a request of another protocol, and what else it said."""
        body = await self._service.body(scope["headers"], receive)
        if isinstance(body, Problem):
            return body
        taken = await self._service.read(champion, form, _header(scope, head), body)
        if isinstance(taken, Problem):
            return taken
        done = await self._service.predicted(taken.read, champion)
        return done if isinstance(done, Problem) else (done, taken.rest)

    # ------------------------------------------------------------ Open Inference Protocol

    async def _oip_server(self, _scope: Any, _parts: Parts, _receive: Any) -> Outcome:
        return Response(body=_encode(oip.server_metadata(__version__)))

    async def _oip_live(self, _scope: Any, _parts: Parts, _receive: Any) -> Outcome:
        return Response(body=b'{"live":true}')

    async def _oip_server_ready(self, _scope: Any, _parts: Parts, _receive: Any) -> Outcome:
        ready = not self._service.ending and self._service.router.table.champion is not None
        return Response(status=200 if ready else 503, body=b'{"ready":%s}' % (b"true" if ready else b"false"))

    async def _oip_model(self, _scope: Any, parts: Parts, _receive: Any) -> Outcome:
        champion = self._oip_champion(parts)
        if isinstance(champion, Problem):
            return champion
        columns = champion.facts.signature.document()["columns"]
        label = champion.facts.label["type"]
        return Response(body=_encode(oip.model_metadata(self._service.app, [champion.release], columns, label=label)))

    async def _oip_ready(self, _scope: Any, parts: Parts, _receive: Any) -> Outcome:
        champion = self._oip_champion(parts)
        if isinstance(champion, Problem):
            return champion
        return Response(body=_encode({"name": self._service.app, "ready": True}))

    async def _oip_infer(self, scope: Any, parts: Parts, receive: Any) -> Outcome:
        champion = self._oip_champion(parts)
        if isinstance(champion, Problem):
            return champion
        asked = await self._asked(scope, champion, "oip", b"inference-header-content-length", receive)
        if isinstance(asked, Problem):
            return asked
        done, (id_, outputs) = asked
        answer, headers = oip.answer(
            oip.Request(rows=[], id=id_, outputs=outputs),
            done.answers,
            model=self._service.app,
            version=done.release,
            ids=ids_list(done.first_id, done.size),
            label=champion.facts.label["type"],
        )
        return Response(headers=[*headers, *done.headers()], body=answer)

    def _oip_champion(self, parts: Parts) -> Supervisor | Problem:
        """The champion, if it is what the path asks for."""
        champion = self._service.ready()
        releases = [] if isinstance(champion, Problem) else [champion.release]
        wanted = oip.release_of(parts["name"], parts.get("version"), app=self._service.app, releases=releases)
        return wanted if isinstance(wanted, Problem) else champion


def _label(at: int, one: _LabelIn, now_us: int) -> Label | Problem:
    id_ = as_bytes(one.id) if isinstance(one.id, str) else None
    if isinstance(one.id, str) and id_ is None:
        return Problem(status=422, code="ST771", detail=f"Label {at}: {one.id[:60]!r} is no id of a prediction.")
    key = None if isinstance(one.key, msgspec.UnsetType) else one.key
    if isinstance(key, float):
        if key != int(key) if isfinite(key) else True:
            return Problem(
                status=422, code="ST771", detail=f"Label {at}: the key {key} is no whole number and no text."
            )
        key = int(key)
    try:
        when = now_us if isinstance(one.at, msgspec.UnsetType) else micros(one.at.astimezone(UTC))
    except OverflowError:
        return Problem(
            status=422, code="ST771", detail=f"Label {at}: {one.at} is outside of the years 1 to 9999 in UTC."
        )
    return Label(id=id_, key=key, label=one.label, at_us=when, got_us=now_us, source=one.source)


def _header(scope: Any, name: bytes) -> str:
    return next((value.decode("latin-1") for header, value in scope["headers"] if header == name), "")


DISK_FULL: Final = Problem(
    status=503,
    code="ST824",
    detail="The store's disk is nearly full; what is left is kept for the ledger. These labels were not kept: send them again.",
    headers=((b"retry-after", b"10"),),
)
NO_ROUTE: Final = Problem(
    status=404, code="ST769", detail="There is nothing at this path. `GET /openapi.json` lists what there is."
)
