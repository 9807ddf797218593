"""The OpenAI-compatible server as an ASGI app: its routes, and the layers around them.

From a request's bytes to its answer stands in `_answer`; everything else here is about being asked in other ways.
"""

import time
from collections.abc import Sequence
from typing import IO, Protocol

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from transformers import PreTrainedTokenizerBase

from mogu.serving.engine.job import Piece
from mogu.serving.http.answers import ChatFormat, Format, TextFormat
from mogu.serving.http.body import parse_body, read_body
from mogu.serving.http.document import describe, errors, takes
from mogu.serving.http.faults import Fault
from mogu.serving.http.fields import ChatRequest, CompletionRequest
from mogu.serving.http.keys import KeyCheck
from mogu.serving.http.limits import Limits, Pace
from mogu.serving.http.logs import Observer, Record
from mogu.serving.http.metrics import Metrics, State
from mogu.serving.http.prompts import Encoder, Job
from mogu.serving.http.replies import Replies, Writer, no_place
from mogu.serving.http.shapes import ChatBody, Head, Health, Model, ModelList, TextBody
from mogu.serving.http.stream import EventStream

ENCODERS = 2
"""Requests that are parsed and tokenised at once, in threads: the engine keeps its cores."""

READERS = 128
"""Requests whose body is in memory at once."""


class Engine(Writer, Protocol):
    """What writes the replies."""

    @property
    def longest(self) -> int:
        """Tokens of prompt and reply together that the model takes."""

    @property
    def failed(self) -> bool:
        """Whether an error has ended it."""

    @property
    def state(self) -> State:
        """What it is at, now."""


def make_app(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    *,
    limits: Limits | None = None,
    keys: Sequence[bytes] = (),
    log: IO[str] | None = None,
    log_text: bool = False,
    with_mogu: bool = True,
) -> FastAPI:
    """The app.

    Args:
        engine: started; the app does not close it.
        tokenizer: of the engine's model.
        name: of the model, as requests must give it.
        limits: what one request may have.
        keys: digests of API keys, one of which a request must have; none for no key.
        log: where a JSON line about each request goes.
        log_text: whether the lines hold prompts and replies.
        with_mogu: whether answers have the `mogu` object.
    """
    server = _Server(engine, tokenizer, name, limits or Limits(), log_text=log_text, with_mogu=with_mogu)
    app = FastAPI(title="MoGU", docs_url=None, redoc_url=None)
    app.post("/v1/chat/completions", response_model=None, **takes(ChatRequest, ChatBody))(server.chat)
    app.post("/v1/completions", response_model=None, **takes(CompletionRequest, TextBody))(server.complete)
    app.get("/v1/models", responses=errors(401))(server.models)
    app.get("/v1/models/{name:path}", responses=errors(401, 404))(server.model)
    app.get("/health", responses=errors(503))(server.health)
    app.get("/metrics", response_class=Response, responses=errors(401))(server.metrics_text)
    app.exception_handler(Fault)(_tell_fault)
    app.exception_handler(HTTPException)(_tell_http)
    routes = ["/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics"]
    app.add_middleware(KeyCheck, keys=keys)
    app.add_middleware(Observer, routes=routes, metrics=server.metrics, log=log)
    describe(app, name, limits or Limits(), engine.longest, with_keys=bool(keys))
    return app


class _Server:
    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        limits: Limits,
        *,
        log_text: bool,
        with_mogu: bool,
    ) -> None:
        self.metrics = Metrics(lambda: engine.state)
        self._engine = engine
        self._name = name
        self._limits = limits
        self._log_text = log_text
        self._with_mogu = with_mogu
        self._encoder = Encoder(tokenizer, engine.longest, limits)
        self._threads = CapacityLimiter(ENCODERS)
        self._pace = Pace(limits.replies)
        self._created = int(time.time())
        self._reading = 0

    async def chat(self, request: Request) -> Response:
        """Continue a conversation."""
        return await self._answer(request, ChatRequest, ChatFormat, "chatcmpl")

    async def complete(self, request: Request) -> Response:
        """Continue raw prompts."""
        return await self._answer(request, CompletionRequest, TextFormat, "cmpl")

    async def models(self) -> ModelList:
        """The one model that is served."""
        return {"object": "list", "data": [self._model()]}

    async def model(self, name: str) -> Model:
        """A model by its name."""
        self._check_name(name)
        return self._model()

    async def health(self) -> Health:
        """Whether the server answers, and its engine writes; needs no key."""
        if self._engine.failed:
            raise Fault(503, "The engine has failed: start the server again.", code="engine_failed")
        return {"status": "ok"}

    async def metrics_text(self) -> Response:
        """Metrics in Prometheus' text format."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def _answer(
        self,
        request: Request,
        kind: type[ChatRequest] | type[CompletionRequest],
        form: type[Format],
        prefix: str,
    ) -> Response:
        record: Record = request.state.record
        deadline = record.began + self._limits.seconds
        fields, jobs = await self._read(request, kind)
        if self._log_text:
            record.asked = fields.model_dump(exclude_unset=True)
        replies = Replies(
            self._engine,
            jobs,
            request.receive,
            began=record.began,
            deadline=deadline,
            pace=self._pace,
        )
        record.replies = replies
        head: Head = {"id": f"{prefix}-{record.id}", "created": int(time.time()), "model": self._name}
        format = form(
            head,
            logprobs=fields.likeliest is not None,
            with_usage=fields.include_usage,
            with_mogu=self._with_mogu,
        )
        if fields.stream:
            return EventStream(replies, format, record)
        pieces: list[list[Piece]] = [[] for _ in jobs]
        async with replies:
            async for index, piece in replies:
                pieces[index].append(piece)
        return JSONResponse(format.body(pieces, replies.usage))

    async def _read(
        self, request: Request, kind: type[ChatRequest] | type[CompletionRequest]
    ) -> tuple[ChatRequest | CompletionRequest, list[Job]]:
        if self._reading == READERS:
            raise no_place("Too many requests come at once.", self._pace.retry_after)
        self._reading += 1
        try:
            body = await read_body(request, self._limits.body)
            return await to_thread.run_sync(self._understand, body, kind, limiter=self._threads)
        finally:
            self._reading -= 1

    def _understand(
        self, body: bytes, kind: type[ChatRequest] | type[CompletionRequest]
    ) -> tuple[ChatRequest | CompletionRequest, list[Job]]:
        fields = parse_body(body, kind)
        self._check_name(fields.model)
        return fields, self._encoder.jobs(fields)

    def _check_name(self, name: str) -> None:
        if name != self._name:
            raise Fault(
                404,
                f"There is no model '{name[:80]}' here; this server's is '{self._name}'.",
                param="model",
                code="model_not_found",
            )

    def _model(self) -> Model:
        return {"id": self._name, "object": "model", "created": self._created, "owned_by": "mogu"}


async def _tell_fault(request: Request, fault: Exception) -> JSONResponse:
    assert isinstance(fault, Fault)
    request.state.record.error = fault.code
    return fault.response()


async def _tell_http(request: Request, error: Exception) -> JSONResponse:
    """For a path or a method that is not there."""
    assert isinstance(error, HTTPException)
    routes = "POST /v1/chat/completions, POST /v1/completions, GET /v1/models, GET /health and GET /metrics"
    return await _tell_fault(
        request,
        Fault(
            error.status_code,
            f"{error.detail}; this server has {routes}.",
            code="not_found" if error.status_code == 404 else "method_not_allowed",
            headers=error.headers,
        ),
    )
