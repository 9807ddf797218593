"""The fields of OpenAI's two requests: honoured, ignored where they change no reply, refused where they would.

Any other field is refused too, so that none is silently without effect: neither `tools` nor `threshold`. Knows no
model: whether a prompt fits is not seen here.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    JsonValue,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

from mogu.serving.engine.job import Sampling
from mogu.serving.http.limits import KEYS

COMPLETION_TOKENS = 16
"""The longest reply to a raw prompt that gives none, in tokens: OpenAI's."""

MESSAGES = 4096
"""Of a conversation, at most."""

Ignored = Annotated[JsonValue, Field(description="Known and ignored: it changes no reply.")]


@dataclass(frozen=True)
class _Only:
    """Of a field that would change a reply: null is allowed, and a value that asks for nothing."""

    reason: str
    neutral: tuple[JsonValue, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"enum": [None, *self.neutral], "description": f"Not supported: {self.reason}."}

    def _check(self, value: JsonValue) -> JsonValue:
        if any(type(value) is type(each) and value == each for each in (None, *self.neutral)):
            return value
        raise PydanticCustomError("unsupported", "Not supported: {reason}.", {"reason": self.reason})


_NO_TOOLS = "this server's model calls no tools"
_TEXT = "this server's model reads and writes text"

Tools = Annotated[JsonValue, _Only(_NO_TOOLS, ([],))]
ToolChoice = Annotated[JsonValue, _Only(_NO_TOOLS, ("none", "auto"))]
ToolCall = Annotated[JsonValue, _Only(_NO_TOOLS)]
Audio = Annotated[JsonValue, _Only(_TEXT)]
Modalities = Annotated[JsonValue, _Only(_TEXT, (["text"],))]
Format = Annotated[JsonValue, _Only("replies are plain text", ({"type": "text"},))]
Prediction = Annotated[JsonValue, _Only("a reply is written without a prediction of it")]
Search = Annotated[JsonValue, _Only("this server searches nothing")]
Reasoning = Annotated[JsonValue, _Only("this server's model has no reasoning effort", ("none",))]
Verbosity = Annotated[JsonValue, _Only("this server's model has no verbosity", ("medium",))]
Moderation = Annotated[JsonValue, _Only("the gate moderates here, and it is always on")]
Suffix = Annotated[JsonValue, _Only("this server's model writes forwards only", ("",))]
Echo = Annotated[JsonValue, _Only("a reply does not repeat its prompt", (False,))]

Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Biases = Annotated[
    dict[TokenKey, Bias],
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": KEYS,
            "propertyNames": {"pattern": "^[0-9]{1,9}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        }
    ),
]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
StopStrings = Annotated[list[StopString], Field(max_length=16, fail_fast=True)]
Likeliest = Annotated[int, Field(ge=0, le=20)]


class StreamOptions(BaseModel):
    """Of a stream alone."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: Ignored = None


class _Request(BaseModel):
    """What both requests have."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str
    frequency_penalty: Penalty | None = None
    logit_bias: Biases | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopString | StopStrings | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    user: Ignored = None

    usual_longest: ClassVar[int | None] = None  # the longest reply of a request that leaves it open

    @property
    def longest(self) -> int | None:
        """The longest reply, in tokens; None if the request leaves it open."""
        raise NotImplementedError

    @property
    def likeliest(self) -> int | None:
        """How many likeliest tokens are told with each one's own probability; None if not even that is."""
        raise NotImplementedError

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, max_tokens: int, choice: int) -> Sampling:
        """How one of the replies is written.

        Args:
            max_tokens: the longest reply.
            choice: its index, from 0: with a seed each reply has its own, the first one the seed that is given.
        """
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=None if self.seed is None else (self.seed + choice) % 2**63,
            stop=tuple(stop),
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logprobs=self.likeliest,
        )


def _join(parts: object) -> object:
    """The text of a message: one text, or parts of which each is one."""
    if not isinstance(parts, list):
        return parts
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "refusal"):
            shown = f"'{kind[:40]}'" if isinstance(kind, str) else "no known"
            raise PydanticCustomError(
                "unsupported",
                "A content part is of {shown} type: this server's model reads text parts only.",
                {"shown": shown},
            )
        text = part.get(kind)
        if not isinstance(text, str) or part.keys() - {"type", kind, "prompt_cache_breakpoint"}:
            raise PydanticCustomError(
                "part",
                "A text part is {example}, and nothing else.",
                {"example": '{"type": "text", "text": ...}'},
            )
        texts.append(text)
    return "\n".join(texts)


_PARTS_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                "required": ["type", "text"],
                "additionalProperties": False,
            },
        },
    ],
    "description": "Texts of several parts stand on lines of their own.",
}
Content = Annotated[str, BeforeValidator(_join), WithJsonSchema(_PARTS_SCHEMA)]


class ChatMessage(BaseModel):
    """One turn. What an assistant's reply was answered with may come back as it is, its empty fields with it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    refusal: str | None = Field(None, description="Of an assistant's turn without content: its text.")
    name: Ignored = None
    tool_call_id: Ignored = None
    annotations: Ignored = None
    tool_calls: Tools = None
    function_call: ToolCall = None
    audio: Audio = None

    @model_validator(mode="after")
    def _has_text(self) -> Self:
        if self.content is None and (self.role != "assistant" or self.refusal is None):
            raise PydanticCustomError("missing", "A message has a text.", {"field": "content"})
        return self

    @property
    def text(self) -> str:
        """The turn's text."""
        return (self.refusal or "") if self.content is None else self.content


class ChatRequest(_Request):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MESSAGES, fail_fast=True)]
    logprobs: bool | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    top_logprobs: Likeliest | None = None

    add_generation_prompt: bool | None = Field(
        None, description="As in vLLM; true unless the reply is begun."
    )
    continue_final_message: bool | None = Field(
        None, description="As in vLLM: the last message is an assistant's and the beginning of the reply."
    )

    metadata: Ignored = None
    parallel_tool_calls: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None

    audio: Audio = None
    function_call: ToolChoice = None
    functions: Tools = None
    modalities: Modalities = None
    moderation: Moderation = None
    prediction: Prediction = None
    reasoning_effort: Reasoning = None
    response_format: Format = None
    tool_choice: ToolChoice = None
    tools: Tools = None
    verbosity: Verbosity = None
    web_search_options: Search = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        begun = self.messages[-1].role == "assistant"
        if self.continue_final_message and not begun:
            raise _clash("continue_final_message", "the last message is not an assistant's")
        if self.continue_final_message and self.add_generation_prompt:
            raise _clash("add_generation_prompt", "a reply is either new or continues the final message")
        if self.add_generation_prompt is False and not self.continue_final_message:
            raise _clash("add_generation_prompt", "it is false only together with continue_final_message")
        if self.top_logprobs is not None and not self.logprobs:
            raise _clash("top_logprobs", "it needs logprobs to be true")
        if None not in (self.max_tokens, self.max_completion_tokens) and (
            self.max_tokens != self.max_completion_tokens
        ):
            raise _clash("max_tokens", "it differs from max_completion_tokens, which it is the old name of")
        return self

    @property
    def longest(self) -> int | None:
        """The longest reply, in tokens; None if the request leaves it open."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def likeliest(self) -> int | None:
        """How many likeliest tokens are told with each one's own probability; None if not even that is."""
        return (self.top_logprobs or 0) if self.logprobs else None


# At the first mistake it is over: a million of them would take a gigabyte.
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True)]


def _prompts(value: object) -> object:
    """A list of prompts, each a text or a list of token ids."""
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
        return [value]
    return value


_TOKEN_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_TEXT_PROMPT = {"type": "string", "minLength": 1}
_PROMPT_SCHEMA = {
    "anyOf": [
        _TEXT_PROMPT,
        _TOKEN_IDS,
        {"type": "array", "items": _TEXT_PROMPT, "minItems": 1},
        {"type": "array", "items": _TOKEN_IDS, "minItems": 1},
    ],
    "description": "Text, in which no control token can be typed, or token ids, of which none is a control token's but "
    "for what the tokenizer puts before every text.",
}
RawPrompts = Annotated[
    Annotated[list[str], Field(fail_fast=True)] | Annotated[list[Ids], Field(fail_fast=True)],
    Field(min_length=1),
    BeforeValidator(_prompts),
    WithJsonSchema(_PROMPT_SCHEMA),
]


class CompletionRequest(_Request):
    """The body of `/v1/completions`."""

    prompt: RawPrompts
    best_of: Annotated[int, Field(ge=1)] | None = None
    logprobs: Likeliest | None = None

    usual_longest: ClassVar[int | None] = COMPLETION_TOKENS

    echo: Echo = None
    suffix: Suffix = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise _clash("best_of", "it is not n, but every reply that is written is sent")
        return self

    @property
    def longest(self) -> int | None:
        """The longest reply, in tokens; None if the request leaves it open."""
        return self.max_tokens

    @property
    def likeliest(self) -> int | None:
        """How many likeliest tokens are told with each one's own probability; None if not even that is."""
        return self.logprobs


def _clash(field: str, reason: str) -> PydanticCustomError:
    """The error for fields that do not go together; it names the one that is to blame."""
    return PydanticCustomError("clash", "Not possible: {reason}.", {"reason": reason, "field": field})
