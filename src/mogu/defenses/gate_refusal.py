"""This project's gate alone: what does the safe variant add to it?"""

from collections.abc import Sequence

from mogu.adapter.config import GateConfig
from mogu.defenses.base import Answer, Defense, Host, Talk
from mogu.defenses.decision import decide
from mogu.errors import MoguError


class GateRefusal(Defense):
    """A fixed refusal where the gate of the adapter under test reaches its threshold; the base answers the rest.

    The gate reads prompts here, not replies.
    """

    paper = "an ablation of this project: its gate without the safe variant"

    def __init__(self, host: Host, argument: str = "") -> None:
        super().__init__(host, argument)
        self._gate = gate_of(host)

    def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
        """The fixed refusal or the base's reply; scores are the gate's probabilities."""
        scores = gate_scores(self.host, talks)
        return decide(self.host, talks, scores, self._gate.threshold, max_new_tokens)


def gate_of(host: Host) -> GateConfig:
    """The gate of the adapter under test.

    Raises:
        MoguError: if it has none.
    """
    gate = host.mogu.config.gate
    if gate is None:
        raise MoguError("the adapter has no gate: give one of sequence routing, as `mogu train` makes it")
    return gate


def gate_scores(host: Host, talks: Sequence[Talk]) -> list[float]:
    """The gate's probability at the end of each prompt, 0 to 1; the host has a gate."""
    # One token: no more than the prompts is read.
    replies = host.mogu.reply(
        [talk.messages for talk in talks],
        opener=[talk.opener for talk in talks],
        max_new_tokens=1,
        batch_size=host.batch_size,
    )
    return [float(reply.score) for reply in replies]  # type: ignore[arg-type]  # there is a gate, so there is one
