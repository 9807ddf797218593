"""A LoRA trained on examples, as an ordinary PEFT folder, and the base with it: what fine-tuned defenses share.

It sits in every linear module of the decoder's layers, found by structure, while the adapter under test is out of the
model. When it leaves, the base is bit for bit what it was.
"""

import math
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from mogu.chat import encode_chat
from mogu.defenses.bare import bare_base
from mogu.defenses.base import Host, Progress
from mogu.defenses.examples import Example
from mogu.errors import TrainingDivergedError
from mogu.models import decoder_layers
from mogu.training.loop import batches_of
from mogu.training.recording import pad

if TYPE_CHECKING:
    from peft import PeftModel

RANK = 16
ALPHA = 32
EPOCHS = 1
BATCH = 8

AT_ONCE = 2
"""Examples of a batch that are read at once: activations, which are most of the memory, are of so many."""

RATE_TIMES_WIDTH = 0.576
"""Learning rate times the width of the model: 1e-3 at the width 576. An update of Adam moves a layer's output in
proportion to rate and width, so wider models learn at a smaller rate."""

IGNORED = -100
"""The label of a token that is not learnt."""


def train_lora(host: Host, folder: Path, examples: Sequence[Example], progress: Progress) -> None:
    """Train a LoRA with cross-entropy on reply tokens only, and save it; the base stays as it was.

    Args:
        host: the base; its seed is that of initial values and of the order.
        folder: the PEFT folder to write, whole or not at all; not there yet.
        examples: what to learn.
        progress: called after each step.

    Raises:
        TrainingDivergedError: if the loss is not a number.
    """
    from peft import LoraConfig, get_peft_model  # seconds to import

    # Batches of like prompts. By whole lengths each would be of one kind, for refusals are shorter than replies.
    encoded = (_encode(host.mogu.tokenizer, each) for each in examples)
    rows = sorted((row for row in encoded if row.learnt), key=lambda row: row.start)
    rng = random.Random(host.seed)
    batches = batches_of(rows, BATCH)
    order = [batch for _ in range(EPOCHS) for batch in rng.sample(batches, len(batches))]
    with bare_base(host.mogu.adapter) as model, torch.random.fork_rng(devices=[]):
        torch.manual_seed(host.seed)
        linears = linear_modules(model)
        config = LoraConfig(
            r=RANK,
            lora_alpha=ALPHA,
            target_modules=list(linears),
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in linears.values()),
            task_type="CAUSAL_LM",
        )
        lora = get_peft_model(model, config)
        try:
            _descend(model, order, progress)
            # A name of its own until it is whole.
            new = folder.with_name(f".{folder.name}.new")
            shutil.rmtree(new, ignore_errors=True)
            lora.save_pretrained(str(new), save_embedding_layers=False)
            new.rename(folder)
        finally:
            lora.unload()


@contextmanager
def with_lora(host: Host, folder: Path) -> Iterator["PeftModel"]:
    """Within it the base has the LoRA of a folder, and all that the base says is said with it."""
    from peft import PeftModel  # seconds to import

    with bare_base(host.mogu.adapter) as model:
        lora = PeftModel.from_pretrained(model, str(folder))
        try:
            yield lora
        finally:
            lora.unload()


def linear_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The linear modules of the decoder's layers, by their names in the model."""
    inside = {id(module) for module in decoder_layers(model).modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if id(module) in inside and isinstance(module, nn.Linear | Conv1D)
    }


class _Row(NamedTuple):
    ids: list[int]  # prompt and reply
    start: int  # of the reply

    @property
    def learnt(self) -> int:
        """How many of its tokens are learnt."""
        return len(self.ids) - self.start


def _encode(tokenizer: PreTrainedTokenizerBase, example: Example) -> _Row:
    chat = encode_chat(tokenizer, example.messages, example.reply)
    return _Row(chat.ids + [tokenizer.eos_token_id] * example.ended, chat.reply_start)


def _descend(model: PreTrainedModel, order: Sequence[Sequence[_Row]], progress: Progress) -> None:
    """One step of AdamW for each batch, at a rate that falls linearly to 0, on what needs a gradient."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate = RATE_TIMES_WIDTH / model.config.get_text_config(decoder=True).hidden_size
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    schedule = LambdaLR(optimizer, lambda step: 1 - step / len(order))
    for step, rows in enumerate(order, start=1):
        loss = _gradients_of(model, rows)
        if not math.isfinite(loss):
            raise TrainingDivergedError(f"fine-tuning diverged: the loss is {loss} at step {step}")
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress(step, len(order))


def _gradients_of(model: PreTrainedModel, batch: Sequence[_Row]) -> float:
    """Add the gradients of a batch's `reply_loss`, a few examples at a time; its value."""
    total = sum(row.learnt for row in batch)
    value = 0.0
    # Of like lengths, for little padding.
    for rows in batches_of(sorted(batch, key=lambda row: len(row.ids)), AT_ONCE):
        loss = reply_loss(model, rows) * (sum(row.learnt for row in rows) / total)
        loss.backward()  # type: ignore[no-untyped-call]
        value += loss.item()
    return value


def reply_loss(model: PreTrainedModel, rows: Sequence[_Row]) -> Tensor:
    """Cross-entropy in nats, the mean over the reply tokens of a batch."""
    ids, mask = pad([row.ids for row in rows], left=False)
    labels = ids.masked_fill(mask == 0, IGNORED)
    for label, row in zip(labels, rows, strict=True):
        label[: row.start] = IGNORED
    first = min(row.start for row in rows)
    device = model.device
    # A column's logits are of the next column. Those of columns before all replies are not computed.
    logits = model(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        use_cache=False,
        logits_to_keep=ids.shape[1] - first + 1,
    ).logits
    next_labels = F.pad(labels[:, first:], (0, 1), value=IGNORED)
    return F.cross_entropy(
        logits.float().flatten(0, 1), next_labels.flatten().to(device), ignore_index=IGNORED
    )
