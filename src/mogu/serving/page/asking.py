"""Asks MoGU and its base the same prompt, one after the other, and draws how MoGU decided. Knows no page."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from threading import Lock

from mogu.chat import Message
from mogu.errors import MoguError
from mogu.generation import MoguModel
from mogu.generation.reply import Reply
from mogu.generation.request import Handoff
from mogu.generation.streaming import ReplyStream
from mogu.report.routing import gate_page, routing_page


@dataclass(frozen=True)
class Question:
    """What is asked, and how.

    Attributes:
        prompt: the user's text.
        system: a system message; blank for none.
        max_new_tokens: longest reply, from 1.
        threshold: of sequence routing, the probability, 0 to 1, from which on MoGU refuses; None for the adapter's own.
        routed_tokens: of token routing, how many reply tokens are routed; None for the adapter's own.
        handoff: of token routing, how the base takes over after them.
    """

    prompt: str
    system: str = ""
    max_new_tokens: int = 96
    threshold: float | None = None
    routed_tokens: int | None = None
    handoff: Handoff = "reuse"


@dataclass(frozen=True)
class Verdict:
    """What MoGU decided about a prompt.

    Attributes:
        outcome: in a few words.
        figures: the numbers behind it.
        refused: whether the safe variant wrote any of the reply; False of token routing, which decides nothing.
    """

    outcome: str
    figures: str
    refused: bool


@dataclass(frozen=True)
class Answers:
    """Both replies and their explanation, as far as they are there.

    Attributes:
        mogu: MoGU's reply.
        base: the base's.
        verdict: None while MoGU writes.
        gate: a page with the gate's probability over the words; None while MoGU writes, and without a gate.
        weights: a page with the variants' weights by layer and token; None while MoGU writes.
    """

    mogu: str = ""
    base: str = ""
    verdict: Verdict | None = None
    gate: str | None = None
    weights: str | None = None


class Asker:
    """Asks one model; whoever comes while another question is answered waits.

    Args:
        model: its layers share one routing, so that the two replies come one after the other.
    """

    def __init__(self, model: MoguModel) -> None:
        self._model = model
        self._turn = Lock()

    def ask(self, question: Question) -> Iterator[Answers]:
        """Answer a question; leaving the iteration early stops the reply that is being written.

        Yields:
            The answers so far, after each piece of text.

        Raises:
            MoguError: If the prompt is empty or something is asked for that the adapter does not do.
        """
        if not question.prompt.strip():
            raise MoguError("The prompt is empty. Write one, or take one of the examples.")
        talk = [Message(role="user", content=question.prompt)]
        if question.system.strip():
            talk.insert(0, Message(role="system", content=question.system))
        model, longest = self._model, question.max_new_tokens
        with self._turn:
            stream = model.stream(
                talk,
                max_new_tokens=longest,
                threshold=question.threshold,
                routed_tokens=question.routed_tokens,
                handoff=question.handoff,
            )
            answers = Answers()
            for answers in _growing(stream, lambda text: Answers(mogu=text)):
                yield answers
            reply = _written(stream)
            trace = model.trace(
                talk, reply.text, threshold=question.threshold, routed_tokens=question.routed_tokens
            )
            gate = None
            if trace.gate is not None:
                gate = gate_page(trace, answerer=model.config.answerer, title="What the gate reads")
            answers = replace(
                answers,
                verdict=self._verdict(reply, question.threshold),
                gate=gate,
                weights=routing_page(trace, title="How the variants are weighed"),
            )
            yield answers
            explained = answers
            yield from _growing(
                model.stream(talk, mode="base", max_new_tokens=longest),
                lambda text: replace(explained, base=text),
            )

    def _verdict(self, reply: Reply, threshold: float | None) -> Verdict:
        gate = self._model.config.gate
        if gate is None or reply.score is None:
            figures = f"mean weights: safe {reply.safe_weight:.2f}, usable {reply.usable_weight:.2f}"
            return Verdict("Routed token by token", figures, refused=False)
        limits = gate.thresholds(threshold)
        figures = f"highest probability {reply.score:.2f}, threshold {limits.prompt:.2f}"
        if limits.reply is not None:
            figures += f" ({limits.reply:.2f} within the reply)"
        if not reply.safe_weight:
            return Verdict(f"Answered by {self._model.config.answerer}", figures, refused=False)
        return Verdict("Refused" if reply.safe_weight == 1 else "Refused in mid-reply", figures, refused=True)


def _growing(stream: ReplyStream, show: Callable[[str], Answers]) -> Iterator[Answers]:
    """What is shown of a reply after each of its pieces, and of its text as a whole at the end."""
    text = ""
    for piece in stream:
        text += piece
        yield show(text)
    yield show(_written(stream).text)


def _written(stream: ReplyStream) -> Reply:
    assert stream.reply is not None  # the stream has been read to its end
    return stream.reply
