"""Pieces of replies -> answers in OpenAI's shapes: whole bodies, and the chunks of a stream. Knows nothing of HTTP."""

import codecs
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from mogu.serving.engine.job import Piece, TokenLogprob, Verdict
from mogu.serving.http.shapes import (
    ChatBody,
    ChatChunk,
    ChatLogprob,
    ChatLogprobs,
    Delta,
    FinishReason,
    Head,
    MoguObject,
    TextBody,
    TextChoice,
    TextLogprobs,
    TopLogprob,
    Usage,
)

UNLIKELY = -9999.0
"""Stands for minus infinity, which JSON has not: OpenAI's."""


@dataclass
class Format(ABC):
    """How the replies to one request are told.

    Attributes:
        head: what every answer begins with.
        logprobs: whether they are asked for.
        with_usage: whether a stream ends with it.
        with_mogu: whether the `mogu` object is shown.
    """

    head: Head
    logprobs: bool
    with_usage: bool
    with_mogu: bool

    @abstractmethod
    def body(self, replies: Sequence[Sequence[Piece]], usage: Usage) -> Mapping[str, Any]:
        """All replies, each with its pieces."""

    @abstractmethod
    def chunks(self, index: int, piece: Piece) -> Sequence[Mapping[str, Any]]:
        """The events for the next piece of a reply; none where it tells nothing."""

    @abstractmethod
    def usage_chunk(self, verdicts: Sequence[Verdict], usage: Usage) -> Mapping[str, Any]:
        """The last event of a stream, of which the usage is asked for."""


@dataclass
class ChatFormat(Format):
    """Of `/v1/chat/completions`."""

    _begun: set[int] = field(default_factory=set, init=False)

    def body(self, replies: Sequence[Sequence[Piece]], usage: Usage) -> ChatBody:
        """All replies, each with its pieces."""
        body: ChatBody = {
            **self.head,
            "object": "chat.completion",
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": _text(pieces), "refusal": None},
                    "logprobs": _chat_logprobs(_tokens(pieces)) if self.logprobs else None,
                    "finish_reason": cast(FinishReason, pieces[-1].finish),
                }
                for index, pieces in enumerate(replies)
            ],
            "usage": usage,
        }
        if self.with_mogu:
            verdicts = [pieces[-1].verdict for pieces in replies]
            body["mogu"] = mogu_object(verdicts)
            for choice, verdict in zip(body["choices"], verdicts, strict=True):
                choice["mogu"] = mogu_object([verdict])
        return body

    def chunks(self, index: int, piece: Piece) -> list[ChatChunk]:
        """The events for the next piece of a reply; none where it tells nothing."""
        chunks = []
        if index not in self._begun:
            self._begun.add(index)
            chunks.append(self._chunk(index, {"role": "assistant", "content": ""}))
        if piece.text or piece.logprobs:
            chunk = self._chunk(index, {"content": piece.text})
            if self.logprobs:
                chunk["choices"][0]["logprobs"] = _chat_logprobs(piece.logprobs)
            chunks.append(chunk)
        if piece.finish is not None:
            last = self._chunk(index, {})
            last["choices"][0]["finish_reason"] = cast(FinishReason, piece.finish)
            if self.with_mogu:
                last["mogu"] = last["choices"][0]["mogu"] = mogu_object([piece.verdict])
            chunks.append(last)
        return chunks

    def usage_chunk(self, verdicts: Sequence[Verdict], usage: Usage) -> ChatChunk:
        """The last event of a stream, of which the usage is asked for."""
        chunk: ChatChunk = {**self.head, "object": "chat.completion.chunk", "choices": [], "usage": usage}
        if self.with_mogu:
            chunk["mogu"] = mogu_object(verdicts)
        return chunk

    def _chunk(self, index: int, delta: Delta) -> ChatChunk:
        chunk: ChatChunk = {
            **self.head,
            "object": "chat.completion.chunk",
            "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}],
        }
        if self.with_usage:
            chunk["usage"] = None
        return chunk


@dataclass
class TextFormat(Format):
    """Of `/v1/completions`."""

    _offsets: "defaultdict[int, _Offsets]" = field(default_factory=lambda: defaultdict(_Offsets), init=False)

    def body(self, replies: Sequence[Sequence[Piece]], usage: Usage) -> TextBody:
        """All replies, each with its pieces."""
        choices = [
            self._choice(index, _text(pieces), _tokens(pieces), pieces[-1])
            for index, pieces in enumerate(replies)
        ]
        body: TextBody = {**self.head, "object": "text_completion", "choices": choices, "usage": usage}
        if self.with_mogu:
            body["mogu"] = mogu_object([pieces[-1].verdict for pieces in replies])
        return body

    def chunks(self, index: int, piece: Piece) -> list[TextBody]:
        """The events for the next piece of a reply; none where it tells nothing."""
        if not piece.text and not piece.logprobs and piece.finish is None:
            return []
        choice = self._choice(index, piece.text, piece.logprobs, piece)
        chunk: TextBody = {**self.head, "object": "text_completion", "choices": [choice]}
        if self.with_usage:
            chunk["usage"] = None
        if "mogu" in choice:
            chunk["mogu"] = choice["mogu"]
        return [chunk]

    def usage_chunk(self, verdicts: Sequence[Verdict], usage: Usage) -> TextBody:
        """The last event of a stream, of which the usage is asked for."""
        chunk: TextBody = {**self.head, "object": "text_completion", "choices": [], "usage": usage}
        if self.with_mogu:
            chunk["mogu"] = mogu_object(verdicts)
        return chunk

    def _choice(self, index: int, text: str, tokens: Sequence[TokenLogprob], last: Piece) -> TextChoice:
        choice: TextChoice = {
            "index": index,
            "text": text,
            "logprobs": self._offsets[index].logprobs(tokens) if self.logprobs else None,
            "finish_reason": cast(FinishReason | None, last.finish),
        }
        if self.with_mogu and last.finish is not None:
            choice["mogu"] = mogu_object([last.verdict])
        return choice


class _Offsets:
    """Where in a reply's text its next token begins, in characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = 0

    def logprobs(self, tokens: Sequence[TokenLogprob]) -> TextLogprobs:
        offsets = []
        for token in tokens:
            offsets.append(self._length)
            self._length += len(self._decoder.decode(token.bytes))
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [max(token.logprob, UNLIKELY) for token in tokens],
            "top_logprobs": [_likeliest(token) for token in tokens],
            "text_offset": offsets,
        }


def mogu_object(verdicts: Sequence[Verdict]) -> MoguObject:
    """What the replies to one request come to: the highest score, and the earliest refusal."""
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    begins = [verdict.refused_from for verdict in verdicts if verdict.refused_from is not None]
    return {
        "score": max(scores, default=None),
        "threshold": verdicts[0].threshold,
        "reply_threshold": verdicts[0].reply_threshold,
        "refused": any(verdict.refused for verdict in verdicts),
        "refused_from": min(begins, default=None),
    }


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _tokens(pieces: Sequence[Piece]) -> list[TokenLogprob]:
    return [token for piece in pieces for token in piece.logprobs]


def _chat_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    content: list[ChatLogprob] = [
        {
            **_top(token.text, token.bytes, token.logprob),
            "top_logprobs": [_top(*each) for each in token.top],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _top(text: str, raw: bytes, logprob: float) -> TopLogprob:
    return {"token": text, "logprob": max(logprob, UNLIKELY), "bytes": list(raw)}


def _likeliest(token: TokenLogprob) -> dict[str, float]:
    """The likeliest tokens and the token itself; of those that look alike the likeliest one."""
    every = [(text, logprob) for text, _, logprob in token.top] + [(token.text, token.logprob)]
    return {text: max(logprob, UNLIKELY) for text, logprob in sorted(every, key=lambda each: each[1])}
