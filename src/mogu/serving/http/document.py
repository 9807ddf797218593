"""The OpenAPI document: what the two requests may hold on this very server, and how it says no."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from mogu.serving.http.faults import ErrorBody
from mogu.serving.http.fields import ChatRequest, CompletionRequest
from mogu.serving.http.limits import Limits
from mogu.serving.http.shapes import ChatChunk

_REF = "#/components/schemas/{model}"

_ERRORS = {
    400: "The body is no JSON, a field is unknown, wrong or not supported, or the prompt is too long.",
    401: "An API key is missing or not known.",
    404: "There is no such model.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not said to be JSON.",
    429: "As many replies wait as may; Retry-After says when to try again.",
    500: "The reply failed.",
    503: "The server is closing, or its engine has failed.",
    504: "The reply took too long.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route says of its errors."""
    return {status: {"model": ErrorBody, "description": _ERRORS[status]} for status in statuses}


def takes(fields: type[BaseModel], body: Any) -> dict[str, Any]:
    """What a route that answers prompts says of its bodies.

    Args:
        fields: of the request.
        body: the answer that is no stream.
    """
    chunk = "ChatChunk" if fields is ChatRequest else body.__name__
    written = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": [{"$ref": _REF.format(model=name)} for name in (chunk, "ErrorBody")]},
        "description": "An error is the last event of replies that were cut off.",
    }
    data = {"anyOf": [{"const": "[DONE]"}, written]}
    event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    content = {"application/json": {"schema": {"$ref": _REF.format(model=fields.__name__)}}}
    return {
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
        "responses": {
            200: {
                "model": body,
                "description": "The replies.",
                "content": {"text/event-stream": {"itemSchema": event}},
            },
            **errors(*_ERRORS),
        },
    }


def describe(app: FastAPI, name: str, limits: Limits, longest: int, *, with_keys: bool) -> None:
    """Complete the document that the framework writes.

    Args:
        app: with its routes.
        name: the model's, the only one that requests may give.
        limits: what one request may have.
        longest: tokens that the model takes.
        with_keys: whether an API key is needed.
    """
    written = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = schema = written()
            schemas = schema["components"]["schemas"]
            _, definitions = models_json_schema(
                [(ChatRequest, "validation"), (CompletionRequest, "validation")], ref_template=_REF
            )
            schemas |= definitions["$defs"]
            chunk = TypeAdapter(ChatChunk).json_schema(ref_template=_REF)
            schemas |= chunk.pop("$defs") | {"ChatChunk": chunk}
            for fields in (ChatRequest, CompletionRequest):
                _narrow(schemas[fields.__name__]["properties"], name, limits, longest)
            # Any text is a name.
            del schema["paths"]["/v1/models/{name}"]["get"]["responses"]["422"]
            del schemas["HTTPValidationError"], schemas["ValidationError"]
            if with_keys:
                schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                schema["security"] = [{"key": []}]
                schema["paths"]["/health"]["get"]["security"] = []
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _narrow(fields: dict[str, Any], name: str, limits: Limits, longest: int) -> None:
    """Say of fields what holds on this server."""
    fields["model"]["enum"] = [name]
    most = min(limits.reply or longest, longest - 1)
    for field, maximum in (("n", limits.replies), ("max_tokens", most), ("max_completion_tokens", most)):
        if field in fields:
            fields[field]["anyOf"][0]["maximum"] = maximum
