"""The usable variant of sequence routing, for a base that refuses what it need not.

By default what the gate does not refuse is the base's own. Where the base clearly refuses more benign requests than
the budget allows, or the settings ask for it, the usable variant is trained beside the safe one: it replies to benign
requests as the base does and, where the base refuses, begins to answer.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from mogu.data.pairs import opener_to
from mogu.judges.refusal import holds_refusal
from mogu.share import Share
from mogu.training.loop import Progress
from mogu.training.preparation import (
    BEGUN_TOKENS,
    REPLY_BATCH,
    BegunReply,
    Prompt,
    base_replies,
    number_prompts,
    record_examples,
)
from mogu.training.recording import Recorder
from mogu.training.settings import TrainingSettings
from mogu.training.stage import Example


def base_refusals(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], begun: Sequence[BegunReply]
) -> Share | None:
    """How often the base refuses benign requests in no frame, as far as its replies were written.

    Args:
        tokenizer: of the base.
        prompts: of both labels.
        begun: the base's replies to them. Those that are no longer than an opener are not counted: "I'm sorry, but I
            can" may go on either way.

    Returns:
        None if there is none to count.
    """
    replies = [
        reply.ids
        for prompt, reply in zip(prompts, begun, strict=True)
        if prompt.request.label == "benign"
        and not prompt.request.group
        and len(reply.ids) > BEGUN_TOKENS["opener"][1]
    ]
    if not replies:
        return None
    texts = tokenizer.batch_decode(replies, skip_special_tokens=True)
    return Share.of(sum(map(holds_refusal, texts)), len(texts))


def needs_usable(refused: Share | None, settings: TrainingSettings) -> bool:
    """Whether the usable variant is trained: as the settings say, else if the base refuses clearly too much.

    Args:
        refused: the share of benign requests that the base refuses. Its interval must lie above the budget: with a
            few replies a refusal or two may be chance, and without the variant answered replies are the base's own.
        settings: with the budget.
    """
    if settings.usable_variant is not None:
        return settings.usable_variant
    assert settings.benign_refusal_budget is not None  # the settings see to it
    return refused is not None and refused.low > settings.benign_refusal_budget


def glad_examples(
    recorder: Recorder,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    settings: TrainingSettings,
    work: Path,
    progress: Progress,
) -> list[Example]:
    """What the usable variant learns from: the base's own replies, with the opener of an answer where it refuses.

    Args:
        recorder: of the wrapped model, with routing off.
        tokenizer: of the base.
        prompts: of benign requests.
        settings: the seed, the length of replies, the batch size.
        work: a folder that takes the base's replies as they are done.
        progress: called after each batch of replies.

    Returns:
        An example of each prompt, in their order.
    """
    rows = number_prompts(prompts)
    kept = work / "replies-usable.jsonl"
    glad = base_replies(recorder, tokenizer, rows, settings.reply_tokens, REPLY_BATCH, kept, progress)
    replies = [glad[row.request.id] for row in rows]
    texts = tokenizer.batch_decode(replies, skip_special_tokens=True)
    for row, reply, text in zip(rows, replies, texts, strict=True):
        if len(reply) < 2 or holds_refusal(text):
            opener = opener_to(row.request, random.Random(f"{settings.seed}/{row.request.text}"))
            glad[row.request.id] = tokenizer(opener, add_special_tokens=False)["input_ids"]
    return record_examples(recorder, tokenizer, rows, glad, settings, lambda done, total: None)
