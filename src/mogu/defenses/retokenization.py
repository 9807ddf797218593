"""The user's text in other tokens than a model is used to: adversarial suffixes are tuned to the usual ones."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tokenizers.models import BPE
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mogu.chat import encode_chat
from mogu.defenses.base import Answer, Defense, Host, Talk
from mogu.defenses.speaker import Speaker
from mogu.errors import MoguError

DROPOUT = 0.2
"""How often a merge is left out."""

_SPACES = ("\u0120", "\u2581")
"""How byte-level and SentencePiece vocabularies write the space before a word."""


class Retokenization(Defense):
    """The base reads the last user's text through BPE-dropout; the template and earlier turns as always.

    The same talk and seed give the same tokens, in whatever batch.

    Raises:
        MoguError: If the tokenizer is no BPE tokenizer.
    """

    paper = "Jain et al. 2023, arXiv 2309.00614"

    def __init__(self, host: Host, argument: str = "") -> None:
        super().__init__(host, argument)
        self._merges = Merges.of(host.mogu.tokenizer)
        self._ids = host.mogu.tokenizer.get_vocab()
        self._base = Speaker.of(host.mogu)

    def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
        """What the base says to the texts in other tokens."""
        prompts = [self.encode(talk) for talk in talks]
        replies = self._base.write(prompts, max_new_tokens, self.host.batch_size)
        texts = [self._base.tokenizer.decode(ids, skip_special_tokens=True) for ids in replies]
        return [Answer(str(text), len(ids)) for text, ids in zip(texts, replies, strict=True)]

    def first_logits(self, talks: Sequence[Talk]) -> Tensor:
        """The base's, after the texts in other tokens."""
        return self._base.first_logits([self.encode(talk) for talk in talks], self.host.batch_size)

    def encode(self, talk: Talk) -> list[int]:
        """Token ids of a talk up to where the reply goes on, the last user's text in other tokens.

        Raises:
            MoguError: As `encode_chat`.
        """
        tokenizer = self._base.tokenizer
        chat = encode_chat(tokenizer, talk.messages, talk.opener)
        rng = random.Random(f"{self.host.seed}/{json.dumps(list(talk.messages))}")
        ids = chat.ids
        for span in [span for span in chat.spans if span.role == "user"][-1:]:  # none if a tool alone spoke
            tokens = tokenizer.convert_ids_to_tokens(ids[span.start : span.stop])
            others = [piece for word in _words(tokens) for piece in self._merges.drop(word, DROPOUT, rng)]
            ids = ids[: span.start] + [self._ids[piece] for piece in others] + ids[span.stop :]
        return ids


@dataclass(frozen=True)
class Merges:
    """What a BPE tokenizer joins.

    Attributes:
        ranks: of each pair of tokens that is joined, its place in the order of merges.
        halves: of each token that a merge makes, the pair that it is made of.
    """

    ranks: dict[tuple[str, str], int]
    halves: dict[str, tuple[str, str]]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "Merges":
        """The merges of a tokenizer, without those that would make a control token from letters.

        Raises:
            MoguError: If it is no BPE tokenizer.
        """
        backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        if backend is None or not isinstance(backend.model, BPE):
            kind = type(tokenizer if backend is None else backend.model).__name__
            raise MoguError(
                f"retokenization drops merges of BPE, but the base's tokenizer is a {kind}: leave it out"
            )
        vocabulary = tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys()
        merges = map(tuple, json.loads(backend.to_str())["model"]["merges"])
        ranks = {pair: rank for rank, pair in enumerate(merges) if "".join(pair) in vocabulary}
        return cls(ranks, {"".join(pair): pair for pair in ranks})

    def drop(self, word: Sequence[str], rate: float, rng: random.Random) -> list[str]:
        """BPE-dropout (Provilkov et al. 2020, arXiv 1910.13267, algorithm 1) of a word.

        Args:
            word: the tokens that it usually has.
            rate: how likely each merge is left out at each step, 0 (the usual tokens) to 1 (single characters).
            rng: decides.

        Returns:
            Tokens of the vocabulary that hold the same characters.
        """
        pieces = [piece for token in word for piece in self._smallest(token)]
        while merges := [
            (rank, place)
            for place, pair in enumerate(pairwise(pieces))
            if (rank := self.ranks.get(pair)) is not None and rng.random() >= rate
        ]:
            _, place = min(merges)
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
        return pieces

    def _smallest(self, token: str) -> list[str]:
        """What a token is merged from: characters, or itself if no merge makes it (a byte, an added token)."""
        if token not in self.halves:
            return [token]
        left, right = self.halves[token]
        return self._smallest(left) + self._smallest(right)


def _words(tokens: Sequence[str]) -> list[list[str]]:
    """Tokens by word: a word begins at each space, and between digits that the tokenizer keeps apart.

    Of a whole text hardly a merge would stay dropped, for each is tried again as long as others are made.
    """
    words: list[list[str]] = []
    before = ""
    for token in tokens:
        number_goes_on = before[-1:].isdigit() and token[0].isdigit()
        if not words or token.startswith(_SPACES) or number_goes_on:
            words.append([])
        words[-1].append(token)
        before = token
    return words
