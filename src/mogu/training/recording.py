"""What the frozen base computes once, so that training need not compute it in every epoch.

A training sequence is a prompt and a reply. Its last prompt tokens and its reply are the *suffix*, the tokens that
training routes; what comes before is the *prefix*, which the base alone reads (empty when the whole prompt is
routed, as in the paper). Two things are recorded, both without gradient:

- the keys and values of the prefix in the routed layers and above;
- the hidden states of the suffix at the entry of the first routed layer: everything below is the base's.

A training step then runs the upper layers over the suffix only. Nothing here knows a loss.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from mogu.models import decoder_layers


@dataclass(frozen=True)
class Prefix:
    """The base's keys and values of one prompt's prefix.

    Attributes:
        keys: per recorded layer ``(kv_heads, prefix, key_size)``; no layers when the prefix is empty.
        values: per recorded layer ``(kv_heads, prefix, value_size)``.
        length: number of prefix tokens.
    """

    keys: list[Tensor]
    values: list[Tensor]
    length: int


@dataclass(frozen=True)
class Record:
    """What one prompt and its replies need in training.

    Attributes:
        prefix: the base's keys and values before the suffix.
        hidden: for each reply, in main memory, the hidden states ``(suffix, hidden)`` at the first routed layer; the
            suffix leaves out the reply's last token, which predicts nothing.
    """

    prefix: Prefix
    hidden: list[Tensor]


@dataclass(frozen=True)
class PrefixLayout:
    """Where the prefixes of a batch stand in the columns of a cache: a shared start, padding, and the rest.

    Attributes:
        lengths: the number of prefix tokens of each row.
        shared: how many of them are the same in all rows and stand on the left of the padding.
        width: the number of columns.
    """

    lengths: list[int]
    shared: int
    width: int

    @classmethod
    def of(cls, lengths: Sequence[int], shared: int = 0) -> "PrefixLayout":
        """The narrowest layout for some lengths."""
        return cls(list(lengths), shared, max(lengths))

    def mask(self) -> Tensor:
        """``(batch, width)`` of 0 and 1: the columns that hold a token of the row."""
        columns = torch.arange(self.width)[None]
        rest = self.width - (torch.tensor(self.lengths)[:, None] - self.shared)
        return ((columns < self.shared) | (columns >= rest)).long()


class Beginning(NamedTuple):
    """Prompts for `generate`.

    Attributes:
        input_ids: ``(batch, columns)``, padded between the shared start and the rest.
        attention_mask: the same shape.
        past_key_values: holds the shared start; None if there is none.
    """

    input_ids: Tensor
    attention_mask: Tensor
    past_key_values: DynamicCache | None


class _StopForward(Exception):  # noqa: N818 - control flow, not an error
    """Ends a forward as soon as the wanted hidden states are there."""


class Recorder:
    """Records from, and replays into, one model.

    Args:
        model: the base (wrapped or not); its routing must be off while recording.
        first_layer: index of the first routed decoder layer.
    """

    def __init__(self, model: PreTrainedModel, first_layer: int) -> None:
        self.model = model
        self.layers = decoder_layers(model)
        self.first_layer = first_layer
        self._layer_returns_tuple = False

    @torch.no_grad()
    def record(
        self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[Sequence[int]]], routed: int | None
    ) -> list["Record"]:
        """Read a batch of prompts once, and for each some replies.

        Args:
            prompts: token ids of each prompt; best of like lengths.
            replies: for each prompt the same number of replies, token ids.
            routed: how many of the last prompt tokens belong to the suffix; None for all, as in a model with
                recurrent layers, whose state after a prefix is more than keys and values.
        """
        if self._is_recurrent():
            routed = None
        lengths = [0 if routed is None else max(0, len(prompt) - routed) for prompt in prompts]
        prefixes = [list(prompt[:length]) for prompt, length in zip(prompts, lengths, strict=True)]
        shared = _shared_start(prefixes) if self._takes_gaps() else 0
        layout = PrefixLayout.of(lengths, shared)
        cache = self._read(prefixes, layout) if layout.width else None
        kept = [self._keep(cache, layout, row) for row in range(len(prompts))]
        hidden: list[list[Tensor]] = [[] for _ in prompts]
        for column in range(len(replies[0])):
            suffixes = [
                [*prompt[length:], *row[column][:-1]]
                for prompt, length, row in zip(prompts, lengths, replies, strict=True)
            ]
            entry = self._entry(suffixes, layout, cache)
            for row, suffix in enumerate(suffixes):
                hidden[row].append(entry[row, : len(suffix)].to("cpu", copy=True))
        return [Record(prefix, rows) for prefix, rows in zip(kept, hidden, strict=True)]

    @torch.no_grad()
    def hidden(
        self, prompts: Sequence[Sequence[int]], starts: Sequence[int], layers: Sequence[int]
    ) -> list[Tensor]:
        """The outputs of some decoder layers; layers above them are not computed.

        Args:
            prompts: token ids of each prompt; best of like lengths.
            starts: for each prompt, from which of its tokens on.
            layers: indices of the decoder layers.

        Returns:
            For each prompt ``(layers, tokens, features)``, on the model's device.
        """
        rows = [list(prompt) for prompt in prompts]
        shared = min(_shared_start(rows), *starts) if self._takes_gaps() else 0
        caught: dict[int, Tensor] = {}

        def catch(index: int) -> Callable[[nn.Module, Any, Any], None]:
            def keep(_: nn.Module, __: Any, output: Any) -> None:
                caught[index] = output[0] if isinstance(output, tuple) else output
                if index == max(layers):
                    raise _StopForward

            return keep

        hooks = [self.layers[index].register_forward_hook(catch(index)) for index in layers]
        try:
            self._read(rows, PrefixLayout.of([len(row) for row in rows], shared))
        finally:
            for hook in hooks:
                hook.remove()
        # What was caught last is what follows the shared start, padded on the left.
        stacked = torch.stack([caught[index] for index in layers], dim=1)
        return [
            stacked[row, :, stacked.shape[2] - (len(prompt) - start) :]
            for row, (prompt, start) in enumerate(zip(prompts, starts, strict=True))
        ]

    @torch.no_grad()
    def begin(self, prompts: Sequence[Sequence[int]]) -> Beginning:
        """Prompts ready for the base to generate from, with what all of them begin with read once."""
        shared = _shared_start([list(prompt[:-1]) for prompt in prompts]) if self._takes_gaps() else 0
        layout = PrefixLayout.of([len(prompt) for prompt in prompts], shared)
        mask = layout.mask()
        ids = torch.zeros_like(mask)
        ids[mask.bool()] = torch.tensor([token for prompt in prompts for token in prompt])
        cache = None
        if shared:
            heads = [list(prompt[:shared]) for prompt in prompts]
            cache = self._read(heads, PrefixLayout.of([shared] * len(prompts), shared))
        return Beginning(ids.to(self.model.device), mask.to(self.model.device), cache)

    def _read(self, prefixes: list[list[int]], layout: "PrefixLayout") -> DynamicCache:
        """The cache after the prefixes; what all of them begin with (a system message) is read once, as one row."""
        cache = DynamicCache(config=self.model.config) if self._is_recurrent() else DynamicCache()
        device = self.model.device
        if layout.shared:
            ids = torch.tensor([prefixes[0][: layout.shared]], device=device)
            self._forward(input_ids=ids, past_key_values=cache, use_cache=True)
            cache.batch_repeat_interleave(len(prefixes))
        rests = [prefix[layout.shared :] for prefix in prefixes]
        if any(rests):
            ids, _ = pad(rests, left=True)
            mask = layout.mask()
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, layout.shared :]
            self._forward(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                position_ids=positions.to(device),
                past_key_values=cache,
                use_cache=True,
            )
        return cache

    def _keep(self, cache: DynamicCache | None, layout: "PrefixLayout", row: int) -> Prefix:
        if cache is None:
            return Prefix([], [], 0)
        columns = layout.mask()[row].bool().to(self.model.device)
        layers = cache.layers[self.first_layer :]
        return Prefix(
            [layer.keys[row][:, columns].cpu() for layer in layers],  # type: ignore[union-attr, index]
            [layer.values[row][:, columns].cpu() for layer in layers],  # type: ignore[union-attr, index]
            layout.lengths[row],
        )

    def _is_recurrent(self) -> bool:
        layers = DynamicCache(config=self.model.config).layers
        return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)

    def _takes_gaps(self) -> bool:
        """Whether padding in the middle of a row changes nothing."""
        # Rotary positions are those that are given; other kinds may count columns, as windows and chunks do.
        config = self.model.config.get_text_config(decoder=True)
        counts_columns = any(
            getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")
        )
        return bool(getattr(config, "rope_parameters", None)) and not (counts_columns or self._is_recurrent())

    def _entry(self, suffixes: list[list[int]], layout: "PrefixLayout", cache: DynamicCache | None) -> Tensor:
        """``(batch, suffix, hidden)`` that enters the first routed layer; the cache is left as it was."""
        caught: list[Tensor] = []

        def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            caught.append(args[0] if args else kwargs["hidden_states"])
            raise _StopForward

        def see_output(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            self._layer_returns_tuple = isinstance(output, tuple)

        hooks = [self.layers[self.first_layer].register_forward_pre_hook(catch, with_kwargs=True)]
        if self.first_layer:
            hooks.append(self.layers[self.first_layer - 1].register_forward_hook(see_output))
        inputs = suffix_inputs(suffixes, layout)
        try:
            self._forward(
                **{k: v.to(self.model.device) for k, v in inputs.items()},
                past_key_values=cache,
                use_cache=cache is not None,
            )
        finally:
            for hook in hooks:
                hook.remove()
            # The upper layers never saw the suffix.
            for layer in cache.layers[: self.first_layer] if cache is not None else ():
                layer.crop(layout.width - layer.get_seq_length())  # type: ignore[union-attr]
        return caught[0]

    def _forward(self, **inputs: Any) -> None:
        """Run the decoder, up to where a hook ends it."""
        with suppress(_StopForward):
            self.model.get_decoder()(**inputs)

    def cache(self, prefixes: Sequence[Prefix]) -> DynamicCache | None:
        """A fresh cache that holds the prefixes, padded on the left; None when all are empty."""
        width = max(prefix.length for prefix in prefixes)
        if not width:
            return None
        cache = DynamicCache()
        device = self.model.device
        # The lower layers are replayed and read no cache, but transformers asks the first one for the length.
        stand_in = torch.zeros(1, device=device).expand(len(prefixes), 1, width, 1)
        for index in range(self.first_layer):
            cache.update(stand_in, stand_in, index)
        for index in range(len(prefixes[0].keys)):
            cache.update(
                _stack_left([p.keys[index] for p in prefixes], width).to(device),
                _stack_left([p.values[index] for p in prefixes], width).to(device),
                self.first_layer + index,
            )
        return cache

    @contextmanager
    def replay(self, hidden: Tensor) -> Iterator[None]:
        """Within it, a forward skips the layers below the first routed one: ``hidden`` enters there."""

        def give(*_: Any, **__: Any) -> Any:
            return (hidden,) if self._layer_returns_tuple else hidden

        skipped = list(self.layers[: self.first_layer])
        for layer in skipped:
            layer.forward = give  # an instance attribute, so the layer's other attributes stay readable
        try:
            yield
        finally:
            for layer in skipped:
                del layer.forward


def suffix_inputs(suffixes: Sequence[Sequence[int]], layout: PrefixLayout) -> dict[str, Tensor]:
    """Padded inputs for suffixes that follow the prefixes of a layout.

    Returns:
        ``input_ids`` and ``position_ids`` ``(batch, suffix)``, ``attention_mask`` ``(batch, prefix + suffix)``.
    """
    ids, mask = pad(suffixes, left=False)
    starts = torch.tensor(layout.lengths)[:, None]
    return {
        "input_ids": ids,
        "attention_mask": torch.cat((layout.mask(), mask), dim=1),
        "position_ids": starts + torch.arange(ids.shape[1])[None],
    }


def pad(rows: Sequence[Sequence[int]], left: bool) -> tuple[Tensor, Tensor]:
    """Token ids and mask ``(batch, width)``, padded with 0 on one side."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = 1
    return ids, mask


def _shared_start(rows: list[list[int]]) -> int:
    """How many tokens all rows begin with."""
    count = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return count


def _stack_left(tensors: Sequence[Tensor], width: int) -> Tensor:
    """``(heads, n, size)`` tensors to ``(batch, heads, width, size)``, zeros on the left."""
    return torch.stack([nn.functional.pad(t, (0, 0, width - t.shape[1], 0)) for t in tensors])
