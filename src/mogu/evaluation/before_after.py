"""The same prompts answered by the base and by MoGU, and what changed: the rows that reports are made of.

Every reply is written to a file as its batch is done, so that a measurement that was killed goes on from there.
It is judged when it is read: a file that outlives a change of the judge holds no verdict of the old one.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

from mogu.chat import Conversation, Message
from mogu.defenses.base import Talk, first_logits
from mogu.evaluation.first_tokens import divergence
from mogu.files import read_grown_jsonl
from mogu.generation import Mode, MoguModel
from mogu.judges.refusal import RefusalVerdict, judge_refusal
from mogu.share import Share


@dataclass(frozen=True)
class ReplyRow:
    """One reply.

    Attributes:
        group: kind of the prompt, such as ``malicious``.
        messages: the conversation that it replies to.
        mode: who replied.
        response: the reply's text.
        safe_weight: mean weight of the safe variant over the routed tokens, 0 to 1.
        score: the gate's probability, 0 to 1; None where no gate was asked.
    """

    group: str
    messages: list[Message]
    mode: Mode
    response: str
    safe_weight: float
    score: float | None = None

    @property
    def prompt(self) -> str:
        """The last turn that waits for a reply."""
        return Talk.of(self.messages).messages[-1]["content"]

    @cached_property
    def verdict(self) -> RefusalVerdict:
        """Whether it opens with a refusal (the paper's measure), and whether it still refuses at its end."""
        return judge_refusal(self.response)


def answer(
    model: MoguModel,
    groups: Mapping[str, Sequence[Conversation]],
    *,
    modes: Sequence[Mode] = ("base", "mogu"),
    max_new_tokens: int = 48,
    batch_size: int = 32,
    kept: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ReplyRow]:
    """Let each mode answer each prompt, greedily.

    Args:
        model: the hardened model.
        groups: conversations by kind; one that ends with an assistant's turn is a reply that has begun.
        modes: who answers.
        max_new_tokens: length of a reply at most.
        batch_size: prompts at a time, of like lengths.
        kept: a JSONL file that takes the rows; those in it are not generated again.
        progress: called after each batch with replies done and replies in all.

    Returns:
        The rows by mode, then in the order of the groups and their prompts.
    """
    there = _by_question(kept)
    wanted = _questions(groups, modes)
    missing = [question for question in wanted if _key(*question) not in there]
    done = len(wanted) - len(missing)
    kept.parent.mkdir(parents=True, exist_ok=True)
    for mode in modes:
        todo = sorted(
            (item for item in missing if item[0] == mode),
            key=lambda item: sum(len(m["content"]) for m in item[2]),
        )
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            talks, openers = zip(*(Talk.of(talk) for _, _, talk in batch), strict=True)
            replies = model.reply(
                talks,
                opener=openers,
                mode=mode,
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
            )
            with kept.open("a", encoding="utf-8") as file:
                for (_, group, talk), reply in zip(batch, replies, strict=True):
                    row = ReplyRow(group, list(talk), mode, reply.text, reply.safe_weight, reply.score)
                    file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
            done += len(batch)
            progress(done, len(wanted))
    return read_rows(kept, groups, modes)


def read_rows(
    kept: Path, groups: Mapping[str, Sequence[Conversation]], modes: Sequence[Mode] = ("base", "mogu")
) -> list[ReplyRow]:
    """Those rows of :func:`answer` that its file holds already, in its order.

    Args:
        kept: the file; no rows if it is not there.
        groups: conversations by kind.
        modes: who answers.
    """
    there = _by_question(kept)
    keys = [_key(*question) for question in _questions(groups, modes)]
    return [there[key] for key in keys if key in there]


_Question = tuple[Mode, str, Conversation]


def _questions(groups: Mapping[str, Sequence[Conversation]], modes: Sequence[Mode]) -> list[_Question]:
    return [(mode, group, talk) for mode in modes for group, talks in groups.items() for talk in talks]


def _key(mode: Mode, group: str, talk: Conversation) -> str:
    # All turns: two conversations may end with the same one.
    return json.dumps([mode, group, [(message["role"], message["content"]) for message in talk]])


def _by_question(kept: Path) -> dict[str, ReplyRow]:
    """The rows of a file; what is no such row counts as not there."""
    names = {field.name for field in fields(ReplyRow)}
    rows = [ReplyRow(**row) for row in read_grown_jsonl(kept) if row.keys() == names]
    return {_key(row.mode, row.group, row.messages): row for row in rows}


def refused_shares(rows: Sequence[ReplyRow]) -> dict[str, dict[str, Share]]:
    """By group and mode, the share of replies that still refuse at their end."""
    shares: dict[str, dict[str, Share]] = {}
    for group in dict.fromkeys(row.group for row in rows):
        for mode in dict.fromkeys(row.mode for row in rows):
            chosen = [row.verdict.holds for row in rows if row.group == group and row.mode == mode]
            shares.setdefault(group, {})[mode] = Share.of(sum(chosen), len(chosen))
    return shares


def first_token_divergence(
    model: MoguModel, talks: Sequence[Conversation], batch_size: int = 32
) -> list[float]:
    """KL(base || MoGU) of the distribution of the reply's first token, for each prompt, in nats."""
    asked = [Talk(talk) for talk in talks]
    modes: tuple[Mode, Mode] = ("base", "mogu")
    base, mogu = (first_logits(model, asked, mode, batch_size) for mode in modes)
    return divergence(base, mogu)
