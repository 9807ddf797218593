"""The hardened model: one base in memory, its adapter, and their replies to conversations.

Knows text and batches. How tokens are generated is the generator's matter.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)
from transformers.utils import ModelOutput

from mogu.adapter.attach import Adapter
from mogu.adapter.config import AdapterConfig
from mogu.adapter.folder import load_adapter, read_config
from mogu.adapter.layer import SAFE, USABLE
from mogu.chat import Conversation, batch_left_pad, batches_of_like_lengths, encode_chat
from mogu.errors import MoguError
from mogu.generation.generator import RoutedGenerator
from mogu.generation.reply import Reply, RoutingTrace, end_and_pad_ids, written_length
from mogu.generation.request import Handoff, Mode, RoutingRequest
from mogu.generation.streaming import ReplyStream
from mogu.models import load_model


class MoguModel:
    """A language model and its adapter.

    Attributes:
        model: the base model, with its projections wrapped.
        tokenizer: pads on the left and has a chat template.
        adapter: what is attached to the model.
        config: says how many tokens are routed.
        generator: routes the model's forwards; whoever calls it knows ids alone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        adapter: Adapter,
        config: AdapterConfig,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.adapter = adapter
        self.config = config
        self.generator = RoutedGenerator(adapter, config)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        base: str | Path | None = None,
        dtype: str = "auto",
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> "MoguModel":
        """Load an adapter and the model that it was trained on.

        Args:
            folder: the adapter's, as `mogu train` wrote it.
            base: where the base model is (hub id, folder or GGUF file); by default where it was in training.
            dtype: as `load_model` takes it.
            device: as `load_model` takes it.
            trust_remote_code: whether code in the base model's repository may run.

        Raises:
            MoguError: If either cannot be loaded, or they do not belong together.
        """
        config = read_config(Path(folder))
        loaded = load_model(
            config.base.name if base is None else base,
            revision=config.base.revision if base is None else None,
            dtype=dtype,
            device=device,
            chat_template=config.chat_template,
            trust_remote_code=trust_remote_code,
        )
        adapter, config = load_adapter(Path(folder), loaded.model, loaded.identity, parts=config.parts)
        return cls(loaded.model, loaded.tokenizer, adapter, config)

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        mode: Mode = "mogu",
        routed_tokens: int | None = None,
        handoff: Handoff = "reuse",
        threshold: float | None = None,
        **kwargs: Any,
    ) -> Tensor | ModelOutput:
        """Generate as the model's own `generate` does, with every row routed.

        Args:
            input_ids: ``(rows, columns)``, the prompts, padded on the left.
            attention_mask: the same shape, 0 on padding; None when nothing is padding.
            mode: who answers; `usable` and `safe` stay that variant to the end of the reply.
            routed_tokens: m, how many reply tokens of each row are sampled from routed logits; the adapter's
                own number by default. Mode `mogu` alone reads it.
            handoff: how the base takes over after them: `reuse` goes on from the KV cache as it is, `refill`
                reads the prompt and the routed tokens again from scratch. Mode `mogu` alone reads it.
            threshold: of sequence routing, the probability (0 to 1) from which on a reply is a refusal; the adapter's
                own by default.
            **kwargs: go on to the model's `generate`.

        Returns:
            What that returns: prompts and replies ``(sequences, columns)``, or an output object.

        Raises:
            MoguError: If something is asked for that is not supported, or another generation is running.
        """
        request = RoutingRequest(mode, routed_tokens, handoff, threshold)
        output: Tensor | ModelOutput = self.generator.generate(
            input_ids, attention_mask, request, kwargs
        ).output
        return output

    def reply(
        self,
        conversations: Sequence[Conversation],
        *,
        mode: Mode = "mogu",
        routed_tokens: int | None = None,
        handoff: Handoff = "reuse",
        threshold: float | None = None,
        max_new_tokens: int = 256,
        batch_size: int = 16,
        opener: str | Sequence[str] = "",
        on_batch: Callable[[int], None] | None = None,
        **generate_kwargs: Any,
    ) -> list[Reply]:
        """Answer conversations, greedily unless `generate_kwargs` say otherwise.

        Args:
            conversations: each waits for a reply.
            mode: as `generate` takes it.
            routed_tokens: as `generate` takes it.
            handoff: as `generate` takes it.
            threshold: as `generate` takes it.
            max_new_tokens: longest reply.
            batch_size: how many are answered at once; they are batched by length.
            opener: beginning of every reply, or one for each, written by the caller; belongs to the prompt, not to
                the reply.
            on_batch: called after each batch with the number of its conversations.
            **generate_kwargs: go on to `generate`.

        Returns:
            One reply per conversation, in their order.

        Raises:
            MoguError: As `encode_chat` and `generate`.
        """
        if batch_size < 1:
            raise MoguError(f"batch_size is {batch_size}; give at least 1")
        request = RoutingRequest(mode, routed_tokens, handoff, threshold)
        settings = self._reply_settings(max_new_tokens, generate_kwargs)
        openers = [opener] * len(conversations) if isinstance(opener, str) else opener
        if len(openers) != len(conversations):
            raise MoguError(
                f"{len(openers)} openers for {len(conversations)} conversations; give one for each"
            )
        prompts = [
            encode_chat(self.tokenizer, messages, begun).ids
            for messages, begun in zip(conversations, openers, strict=True)
        ]
        replies: dict[int, Reply] = {}
        for batch in batches_of_like_lengths(prompts, batch_size):
            answers = self._answer([prompts[index] for index in batch], request, settings)
            replies.update(zip(batch, answers, strict=True))
            if on_batch:
                on_batch(len(batch))
        return [replies[index] for index in range(len(prompts))]

    def stream(
        self,
        conversation: Conversation,
        *,
        mode: Mode = "mogu",
        routed_tokens: int | None = None,
        handoff: Handoff = "reuse",
        threshold: float | None = None,
        max_new_tokens: int = 256,
        opener: str = "",
        **generate_kwargs: Any,
    ) -> ReplyStream:
        """Answer one conversation piece by piece; arguments as in `reply`.

        Returns:
            An iterable of the pieces of the reply's text; its `reply` is there once all have been read.

        Raises:
            MoguError: As `reply`; what goes wrong while generating is raised by the iteration.
        """
        request = RoutingRequest(mode, routed_tokens, handoff, threshold)
        settings = self._reply_settings(max_new_tokens, generate_kwargs)
        prompt = encode_chat(self.tokenizer, conversation, opener).ids
        criteria = settings.pop("stopping_criteria", None) or []

        def write(streamer: TextIteratorStreamer, stop: StoppingCriteria) -> Reply:
            stopping = StoppingCriteriaList([*criteria, stop])
            added = {"streamer": streamer, "stopping_criteria": stopping}
            return self._answer([prompt], request, settings | added)[0]

        return ReplyStream(self.tokenizer, write)

    def trace(
        self,
        conversation: Conversation,
        reply: str | None = None,
        *,
        routed_tokens: int | None = None,
        threshold: float | None = None,
        max_new_tokens: int = 32,
    ) -> RoutingTrace:
        """Say which weights each layer gives each token of a conversation and its reply.

        Args:
            conversation: waits for a reply.
            reply: the reply to look at; by default the model's own greedy one.
            routed_tokens: as `generate` takes it.
            threshold: as `generate` takes it.
            max_new_tokens: longest reply of its own.

        Raises:
            MoguError: As `reply`.
        """
        chat = encode_chat(self.tokenizer, conversation, reply or "")
        ids = torch.tensor([chat.ids], device=self.model.device)
        request = RoutingRequest(routed_tokens=routed_tokens, threshold=threshold)
        if reply is None:
            settings = self._reply_settings(max_new_tokens, {})
            ids = self.generator.generate(ids, None, request, settings).output
        traced = self.generator.read(ids, chat.reply_start, request)
        return RoutingTrace(
            tokens=[str(self.tokenizer.decode([token])) for token in ids[0].tolist()],
            prompt_length=chat.reply_start,
            layers=[int(re.findall(r"\.(\d+)\.", name)[0]) for name in self.adapter.layers],
            safe=traced.used.weights[:, 0, :, SAFE].tolist(),
            usable=traced.used.weights[:, 0, :, USABLE].tolist(),
            routed=traced.used.routed[0].tolist(),
            gate=traced.running,
            threshold=traced.threshold,
            reply_threshold=traced.reply_threshold,
        )

    def _reply_settings(self, max_new_tokens: int, given: dict[str, Any]) -> dict[str, Any]:
        """What is given, and where nothing is, greedy decoding and the ids that end and pad a row."""
        config = given.get("generation_config") or self.model.generation_config
        end, pad = end_and_pad_ids(config, self.tokenizer)
        settings = {
            "max_new_tokens": max_new_tokens,
            "do_sample": bool("generation_config" in given and config.do_sample),
            "eos_token_id": end,
            "pad_token_id": pad,
        } | given
        if given.get("num_return_sequences", config.num_return_sequences) not in (None, 1):
            raise MoguError("num_return_sequences is not 1, but a conversation gets one reply: use generate")
        return settings

    def _answer(
        self, prompts: list[list[int]], request: RoutingRequest, settings: dict[str, Any]
    ) -> list[Reply]:
        batch = batch_left_pad(prompts, settings["pad_token_id"])
        ids, mask = (tensor.to(self.model.device) for tensor in batch)
        # An output object, for with beams it tells which row became which reply.
        generated = self.generator.generate(ids, mask, request, settings | {"return_dict_in_generate": True})
        width = ids.shape[1]
        rows = [
            row[: written_length(row, settings["eos_token_id"], settings["pad_token_id"])]
            for row in generated.output.sequences[:, width:].tolist()
        ]
        # A reply's last token is written, but not read.
        read = [width + len(row) - 1 for row in rows]
        weights = generated.row_weights(read)
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        scores = generated.row_scores(len(rows))
        return [
            Reply(text, len(row), *used, score)
            for text, row, used, score in zip(texts, rows, weights, scores, strict=True)
        ]
