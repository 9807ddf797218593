"""The shapes of answers, as the OpenAPI document has them: OpenAI's, and the `mogu` object beside them."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict  # pydantic reads no other one before Python 3.12

FinishReason = Literal["stop", "length"]


class MoguObject(TypedDict):
    """What the gate and the routing made of a reply.

    score: the gate's calibrated probability, 0 to 1, that it should be a refusal, the highest of prompt and reply; null
    without a gate. threshold: what a prompt is held against. reply_threshold: what the reply is held against while it
    is written; null if it is not read. refused: whether the safe variant wrote any of the reply. refused_from: the
    reply's token at which it took over, 0 for a flagged prompt.
    """

    score: float | None
    threshold: float | None
    reply_threshold: float | None
    refused: bool
    refused_from: int | None


class Usage(TypedDict):
    """Tokens of all prompts, each counted once, and of all replies, their end tokens included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(TypedDict):
    """A token that was likely."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(TopLogprob):
    """A token of the reply, in nats, before temperature and top_p."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """Of a chat's reply."""

    content: list[ChatLogprob]
    refusal: None


class TextLogprobs(TypedDict):
    """Of a raw prompt's reply: lists with an entry for each token; offsets are characters of the reply."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Message(TypedDict):
    """A reply's text. OpenAI's `refusal` stays null: a refusal is text like any other."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Delta(TypedDict):
    """What a chunk adds to a reply."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]


class ChatChoice(TypedDict):
    """One reply."""

    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    mogu: NotRequired[MoguObject]


class ChatChunkChoice(TypedDict):
    """Part of a reply."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    mogu: NotRequired[MoguObject]


class TextChoice(TypedDict):
    """One reply to a raw prompt, or in a stream part of one."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None
    mogu: NotRequired[MoguObject]


class Head(TypedDict):
    """What every answer begins with; `created` in seconds since 1970."""

    id: str
    created: int
    model: str


class ChatBody(Head):
    """The answer of `/v1/chat/completions`; its `mogu` speaks for all replies."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    mogu: NotRequired[MoguObject]


class ChatChunk(Head):
    """One event of its stream. A reply's last one has the `mogu` object; the usage comes last, if it is asked for."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]
    mogu: NotRequired[MoguObject]


class TextBody(Head):
    """The answer of `/v1/completions`, and an event of its stream."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: NotRequired[Usage | None]
    mogu: NotRequired[MoguObject]


class Model(TypedDict):
    """What is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """The answer of `/v1/models`."""

    object: Literal["list"]
    data: list[Model]


class Health(TypedDict):
    """The answer of `/health`."""

    status: Literal["ok"]
