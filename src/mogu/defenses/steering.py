"""Conditional steering: what the gate flags is answered with a refusal direction in the residual stream."""

import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mogu.chat import encode_chat
from mogu.data.pairs import opener_to, refusal_to
from mogu.defenses.base import Answer, Defense, Host, Progress, Talk
from mogu.defenses.decision import decide
from mogu.defenses.examples import english_requests
from mogu.defenses.gate_refusal import gate_of, gate_scores
from mogu.files import write_atomic
from mogu.judges.refusal import holds_refusal
from mogu.models import decoder_layers
from mogu.training.loop import batches_of
from mogu.training.recording import Recorder

BAND = (1 / 6, 5 / 6)
"""Where the directions are added: from and to this share of the layers."""

REQUESTS = 96
"""Malicious training requests from which the directions are."""

READ_TOKENS = 5
"""Reply tokens, from the first, in which a refusal and a compliance are told apart."""

STRENGTHS = (0.04, 0.06, 0.08, 0.1, 0.13, 0.17)
"""Strengths to choose from, in ascending order; what every layer of the band adds sums up."""

TRIED_REQUESTS = 24
"""Malicious validation requests on which the strength is chosen."""

TRIED_TOKENS = 32
"""Length at most of the replies to them."""


class RefusalSteering(Defense):
    """Directions are added to the hidden states of flagged talks, in prompt and reply; the base answers the rest.

    The direction of a layer is a difference of means: of the hidden states at the beginning of refusals, less those at
    the beginning of compliant openers, both after the same malicious requests, so that what they ask for cancels out.
    (The difference between malicious and benign prompts steers a small base into darker answers, not into refusals.)
    Each layer of a band gets its own. The gate of the adapter under test is the condition.
    """

    paper = "CAST, Lee et al. 2024, arXiv 2409.05907; directions as Arditi et al. 2024, arXiv 2406.11717"
    trained = True

    def __init__(self, host: Host, argument: str = "") -> None:
        super().__init__(host, argument)
        self._gate = gate_of(host)
        self._file = host.work / f"steering-{host.seed}.safetensors"
        self._added = torch.empty(0)
        self._layers = decoder_layers(host.mogu.model)
        first, after = (round(share * len(self._layers)) for share in BAND)
        self._band = range(first, after)

    def prepare(self, progress: Progress) -> None:
        """Find the directions and their strength, unless they are kept."""
        if not self._file.exists():
            directions = self._find_directions()
            strength = self._choose_strength(directions, progress)
            write_atomic(self._file, save({"added": directions * strength}))
        self._added = load_file(self._file)["added"]

    def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
        """Steered replies to flagged talks; scores are the gate's probabilities."""
        scores = gate_scores(self.host, talks)
        return decide(self.host, talks, scores, self._gate.threshold, max_new_tokens, self._steered_replies)

    def first_logits(self, talks: Sequence[Talk]) -> Tensor:
        """The base's, steered after flagged talks."""
        logits = self.host.first_logits(talks)
        scores = gate_scores(self.host, talks)
        flagged = [row for row, score in enumerate(scores) if score >= self._gate.threshold]
        if flagged:
            with self._steered(self._added):
                logits[flagged] = self.host.first_logits([talks[row] for row in flagged])
        return logits

    def _steered(self, added: Tensor) -> AbstractContextManager[None]:
        return steered([self._layers[index] for index in self._band], added)

    def _steered_replies(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
        with self._steered(self._added):
            return self.host.base_replies(talks, max_new_tokens)

    def _find_directions(self) -> Tensor:
        """``(band, features)`` float32, the difference of means of each layer of the band."""
        rng = random.Random(self.host.seed)
        requests = english_requests("malicious", "train", REQUESTS, self.host.seed)
        refusing, complying = (
            self._mean_state([(request.messages, begin(request, rng)) for request in requests])
            for begin in (refusal_to, opener_to)
        )
        return refusing - complying

    def _mean_state(self, begun: list[tuple[Any, str]]) -> Tensor:
        """``(band, features)``, the mean over the first reply tokens of some conversations with replies."""
        chats = [encode_chat(self.host.mogu.tokenizer, messages, reply) for messages, reply in begun]
        recorder = Recorder(self.host.mogu.model, 0)
        means = []
        for batch in batches_of(sorted(chats, key=lambda chat: chat.reply_start), self.host.batch_size):
            rows = [chat.ids[: chat.reply_start + READ_TOKENS] for chat in batch]
            states = recorder.hidden(rows, [chat.reply_start for chat in batch], self._band)
            means += [state.float().mean(1).cpu() for state in states]
        return torch.stack(means).mean(0)

    def _choose_strength(self, directions: Tensor, progress: Progress) -> float:
        """The strength at which the most replies to malicious requests refuse, the smallest of equals.

        CAST searches for the best one, too. Gibberish is no refusal, so where steering only breaks the base it is kept
        weak.
        """
        requests = english_requests("malicious", "validation", TRIED_REQUESTS, self.host.seed)
        talks = [Talk(request.messages) for request in requests]
        best, most = STRENGTHS[0], 0
        for tried, strength in enumerate(STRENGTHS, start=1):
            with self._steered(directions * strength):
                replies = self.host.base_replies(talks, TRIED_TOKENS)
            refused = sum(holds_refusal(reply.text) for reply in replies)
            progress(tried, len(STRENGTHS))
            if refused > most:
                best, most = strength, refused
        return best


@contextmanager
def steered(layers: Sequence[nn.Module], added: Tensor) -> Iterator[None]:
    """Within it, something is added to what decoder layers give, at every token.

    Args:
        layers: the decoder layers.
        added: ``(layers, features)``.
    """

    def adds(vector: Tensor) -> Any:
        def add(_: nn.Module, __: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return output[0] + vector.to(output[0]), *output[1:]
            return output + vector.to(output)

        return add

    hooks = [layer.register_forward_hook(adds(vector)) for layer, vector in zip(layers, added, strict=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
