"""The text of a reply, token by token: what is settled, and where a stop string ends it.

Knows a tokenizer, nothing of models. A token may be part of a character, and decoders may write a token differently
behind another one. So new tokens are decoded together with the last ones whose text is settled, and what is longer than
these alone is new: as much work for the thousandth token as for the first.
"""

import re
from collections import deque
from collections.abc import Collection
from functools import cached_property
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mogu.serving.engine.job import TokenLogprob

HALF = "\ufffd"
"""What a decoder writes for bytes that are no character, or not yet one."""

LONGEST_CHARACTER = 16
"""Tokens without a whole character after which their text is settled as it is: they will never be one."""


class _Told(NamedTuple):
    logprob: TokenLogprob
    start: int  # in characters of the settled text
    stop: int


class ReplyText:
    """Takes tokens and gives out text.

    Args:
        tokenizer: decodes the tokens; special ones are never in the text.
        stop: strings that end the reply and are not in it.

    Attributes:
        stopped: whether a stop string has come.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Collection[str] = ()) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = stop
        self._settled: list[int] = []  # the last tokens whose text is settled
        self._open: list[int] = []  # those after them
        self._length = 0  # characters of all settled text
        self._held = ""  # the end of it that may become a stop string
        self._free = ""  # what has not been taken of the rest
        self._open_logprobs: list[TokenLogprob] = []
        self._logprobs: deque[_Told] = deque()

    def add(self, token: int, logprob: TokenLogprob | None = None) -> None:
        """Take the next token, and how likely it was if that is asked for."""
        self._open.append(token)
        if logprob is not None:
            self._open_logprobs.append(logprob)
        text = self._opened()
        if (text and not text.endswith(HALF)) or len(self._open) == LONGEST_CHARACTER:
            self._settle(text)

    def end(self) -> None:
        """Settle everything: no token follows."""
        self._settle(self._opened())
        self._free += self._held
        self._held = ""

    def take(self) -> tuple[str, tuple[TokenLogprob, ...]]:
        """The text since the last time, and the chances of the tokens that it completes."""
        text, self._free = self._free, ""
        given_out = self._length - len(self._held)
        logprobs = []
        # A token that a stop string cuts is complete with what is left of it; one behind it is not in the reply.
        while self._logprobs and self._logprobs[0].stop <= given_out:
            logprobs.append(self._logprobs.popleft().logprob)
        while self.stopped and self._logprobs and self._logprobs[0].start < given_out:
            logprobs.append(self._logprobs.popleft().logprob)
        return text, tuple(logprobs)

    def _opened(self) -> str:
        """The text of the open tokens."""
        before = self._decode(self._settled) if self._settled else ""
        return self._decode(self._settled + self._open)[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _settle(self, text: str) -> None:
        if self.stopped:
            return
        start, self._length = self._length, self._length + len(text)
        self._logprobs.extend(_Told(each, start, self._length) for each in self._open_logprobs)
        if text:  # special tokens alone are no context
            self._settled = self._open
        self._open, self._open_logprobs = [], []
        self._held += text
        if found := [place for stop in self._stop if (place := self._held.find(stop)) >= 0]:
            self.stopped = True
            self._length -= len(self._held) - min(found)
            self._free += self._held[: min(found)]
            self._held = ""
            return
        held = max((_beginning(self._held, stop) for stop in self._stop), default=0)
        free = len(self._held) - held
        self._free += self._held[:free]
        self._held = self._held[free:]


def _beginning(text: str, stop: str) -> int:
    """How many last characters of a text a stop string begins with."""
    most = min(len(text), len(stop) - 1)
    return next((length for length in range(most, 0, -1) if text.endswith(stop[:length])), 0)


class TokenBytes:
    """What each token of a vocabulary stands for, in UTF-8; half characters too.

    Args:
        tokenizer: a fast one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def of(self, token: int) -> bytes:
        """The bytes of a token, none for an id that the tokenizer does not know."""
        name = self._tokenizer.convert_ids_to_tokens(token)
        if not isinstance(name, str):
            return b""
        if token in self._added:
            return name.encode()
        if self._letters.keys() >= set(name):
            return bytes(self._letters[letter] for letter in name)
        if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", name):
            return bytes.fromhex(byte[1])
        return name.replace("▁", " ").encode()

    @cached_property
    def _added(self) -> Collection[int]:
        return self._tokenizer.added_tokens_decoder.keys()

    @cached_property
    def _letters(self) -> dict[str, int]:
        """Of a byte-level vocabulary, which spells each byte as a letter, the byte of each; else empty."""
        decoder = self._tokenizer.backend_tokenizer.decoder
        if decoder is None or b"ByteLevel" not in decoder.__getstate__():
            return {}
        return {letter: byte for byte, letter in bytes_to_unicode().items()}
