"""The fields of a request -> the token ids of its prompts and how long its replies may be.

Whatever a caller writes is text, in which no control token can be typed. Knows the tokenizer, and of the model only
how much it takes.
"""

from dataclasses import dataclass
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from mogu.chat import Message, control_ids, encode_chat, encode_text
from mogu.errors import MoguError
from mogu.serving.engine.job import Sampling
from mogu.serving.http.faults import Fault
from mogu.serving.http.fields import ChatRequest, CompletionRequest
from mogu.serving.http.limits import Limits


@dataclass(frozen=True)
class Job:
    """One reply that is asked for: the ids of its prompt and how it is written."""

    prompt: list[int]
    sampling: Sampling


class Encoder:
    """Makes jobs of requests.

    Args:
        tokenizer: the model's.
        longest: tokens of prompt and reply together that the model takes.
        limits: what a request may have.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, longest: int, limits: Limits) -> None:
        self._tokenizer = tokenizer
        self._longest = longest
        self._longest_prompt = min(limits.prompt or longest, longest - 1)
        self._control = control_ids(tokenizer)  # takes up to a second the first time
        # What the tokenizer itself puts before a text, such as <s>.
        around, some = encode_text(tokenizer, ""), encode_text(tokenizer, "a")
        self._before = [
            one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(around, some, strict=False))
        ]
        self._limits = limits

    def jobs(self, request: ChatRequest | CompletionRequest) -> list[Job]:
        """All replies of a request: those to its first prompt, those to the second one, and so on.

        Raises:
            Fault: 400; too long a prompt, too long or too many replies, or a token that is not allowed.
        """
        choices, field = request.n or 1, "prompt" if isinstance(request, CompletionRequest) else "messages"
        total = choices * (len(request.prompt) if isinstance(request, CompletionRequest) else 1)
        if total > self._limits.replies:
            raise _fault(
                "n",
                f"{total} replies are asked for, but this server writes at most {self._limits.replies} for a request.",
            )
        for token in request.logit_bias or {}:
            self._check_token(int(token), "logit_bias")
        try:
            prompts = self._raw(request) if isinstance(request, CompletionRequest) else [self._chat(request)]
        except MoguError as error:
            raise _fault(field, str(error)) from error
        jobs: list[Job] = []
        for prompt in prompts:
            self._check_length(len(prompt), field)
            longest = self._longest_reply(len(prompt), request)
            jobs += [Job(prompt, request.sampling(longest, len(jobs) + each)) for each in range(choices)]
        return jobs

    def _chat(self, request: ChatRequest) -> list[int]:
        """The conversation; an assistant's message at its end is the beginning of the reply."""
        turns = [
            Message(role="system" if turn.role == "developer" else turn.role, content=turn.text)
            for turn in request.messages
        ]
        opener = turns.pop()["content"] if turns[-1]["role"] == "assistant" else ""
        return encode_chat(self._tokenizer, turns, opener).ids

    def _raw(self, request: CompletionRequest) -> list[list[int]]:
        prompts = [
            encode_text(self._tokenizer, prompt) if isinstance(prompt, str) else prompt
            for prompt in request.prompt
        ]
        for given, ids in zip(request.prompt, prompts, strict=True):
            if not ids or ids == self._before:
                raise MoguError("The prompt is empty. Write at least one character.")
            if isinstance(given, list):
                self._check_token(max(ids), "prompt")
                begun = len(self._before) * (ids[: len(self._before)] == self._before)
                if written := self._control.intersection(ids[begun:]):
                    raise MoguError(
                        f"Token {min(written)} is a control token, which only a chat template writes. Send the "
                        "conversation to /v1/chat/completions."
                    )
        return prompts

    def _check_token(self, token: int, field: str) -> None:
        if token >= len(self._tokenizer):
            raise _fault(
                field, f"There is no token {token}; this model's are 0 to {len(self._tokenizer) - 1}."
            )

    def _check_length(self, length: int, field: str) -> None:
        if length > self._longest_prompt:
            raise _fault(
                field,
                f"The prompt has {length} tokens, but this server takes at most {self._longest_prompt} tokens.",
                "context_length_exceeded",
            )

    def _longest_reply(self, prompt: int, request: ChatRequest | CompletionRequest) -> int:
        """How many tokens the reply to a prompt of so many may have."""
        room, limit, asked = self._longest - prompt, self._limits.reply, request.longest
        if asked is None:
            return min(each for each in (room, limit, request.usual_longest) if each is not None)
        if limit is not None and asked > limit:
            raise _fault(
                "max_tokens",
                f"A reply of {asked} tokens is asked for, but this server writes at most {limit}.",
            )
        if asked > room:
            raise _fault(
                "max_tokens",
                f"A prompt of {prompt} tokens and a reply of {asked} are {prompt + asked} together, but this model "
                f"takes {self._longest}.",
                "context_length_exceeded",
            )
        return asked


def _fault(field: str, message: str, code: str = "invalid_value") -> Fault:
    return Fault(400, f"{field}: {message}", param=field, code=code)
