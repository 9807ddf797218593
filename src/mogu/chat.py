"""Conversations -> token ids and the spans of what was typed. Knows tokenizers, nothing of models or routing.

The template is rendered and tokenised as a whole, so that the ids are those of `apply_chat_template`. A
control token (`<|im_end|>`, `<s>`) is one only where the template wrote it: typed in a message, it is text.
"""

import json
import re
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypedDict
from weakref import WeakKeyDictionary

import torch
from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from mogu.errors import MoguError


class Message(TypedDict):
    """One turn of a conversation. Other keys that a row may carry are never rendered."""

    role: str
    content: str


Conversation = Sequence[Message]


class TextSpan(NamedTuple):
    """Tokens `start` to `stop` (exclusive) that hold text of one message.

    A token that a text shares with the template or with another text belongs to the span.
    """

    role: str
    start: int
    stop: int


@dataclass(frozen=True)
class EncodedChat:
    """A conversation as a model reads it.

    Attributes:
        ids: Token ids of the prompt: the template's, the generation prompt and, if any, the opener.
        reply_start: Index of the first token that holds text of the opener; `len(ids)` without one.
        spans: Where the messages' texts are, in the template's order; none for a text that it leaves out.
    """

    ids: list[int]
    reply_start: int
    spans: list[TextSpan]


class PaddedBatch(NamedTuple):
    """Rows of one length, int64 tensors of shape (batch, longest row); the mask is 0 on padding, else 1."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Conversation, opener: str = "") -> EncodedChat:
    """Renders a conversation with the tokenizer's chat template, ready for a reply, and tokenises it once.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        messages: The turns; the last one is a user's or a tool's.
        opener: Beginning of the reply, written by the caller; follows the generation prompt unchanged.

    Returns:
        The ids, equal to those of `apply_chat_template` unless a text holds control tokens, and the spans.

    Raises:
        MoguError: The messages are malformed or refused by the template, or the tokenizer cannot be used.
    """
    check_conversation(messages)
    _check_text(opener, "The opener")
    encoder = _encoder(tokenizer)
    parts = [*_render(tokenizer, messages), _Part(opener, "assistant")]
    texts = [encoder.disguise(part.text) if part.role is None else part.text for part in parts]
    encoding = encoder.backend.encode("".join(texts), add_special_tokens=False)
    starts, stops = [start for start, _ in encoding.offsets], [stop for _, stop in encoding.offsets]

    spans, position = [], 0
    for part, text in zip(parts, texts, strict=True):
        first = bisect_right(stops, position)  # the first token that ends behind the position
        position += len(text)
        if part.role is not None:
            last = bisect_left(starts, position) if text else first
            spans.append(TextSpan(part.role, first, max(first, last)))
    return EncodedChat(ids=encoding.ids, reply_start=spans.pop().start, spans=spans)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenises a text that no template has written, as the tokenizer does; typed control tokens are text.

    Raises:
        MoguError: The text holds half a surrogate pair, or the tokenizer cannot be used.
    """
    encoding = _encoder(tokenizer).backend.encode(_check_text(text, "The text"), add_special_tokens=False)
    around = tokenizer.backend_tokenizer.post_processor
    return list((around.process(encoding) if around else encoding).ids)


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids of the control tokens, which only a template writes."""
    return _encoder(tokenizer).control_ids


def as_conversation(row: Mapping[str, Any]) -> list[Message]:
    """Reads a row that holds either `prompt` (a text) or `messages` (a list of turns).

    Args:
        row: A row of a data file; its other keys are not looked at.

    Returns:
        A conversation that `encode_chat` accepts, each message with its role and content only.

    Raises:
        MoguError: Neither or both of the two keys, or a value that is no text or no conversation.
    """
    prompt, messages = row.get("prompt"), row.get("messages")
    if (prompt is None) == (messages is None):
        raise MoguError(f"A row has either 'prompt' or 'messages', but this one has {_listed(row)}.")
    if prompt is None:
        return check_conversation(messages)
    text = _check_text(prompt, "'prompt'")
    if not text.strip():
        raise MoguError("'prompt' is empty. Write the request into it.")
    return [Message(role="user", content=text)]


def check_conversation(messages: object) -> list[Message]:
    """Checks that a value is a conversation that waits for a reply.

    Args:
        messages: Anything, such as a value read from JSON.

    Returns:
        The conversation, each message with its role and content only.

    Raises:
        MoguError: It is no list of `{"role": text, "content": text}`, is empty, or ends with another role
            than user or tool.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise MoguError(f"A conversation is a list of messages, not {type(messages).__name__}.")
    if not messages:
        raise MoguError("The conversation is empty. Give at least one message of role 'user'.")
    checked = [_check_message(message, number) for number, message in enumerate(messages, start=1)]
    if (role := checked[-1]["role"]) not in ("user", "tool"):
        raise MoguError(
            f"The conversation ends with role '{role}', but a reply follows a 'user' or 'tool' message. "
            "Add one, or give the beginning of the reply as the opener."
        )
    return checked


def batch_left_pad(rows: Sequence[Sequence[int]], pad_id: int) -> PaddedBatch:
    """Pads rows of token ids on the left, so that every prompt ends where its reply begins.

    Args:
        rows: Token ids of each row, of any lengths.
        pad_id: The id to fill with; any valid id does, since the mask hides it.

    Returns:
        Ids and mask, both (batch, longest row).
    """
    width = max(map(len, rows), default=0)
    input_ids = [[pad_id] * (width - len(row)) + list(row) for row in rows]
    attention_mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return PaddedBatch(
        torch.tensor(input_ids, dtype=torch.long).view(len(rows), width),
        torch.tensor(attention_mask, dtype=torch.long).view(len(rows), width),
    )


def folded(messages: Conversation) -> list[Message]:
    """The same texts in turns of user and assistant, for templates that take nothing else.

    Other roles are the user's; neighbours of a role are one turn, their texts a blank line apart.
    """
    turns: list[Message] = []
    for message in messages:
        role, text = "assistant" if message["role"] == "assistant" else "user", message["content"]
        if turns and turns[-1]["role"] == role:
            text = f"{turns.pop()['content']}\n\n{text}"
        turns.append(Message(role=role, content=text))
    return turns


def batches_of_like_lengths(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """The places of some prompts in batches, shortest prompts first, so that little is padded.

    Args:
        prompts: token ids.
        size: prompts of a batch at most.
    """
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _check_message(message: object, number: int) -> Message:
    if not isinstance(message, Mapping):
        raise MoguError(f"Message {number} is {type(message).__name__}, not an object with role and content.")
    for key in ("role", "content"):
        if key not in message:
            raise MoguError(f"Message {number} has no '{key}'; it has {_listed(message)}.")
    return Message(
        role=_check_text(message["role"], f"'role' of message {number}"),
        content=_check_text(message["content"], f"'content' of message {number}"),
    )


def _check_text(text: object, name: str) -> str:
    if not isinstance(text, str):
        raise MoguError(f"{name} is {type(text).__name__}, not a text.")
    if re.search("[\ud800-\udfff]", text):
        raise MoguError(f"{name} holds half a surrogate pair, which is no character. Save the text as UTF-8.")
    return text


def _listed(keys: Mapping[str, Any]) -> str:
    return ", ".join(map(str, keys)) or "no keys"


class _Part(NamedTuple):
    """A stretch of the rendered prompt, written by the template (role None) or in a message of that role."""

    text: str
    role: str | None


def _render(tokenizer: PreTrainedTokenizerBase, messages: Conversation) -> list[_Part]:
    """Renders the template and tells its text from the messages', by marks around each message's text.

    Searching for the texts would not do: one may be part of another or of the template, or be stripped.
    """
    contents = [message["content"] for message in messages]
    plain = _apply_template(tokenizer, messages, contents)
    used = set(plain).union(*contents)
    # Two private-use characters for each message, none of which occurs in what is rendered.
    free = (mark for mark in map(chr, range(0xF0000, 0x10FFFE)) if mark not in used)
    marks = "".join(islice(free, 2 * len(messages)))
    openings, closings = marks[::2], marks[1::2]
    # A template that strips a text does not strip a marked one: then marks go inside its outer white space.
    # Where the template looks at the text in yet another way, what it makes of the marked text stands.
    for mark in (_mark_outside, _mark_inside):
        marked = _apply_template(tokenizer, messages, list(map(mark, contents, openings, closings)))
        pieces = re.split(f"([{marks}])", marked)  # texts at even places, marks at odd ones
        if "".join(pieces[::2]) == plain:
            break
    opened = dict(zip(openings, messages, strict=True))
    closed = dict(zip(closings, messages, strict=True))
    neighbours = zip(["", *pieces[1::2]], pieces[::2], [*pieces[1::2], ""], strict=True)
    return [
        part for left, text, right in neighbours for part in _parts(text, opened.get(left), closed.get(right))
    ]


def _apply_template(tokenizer: PreTrainedTokenizerBase, messages: Conversation, contents: list[str]) -> str:
    turns = [
        {"role": message["role"], "content": content}
        for message, content in zip(messages, contents, strict=True)
    ]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise MoguError(
            f"The model's chat template does not accept the roles {roles}: {error}. Most templates take user "
            "and assistant in turns; a system message's text can go into the first user message."
        ) from error


def _mark_outside(text: str, opening: str, closing: str) -> str:
    return f"{opening}{text}{closing}"


def _mark_inside(text: str, opening: str, closing: str) -> str:
    core = text.strip()
    return text.replace(core, f"{opening}{core}{closing}", 1) if core else text


def _parts(text: str, opened: Message | None, closed: Message | None) -> Iterator[_Part]:
    """Parts of the text between two marks, of which the left may open a message and the right may close one.

    A template that cuts a text (up to "</think>", say) loses one of its marks; from the other one the text
    reaches as far as what is rendered equals it.
    """
    if opened is not None and opened is closed:
        yield _Part(text, opened["role"])
        return
    start = _shared_start(text, opened["content"]) if opened else 0
    stop = len(text) - (_shared_start(text[start:][::-1], closed["content"][::-1]) if closed else 0)
    if opened:
        yield _Part(text[:start], opened["role"])
    yield _Part(text[start:stop], None)
    if closed:
        yield _Part(text[stop:], closed["role"])


def _shared_start(first: str, second: str) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(first), len(second)))


@dataclass(frozen=True)
class _Encoder:
    """A copy of a tokenizer in which control tokens go by names that nobody can type."""

    backend: Tokenizer
    aliases: dict[str, str]
    control_ids: frozenset[int]

    def disguise(self, text: str) -> str:
        """Replaces the control tokens that the template wrote by their names in this tokenizer."""
        # Longest first, as a tokenizer matches them.
        pattern = "|".join(map(re.escape, sorted(self.aliases, key=len, reverse=True)))
        return re.sub(pattern, lambda found: self.aliases[found[0]], text) if pattern else text


# Building a copy takes up to a second for a large vocabulary. The version tells when a tokenizer was changed.
_encoders: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[tuple[str, int], _Encoder]] = WeakKeyDictionary()


def _encoder(tokenizer: PreTrainedTokenizerBase) -> _Encoder:
    if not tokenizer.is_fast:
        raise MoguError(
            f"{type(tokenizer).__name__} is no fast tokenizer. Use one that has a tokenizer.json."
        )
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise MoguError(
            "The tokenizer has no chat template. Put one into chat_template.jinja beside tokenizer.json."
        ) from error
    version = (template, len(tokenizer))
    cached = _encoders.get(tokenizer)
    if cached is None or cached[0] != version:
        cached = _encoders[tokenizer] = (version, _build_encoder(tokenizer, template))
    return cached[1]


def _build_encoder(tokenizer: PreTrainedTokenizerBase, template: str) -> _Encoder:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # The post-processor would add nothing here, but it may cut white space from the offsets.
    state |= {"truncation": None, "padding": None, "post_processor": None}
    model, added_tokens = state["model"], state["added_tokens"]
    secret = secrets.token_hex(8)
    aliases = {
        token["content"]: f"<|{secret}-{token['id']}|>"
        for token in added_tokens
        if token["special"] or _is_markup(token["content"], template)
    }
    for token in added_tokens:
        name = token["content"]
        token["content"] = aliases.get(name, name)
        _rename(model["vocab"], name, token["content"], token["id"])
    if "merges" in model:  # none may build a control token from letters
        model["merges"] = [
            [left, right]
            for left, right in model["merges"]
            if aliases.keys().isdisjoint((left, right, left + right))
        ]
    if model.get("unk_token") in aliases:
        model["unk_token"] = aliases[model["unk_token"]]
    ids = frozenset(token["id"] for token in added_tokens if token["content"] in aliases.values())
    return _Encoder(Tokenizer.from_str(json.dumps(state)), aliases, ids)


def _is_markup(token: str, template: str) -> bool:
    """Whether the template uses a token that is not flagged as special as one all the same (`<think>`)."""
    return token[:1] in ("<", "[") and token[-1:] in (">", "]") and token in template


def _rename(vocab: dict[str, int] | list[list[Any]], old: str, new: str, index: int) -> None:
    """Gives a token a new name at the same index, adding it where the vocabulary lacks it.

    Added tokens outside the vocabulary are numbered by its size, so each must be in it to keep its id.
    """
    if isinstance(vocab, dict):
        vocab.pop(old, None)
        vocab[new] = index
    elif index < len(vocab):
        vocab[index][0] = new
    else:
        vocab.append([new, 0.0])
