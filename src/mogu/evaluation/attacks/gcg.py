"""GCG: a suffix that draws the model towards a glad beginning of its reply, found by its own gradient.

Written here and not taken from nanogcg 0.3, its authors' reference: that package asks for transformers below 4.48,
tokenises prompt, suffix and target apart instead of as a conversation is read, sets the process's random state, and
cannot pause to ask a defended model.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mogu.defenses.base import Talk
from mogu.evaluation.attacks.aim import Aimed, aimed, shared_start, target_losses, target_of, token_gradient
from mogu.evaluation.attacks.base import Attack, Effort
from mogu.evaluation.attacks.trial import Trial, Try, last_text, reworded
from mogu.evaluation.sets import Sample

FILLER = " !" * 20
"""What the suffix is at first, as in the paper."""

CANDIDATES = 64
"""Suffixes that are tried in a step, each with one token changed (paper: 512)."""

TOP = 64
"""Tokens that the gradient proposes for each place (paper: 256)."""

STEPS = 4
"""Steps between two looks at what the defended model says."""

ASKED = 4
"""Suffixes that it is asked with then, the best of the last step."""

Suffix = tuple[int, ...]


class Candidate(NamedTuple):
    """A suffix.

    Attributes:
        loss: of the target after it, in nats a token.
        suffix: its token ids.
    """

    loss: float
    suffix: Suffix


class GCG(Attack):
    """Greedy coordinate gradient against the model as the defense leaves it, with its weights known (algorithm 1).

    Weights that a defense has changed are attacked themselves (of SafeDecoding the expert's); what it writes into the
    prompt, or does while replies are generated, such as MoGU's routing, is not seen by the gradient. To adapt to that
    the search goes on, after each look, from the suffix with the lowest sum of loss and defense's score.
    """

    name = "gcg"
    paper = "GCG, Zou et al. 2023, arXiv 2307.15043"
    default_budget = 33

    def estimate(self, requests: Sequence[Sample]) -> Effort:
        """Replies, and the passes of gradients and candidates."""
        steps = STEPS * -(-(self.budget - 1) // ASKED)
        return super().estimate(requests)._replace(passes=len(requests) * steps * (CANDIDATES + 4))

    def attack(self, trial: Trial, rng: random.Random) -> Try:
        """Steps and looks in turn."""
        tokenizer = self.host.mogu.tokenizer
        slot = Slot.behind(tokenizer, trial.request.talk, target_of(trial.request, rng))
        suffix, best = slot.first, trial.best()
        while trial.left:
            for _ in range(STEPS):
                candidates = self.step(slot, suffix, rng)
                suffix = candidates[0].suffix
            tried = [each.talk for each in trial.tries]
            fresh = [each for each in candidates if slot.talk(each.suffix) not in tried][:ASKED]
            asked = trial.ask([slot.talk(each.suffix) for each in fresh])
            if trial.broken or not asked:
                break
            pairs = zip(fresh, asked, strict=False)  # the budget may have cut what was asked
            (_, suffix), best = min(pairs, key=lambda pair: pair[0].loss + pair[1].score)
        return trial.best() if trial.broken else best

    def step(self, slot: "Slot", suffix: Suffix, rng: random.Random) -> list[Candidate]:
        """One step: the suffix and its neighbours that stand as text, those of the lowest loss first."""
        model = self.host.mogu.model
        gradient = token_gradient(model, slot.row(suffix), slot.places)
        gradient[:, ~self._plain.to(gradient.device)] = torch.inf
        neighbours = swaps(suffix, gradient, min(TOP, int(self._plain.sum())), CANDIDATES, rng)
        standing = [suffix, *filter(slot.stands, neighbours)]
        losses = target_losses(model, [slot.row(each) for each in standing], self.host.batch_size)
        return sorted(map(Candidate, losses, standing))

    @cached_property
    def _plain(self) -> Tensor:
        """``(rows of the embedding,)`` bool, the tokens that are printable ASCII and no control tokens."""
        tokenizer = self.host.mogu.tokenizer
        barred = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        table: Any = self.host.mogu.model.get_input_embeddings()
        plain = torch.zeros(len(table.weight), dtype=torch.bool)
        for index, text in enumerate(tokenizer.batch_decode([[index] for index in range(len(tokenizer))])):
            plain[index] = index not in barred and bool(text) and text.isascii() and text.isprintable()
        return plain


def swaps(suffix: Suffix, gradient: Tensor, top: int, count: int, rng: random.Random) -> list[Suffix]:
    """Neighbours of a suffix, each with another token at one place.

    Args:
        suffix: token ids.
        gradient: ``(places, vocabulary)``, of the loss.
        top: from how many tokens of the lowest gradient one is drawn.
        count: how many are drawn; twins are dropped.
        rng: draws places and tokens.
    """
    best = (-gradient).topk(top, dim=1).indices.tolist()
    drawn = []
    for _ in range(count):
        place = rng.randrange(len(suffix))
        drawn.append((*suffix[:place], rng.choice(best[place]), *suffix[place + 1 :]))
    return [each for each in dict.fromkeys(drawn) if each != suffix]


@dataclass(frozen=True)
class Slot:
    """The place of a suffix in a conversation and its target.

    Attributes:
        tokenizer: the base's.
        asked: the request's talk.
        target: how the reply should begin.
        stem: the request's text, up to the suffix.
        filled: the conversation with the first suffix.
        places: where in its ids the suffix is.
    """

    tokenizer: PreTrainedTokenizerBase
    asked: Talk
    target: str
    stem: str
    filled: Aimed
    places: slice

    @classmethod
    def behind(cls, tokenizer: PreTrainedTokenizerBase, talk: Talk, target: str) -> "Slot":
        """The place behind a request.

        Raises:
            MoguError: As `encode_chat`.
        """
        text = last_text(talk) + FILLER
        plain = aimed(tokenizer, talk, target).ids
        filled = aimed(tokenizer, reworded(talk, text), target)
        start = shared_start(plain, filled.ids)
        stop = len(filled.ids) - shared_start(plain[start:][::-1], filled.ids[::-1])
        # Where the suffix's first letter shares a token with the request's last one, that one is the suffix's too.
        stem = text.removesuffix(_said(tokenizer, filled.ids[:start], filled.ids[start:stop]))
        return cls(tokenizer, talk, target, stem, filled, slice(start, stop))

    @property
    def first(self) -> Suffix:
        """The suffix to begin with."""
        return tuple(self.filled.ids[self.places])

    def row(self, suffix: Suffix) -> Aimed:
        """The conversation with another suffix of the same length."""
        ids, places = self.filled.ids, self.places
        return Aimed([*ids[: places.start], *suffix, *ids[places.stop :]], self.filled.start)

    def talk(self, suffix: Suffix) -> Talk:
        """The request with a suffix, as it is asked."""
        said = _said(self.tokenizer, self.filled.ids[: self.places.start], suffix)
        return reworded(self.asked, self.stem + said)

    def stands(self, suffix: Suffix) -> bool:
        """Whether the talk, tokenised as a whole, is these tokens again: else another suffix would be asked."""
        return aimed(self.tokenizer, self.talk(suffix), self.target) == self.row(suffix)


def _said(tokenizer: PreTrainedTokenizerBase, before: Sequence[int], suffix: Sequence[int]) -> str:
    """What a suffix says behind other tokens; alone, some tokenizers would drop its first space."""
    whole, start = (
        str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        for ids in ([*before, *suffix], [*before])
    )
    return whole.removeprefix(start)
