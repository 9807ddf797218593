"""A reply while it is written: its tokens, its text, and why it ends. Knows no model and no batch."""

from collections.abc import Callable, Collection

from transformers import PreTrainedTokenizerBase

from mogu.serving.engine.job import Finish, Piece, Sampling, TokenLogprob, Verdict
from mogu.serving.engine.sampling import Chances, Chooser
from mogu.serving.engine.text import ReplyText, TokenBytes

UNJUDGED = Verdict(score=None, threshold=None, reply_threshold=None, refused=False, refused_from=None)
"""Of a prompt that nobody has read yet."""


class Vocabulary:
    """What ends a reply, and what its tokens are in text.

    Args:
        tokenizer: the model's.
        ends: ids that end a reply; None is none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Collection[int | None]) -> None:
        self.tokenizer = tokenizer
        self.ends = frozenset(ends)
        self._bytes = TokenBytes(tokenizer)

    def logprob(self, token: int, chances: Chances) -> TokenLogprob:
        """How likely a token was, in text and bytes."""
        top = tuple((*self._spelled(each), value) for each, value in chances.top)
        return TokenLogprob(*self._spelled(token), chances.logprob, top)

    def _spelled(self, token: int) -> tuple[str, bytes]:
        spelled = self._bytes.of(token)
        return spelled.decode(errors="replace"), spelled


class Row:
    """One job's reply.

    Args:
        prompt: token ids.
        sampling: how it is written.
        heard: is given its pieces.
        vocabulary: of the model.
        longest: most tokens of the reply that fit the model.

    Attributes:
        prompt: token ids.
        chooser: its settings and its randomness.
        tokens: how many it has written, an end token included.
        verdict: as known now.
        finish: why it has ended; None while it is written.
        error: of a finish "error", what went wrong.
        cancelled: set by the caller, from any thread.
    """

    def __init__(
        self,
        prompt: list[int],
        sampling: Sampling,
        heard: Callable[[Piece], None],
        vocabulary: Vocabulary,
        longest: int,
    ) -> None:
        self.prompt = prompt
        self.chooser = Chooser(sampling)
        self.heard = heard
        self.tokens = 0
        self.verdict = UNJUDGED
        self.finish: Finish | None = None
        self.error: str | None = None
        self.cancelled = False
        self._vocabulary = vocabulary
        self._longest = min(sampling.max_tokens, longest)
        self._text = ReplyText(vocabulary.tokenizer, sampling.stop)

    def add(self, token: int, chances: Chances | None) -> None:
        """Take the next token; the row may end with it."""
        self.tokens += 1
        if token in self._vocabulary.ends:
            self.end("stop")
            return
        self._text.add(token, None if chances is None else self._vocabulary.logprob(token, chances))
        if self._text.stopped:
            self.end("stop")
        elif self.tokens >= self._longest:
            self.end("length")

    def end(self, finish: Finish) -> None:
        """End the row; what it has written is settled."""
        self._text.end()
        # The last character may complete a stop string.
        self.finish = "stop" if self._text.stopped and finish == "length" else finish

    def fail(self, error: str) -> None:
        """End the row by an error; its text is left alone, for that may be what went wrong."""
        self.finish, self.error = "error", error

    def piece(self) -> Piece | None:
        """What is new since the last piece; None if nothing is."""
        text, logprobs = self._text.take()
        if not text and not logprobs and self.finish is None:
            return None
        return Piece(text, self.tokens, logprobs, self.verdict, self.finish, self.error)
