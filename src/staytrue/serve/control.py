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
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec

from staytrue import __version__
from staytrue.errors import StaytrueError
from staytrue.kernel.contract import micros
from staytrue.serve import openapi
from staytrue.serve.ids import as_bytes, ids_list
from staytrue.serve.metrics import CONTENT_TYPE
from staytrue.serve.problem import Problem, problem_of
from staytrue.serve.protocols import mlflow, oip
from staytrue.serve.response import JSON, Response
from staytrue.serve.routes import Route
from staytrue.serve.supervisor import Supervisor
from staytrue.store.labels import Label, Labels

if TYPE_CHECKING:
    from staytrue.serve.front import Front, Predicted

__all__ = ["Control"]

Parts: TypeAlias = Mapping[str, str]
Outcome: TypeAlias = Response | Problem
_encode = msgspec.json.Encoder().encode


class _LabelIn(msgspec.Struct, forbid_unknown_fields=True):
    """A label as it comes in."""

    label: Any
    id: str | None = None
    key: str | int | None = None
    at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    source: Annotated[str, msgspec.Meta(max_length=200)] = ""


class _LabelsIn(msgspec.Struct, forbid_unknown_fields=True):
    labels: Annotated[list[_LabelIn], msgspec.Meta(min_length=1, max_length=100_000)]


_decode_labels = msgspec.json.Decoder(_LabelsIn).decode


class Control:
    """Answers the routes of the table that are not the front's own."""

    def __init__(self, front: Front) -> None:
        self._front = front
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
            "/v2/health/live": self._healthz,
            "/v2/health/ready": self._readyz,
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
        return Labels(self._front.store.root, self._front.app)

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
        body = await self._front.body(scope["headers"], receive)
        if isinstance(body, Problem):
            return body
        try:
            given = _decode_labels(body).labels
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
        self._front.metrics.labels.inc(len(labels))
        return Response(body=_encode({"accepted": len(labels)}))

    # ------------------------------------------------------------ health and figures

    async def _healthz(self, _scope: Any, _parts: Parts, _receive: Any) -> Outcome:
        return Response(body=b'{"status":"ok"}')

    async def _readyz(self, _scope: Any, _parts: Parts, _receive: Any) -> Outcome:
        if self._front.ending:
            return Response(status=503, body=b'{"status":"ending"}')
        if self._front.router.table.champion is None:
            return Response(status=503, body=b'{"status":"starting"}')
        return Response(body=b'{"status":"ready"}')

    async def _metrics(self, _scope: Any, _parts: Parts, _receive: Any) -> Outcome:
        return Response(headers=[(b"content-type", CONTENT_TYPE)], body=self._front.metrics.text())

    async def _openapi(self, _scope: Any, _parts: Parts, _receive: Any) -> Outcome:
        champion = self._front.router.table.champion
        signature = None
        if champion is not None:
            signature = {**champion.facts.signature.document(), "label": dict(champion.facts.label)}
        document = openapi.document(
            self._front.app,
            signature,
            __version__,
            release=None if champion is None else champion.release,
            needs_token=self._front.gate.needs_token,
            most_rows=self._front.limits.rows,
        )
        return Response(body=_encode(document))

    # ------------------------------------------------------------ MLflow

    async def _mlflow(self, scope: Any, _parts: Parts, receive: Any) -> Outcome:
        body = await self._front.body(scope["headers"], receive)
        champion = self._front.ready()
        if isinstance(body, Problem) or isinstance(champion, Problem):
            return body if isinstance(body, Problem) else champion  # type: ignore[return-value]
        signature = champion.facts.signature
        rows = mlflow.rows(
            body,
            _header(scope, b"content-type"),
            signature.seen,
            dict(signature.schema),
            most_rows=self._front.limits.rows,
        )
        done = await self._predicted(rows, champion)
        if isinstance(done, Problem):
            return done
        ids = ids_list(done.first_id, done.size)
        return Response(headers=[JSON, *done.headers()], body=mlflow.answer(done.answers, ids))

    async def _predicted(self, rows: list[dict[str, Any]] | Problem, champion: Supervisor) -> Predicted | Problem:
        read = rows if isinstance(rows, Problem) else champion.schema.read_dicts(rows)
        if isinstance(read, Problem):
            self._front.count_refused(read)
            return read
        return await self._front.predicted(read, champion)

    # ------------------------------------------------------------ Open Inference Protocol

    async def _oip_server(self, _scope: Any, _parts: Parts, _receive: Any) -> Outcome:
        return Response(body=_encode(oip.server_metadata(__version__)))

    async def _oip_model(self, _scope: Any, parts: Parts, _receive: Any) -> Outcome:
        champion = self._oip_champion(parts)
        if isinstance(champion, Problem):
            return oip.error(champion)
        columns = champion.facts.signature.document()["columns"]
        label = champion.facts.label["type"]
        return Response(body=_encode(oip.model_metadata(self._front.app, [champion.release], columns, label=label)))

    async def _oip_ready(self, _scope: Any, parts: Parts, _receive: Any) -> Outcome:
        champion = self._oip_champion(parts)
        return oip.error(champion) if isinstance(champion, Problem) else Response(body=b'{"ready":true}')

    async def _oip_infer(self, scope: Any, parts: Parts, receive: Any) -> Outcome:
        body = await self._front.body(scope["headers"], receive)
        champion = self._oip_champion(parts)
        if isinstance(body, Problem) or isinstance(champion, Problem):
            return oip.error(body if isinstance(body, Problem) else champion)  # type: ignore[arg-type]
        signature = champion.facts.signature
        asked = oip.request(
            body,
            _header(scope, b"inference-header-content-length").encode() or None,
            signature.seen,
            dict(signature.schema),
            most_rows=self._front.limits.rows,
        )
        if isinstance(asked, Problem):
            return oip.error(asked)
        done = await self._predicted(asked.rows, champion)
        if isinstance(done, Problem):
            return oip.error(done)
        answer, headers = oip.answer(
            asked,
            done.answers,
            model=self._front.app,
            version=done.release,
            ids=ids_list(done.first_id, done.size),
            label=champion.facts.label["type"],
        )
        return Response(headers=[*headers, *done.headers()], body=answer)

    def _oip_champion(self, parts: Parts) -> Supervisor | Problem:
        """The champion, if it is what the path asks for."""
        champion = self._front.ready()
        releases = [] if isinstance(champion, Problem) else [champion.release]
        wanted = oip.release_of(parts["name"], parts.get("version"), app=self._front.app, releases=releases)
        return wanted if isinstance(wanted, Problem) else champion


def _label(at: int, one: _LabelIn, now_us: int) -> Label | Problem:
    id_ = None
    if one.id is not None:
        id_ = as_bytes(one.id)
        if id_ is None:
            return Problem(status=422, code="ST771", detail=f"Label {at}: {one.id[:60]!r} is no id of a prediction.")
    when = now_us if one.at is None else micros(one.at.astimezone(UTC))
    return Label(id=id_, key=one.key, label=one.label, at_us=when, got_us=now_us, source=one.source)


def _header(scope: Any, name: bytes) -> str:
    return next((value.decode("latin-1") for header, value in scope["headers"] if header == name), "")


NO_ROUTE: Final = Problem(
    status=404, code="ST769", detail="There is nothing at this path. `GET /openapi.json` lists what there is."
)
