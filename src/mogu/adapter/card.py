"""The model card of an adapter folder, made from its config alone."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mogu.adapter.config import AdapterConfig, DataSource, GateConfig, PartName

MOST_ITEMS: Final = 8
"""Longer lists are counted, not shown."""

CURVE_ROWS: Final = 10
"""Points of the calibration curve that the card shows, at most."""

_TEMPLATE = """\
---
{front_matter}
---

# MoGU adapter for {base}

An adapter trained to make {base} refuse harmful requests without refusing more of the harmless ones, by
the method of MoGU ([arXiv 2405.14488](https://arxiv.org/abs/2405.14488)).

{routing}

The base is not in here: it is {base}{revision}, of type {model_type}, with fingerprint
`{fingerprint}`. Another one is refused on loading. Its license holds for what you do with both.

This folder holds:

{parts}

## Use

```python
from mogu import MoguModel  # pip install mogu-llm

model = MoguModel.from_pretrained("path/to/this/folder")
reply = model.reply([[{{"role": "user", "content": "How do I kill a Python process?"}}]])[0]
print(reply.text, {reply_figures})
```

Or `mogu chat path/to/this/folder`. A variant alone, without routing:

```python
from mogu.models import load_model
from peft import PeftModel

base = load_model({base_literal}).model  # or by transformers, if it has a class for it
model = PeftModel.from_pretrained(base, "path/to/this/folder/safe")
```

## Training

With mogu {mogu_version} on {created}; {versions}.

{data}{training}

## Measured

{measured}

## Limits

{limits}
- Whoever has the weights can take the adapter out or train it away: it protects users, not the weights.
- {alone}
- The figures above hold for the prompts that they were measured on. Measure on your own before you rely on
  them.
"""

_TOKEN_ROUTING = """\
It wraps the attention output projection of {layers} layers. Each has two LoRA variants (rank {rank}, alpha
{lora_alpha:g}): *safe*, which tends to refuse, and *usable*, which tends to answer. A router per layer weighs
them for every routed token: {prompt} of the prompt's tokens, and {reply}."""

_TOKEN_LIMITS = """\
- The routers know the kinds of requests that they were trained on. Jailbreaks of another kind, other
  languages and long conversations may get through, and harmless requests that look dangerous may be refused."""

_TOKEN_LIMIT_OF_THE_REST = """
- A reply's direction is decided within its first {m} tokens; the base writes the rest. A reply that turns
  harmful later is not caught."""

_TOKEN_ALONE = """\
One variant loaded with PEFT acts on every token. The safe one then refuses harmless requests as well, and the
  usable one answers harmful ones: do not serve it."""

_SEQUENCE_ROUTING = """\
Once the prompt is read, a *gate* gives the probability that the request is malicious, from the hidden states
of the base's layers {gate_layers}. Below the threshold of **{threshold:.4g}** the reply is {answered}.
At or above it the reply begins as refusals do, and a LoRA on the attention output projection of
{layers} layers (rank {rank}, alpha {lora_alpha:g}), the *safe* variant, writes it to its end.
{in_reply} Another threshold goes in as `threshold`, or `--threshold` on the command line."""

_ANSWERED_BY_BASE = "the base's, token for token"

_ANSWERED_BY_USABLE = """\
the *usable* variant's,
a second LoRA that answers where the base refuses what it need not"""

_REPLY_IS_READ = """\
The gate reads on while a reply is written, and ends it with a refusal from {reply_threshold:.4g} on."""

_REPLY_IS_NOT_READ = "The gate does not read replies."

_SEQUENCE_LIMITS = """\
- The decision is one per reply, once the prompt is read. {in_reply}
- The gate knows the kinds of requests that it was trained on. Other languages are seen less well than English,
  and jailbreaks of another kind or long conversations may get through.
- Look-alikes mislead it: harmless requests that look dangerous may be refused, and harmful ones that look
  harmless are answered.
- The score is calibrated for as many malicious as benign requests. Where malicious ones are rarer it means
  less: with one in a hundred, a score of 0.9 is a probability of 8%."""

_LIMIT_WHERE_READ = """\
A reply that turns harmful is left only when the gate sees it,
  and what was written by then stays."""

_LIMIT_WHERE_NOT_READ = """\
A request that passes is answered, and a reply that turns
  harmful later is not caught."""

_SEQUENCE_ALONE = """\
The safe variant loaded with PEFT acts on every token, and refuses harmless requests as well."""

_HOLDS: Final[dict[PartName, str]] = {
    "safe": "`safe/`: the safe variant, an ordinary PEFT adapter",
    "usable": "`usable/`: the usable variant, an ordinary PEFT adapter",
    "routers": "`routers.safetensors`: the routers, folded",
    "gate": "`gate.safetensors`: the gate",
}
_CONFIG_HOLDS: Final = "`mogu_config.json`: every setting, and every figure that was measured"

_GROUPS: Final = {
    "malicious": "malicious",
    "benign": "benign",
    "look_alike": "look-alikes",
    "framed": "benign in jailbreak frames",
}
"""The groups of rows that calibration tells apart, and their headings; `benign` leaves out the other two."""

_BAR: Final = 20
"""Characters of a full bar in the reliability diagram."""

_CALIBRATION: Final = (
    "rows",
    "auroc",
    "auroc_look_alike",
    "threshold",
    "refused",
    "threshold_interval",
    "detection",
    "curve",
    "reliability",
    "kinds",
    "left_out",
    "reply",
)
"""Figures of the gate that stand in tables of their own."""


def model_card(config: AdapterConfig) -> str:
    """The `README.md` of an adapter folder: Markdown with the front matter that the Hugging Face hub reads.

    The license is the base's and left to it. The hub takes only hub ids as `base_model`, so a local base is
    named in the text alone, and without its place, which is no reader's business.
    """
    base, gate = config.base, config.gate
    base_name = base.name if base.revision else Path(base.name).name
    front_matter = {
        **({"base_model": base.name, "base_model_relation": "adapter"} if base.revision else {}),
        "library_name": "mogu-llm",
        "pipeline_tag": "text-generation",
        "tags": ["mogu", "safety", "lora", "peft"],
    }
    return _TEMPLATE.format(
        # JSON is YAML, and quotes what YAML would misread.
        front_matter="\n".join(f"{key}: {json.dumps(value)}" for key, value in front_matter.items()),
        base=base_name,
        base_literal=json.dumps(base_name if base.revision else f"path/to/{base_name}"),
        revision=f" at revision `{base.revision}`" if base.revision else "",
        model_type=base.model_type,
        fingerprint=base.fingerprint,
        parts="\n".join(f"- {line}" for line in (*(_HOLDS[part] for part in config.parts), _CONFIG_HOLDS)),
        reply_figures="reply.safe_weight, reply.usable_weight" if gate is None else "reply.score",
        mogu_version=config.mogu_version,
        created=config.created,
        versions=", ".join(f"{name} {version}" for name, version in config.versions.items()),
        data="".join(f"- {each.label} requests: {data_line(each)}\n" for each in config.data)
        + ("\n" if config.data else ""),
        training=_values_table(
            "setting", {"dtype": config.dtype, "projection": config.projection} | config.training
        ),
        **(_token_routing(config) if gate is None else _sequence_routing(config, gate)),
    )


def _token_routing(config: AdapterConfig) -> dict[str, str]:
    """What the card says of token routing, by the places of the template."""
    k, m = config.routed_prompt_tokens, config.routed_tokens
    return {
        "routing": _TOKEN_ROUTING.format(
            layers=len(config.projections),
            rank=config.rank,
            lora_alpha=config.lora_alpha,
            prompt="all" if k is None else f"the last {k}",
            reply="the whole reply" if m is None else f"the reply's until {m} tokens were sampled",
        ),
        "measured": _values_table("measure", config.metrics),
        "limits": _TOKEN_LIMITS + ("" if m is None else _TOKEN_LIMIT_OF_THE_REST.format(m=m)),
        "alone": _TOKEN_ALONE,
    }


def _sequence_routing(config: AdapterConfig, gate: GateConfig) -> dict[str, str]:
    """What the card says of sequence routing, by the places of the template."""
    in_reply, limit = _REPLY_IS_NOT_READ, _LIMIT_WHERE_NOT_READ
    if gate.reply_threshold is not None:
        in_reply, limit = _REPLY_IS_READ.format(reply_threshold=gate.reply_threshold), _LIMIT_WHERE_READ
    metrics = dict(config.metrics)
    measured: list[str] = []
    if figures := metrics.pop("gate", None):
        measured += _calibration(figures)
        metrics["gate"] = {name: value for name, value in figures.items() if name not in _CALIBRATION}
    measured.append(_values_table("measure", metrics))
    return {
        "routing": _SEQUENCE_ROUTING.format(
            gate_layers=", ".join(map(str, gate.layers)),
            threshold=gate.threshold,
            layers=len(config.projections),
            rank=config.rank,
            lora_alpha=config.lora_alpha,
            in_reply=in_reply,
            answered=_ANSWERED_BY_USABLE if "usable" in config.parts else _ANSWERED_BY_BASE,
        ),
        "measured": "\n\n".join(measured),
        "limits": _SEQUENCE_LIMITS.format(in_reply=limit),
        "alone": _SEQUENCE_ALONE,
    }


def _calibration(figures: Mapping[str, Any]) -> Iterator[str]:
    """What the threshold does, and what others would do, as paragraphs and tables."""
    low, high = figures["threshold_interval"]
    yield (
        f"Training set the threshold to {figures['threshold']:.4g} (95% interval over resampled benign rows: "
        f"{low:.4g} to {high:.4g}).\nEach row below was judged by a gate that was fitted without its request, and "
        "one in a frame without all frames of its group."
    )
    yield _table(
        ("", *_GROUPS.values()),
        [
            ("rows", *(str(figures["rows"].get(group, 0)) for group in _GROUPS)),
            ("refused at the threshold", *_shares(figures["refused"])),
        ],
    )
    alike = figures["auroc_look_alike"]
    against = "" if alike is None else f", {alike:.3f} against look-alikes alone"
    yield f"AUROC of the gate: {figures['auroc']:.3f} for malicious rows against all others{against}."
    for share, detected in figures["detection"].items():
        yield f"At {share} false alarms among benign rows it sees {detected:.1%} of the malicious ones."
    yield from _by_kind(figures)
    if reply := figures.get("reply"):
        yield (
            f"While a reply is written, the threshold is {reply['threshold']:.4g}. Of {sum(reply['rows'].values())} "
            f"benign rows, whose replies were read for up to {reply['tokens']} tokens, so many were refused by then:"
        )
        lengths = reply["refused_by_length"]
        yield _table(
            ("reply tokens", *lengths), [("refused", *(f"{share:.1%}" for share in lengths.values()))]
        )
    yield "Refused at other thresholds:"
    yield _table(
        ("threshold", *_GROUPS.values()),
        [(f"{point['threshold']:.4g}", *_shares(point)) for point in _thinned(figures["curve"])],
    )
    yield "How far the probability can be believed, if malicious and benign rows were equally many:"
    yield _table(
        ("probability", "rows", "malicious", ""),
        [
            (
                f"{each['probability']:.2f}",
                str(each["rows"]),
                f"{each['malicious']:.0%}",
                "\N{FULL BLOCK}" * round(_BAR * each["malicious"]),
            )
            for each in figures["reliability"]
        ],
    )


def _by_kind(figures: Mapping[str, Any]) -> Iterator[str]:
    """Refused by group of frames and by kind of request."""
    if figures["left_out"]:
        yield (
            "Frames by their group, each judged by a gate that had seen no frame of it. Likeness is the median cosine "
            "of\nmalicious ones to the nearest malicious row outside the group, 1 for a copy:"
        )
        yield _table(
            ("group", "malicious", "refused", "benign", "refused", "likeness"),
            [
                (
                    group,
                    *_counted(each.get("malicious")),
                    *_counted(each.get("benign")),
                    "-" if each["likeness"] is None else f"{each['likeness']:.2f}",
                )
                for group, each in figures["left_out"].items()
            ],
        )
    yield "Requests by their kind, in frames or not:"
    yield _table(
        ("label", "kind", "rows", "refused"),
        [
            (label, kind, *_counted(each))
            for label, kinds in figures["kinds"].items()
            for kind, each in kinds.items()
        ],
    )


def _counted(hits: Mapping[str, float] | None) -> tuple[str, str]:
    """How many rows, and the share of them that is refused."""
    return ("0", "-") if hits is None else (str(hits["rows"]), f"{hits['refused']:.1%}")


def _shares(by_group: Mapping[str, float]) -> list[str]:
    """A share (0 to 1) of each group as a percentage; a dash where there were no rows."""
    return [f"{by_group[group]:.1%}" if group in by_group else "-" for group in _GROUPS]


def _thinned(points: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """At most `CURVE_ROWS` of the points, evenly spread from the first to the last."""
    if len(points) <= CURVE_ROWS:
        return list(points)
    return [points[round(row * (len(points) - 1) / (CURVE_ROWS - 1))] for row in range(CURVE_ROWS)]


def _values_table(heading: str, values: Mapping[str, Any]) -> str:
    """A Markdown table of two columns; names of nested values are joined."""
    rows = [(name, shown(value)) for name, value in flat_items(values, " / ")]
    return _table((heading, "value"), rows) if rows else "Nothing was noted."


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its cells escaped."""
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in (heading, *rows)]
    return "\n".join([lines[0], "|---" * len(heading) + "|", *lines[1:]])


def data_line(data: DataSource) -> str:
    """What is told of a source of requests: their number, its name, and how to know it again."""
    return f"{data.rows} rows of {data.source}, sha256 {data.sha256[:12]}"


def flat_items(values: Mapping[str, Any], separator: str) -> Iterator[tuple[str, Any]]:
    """The items of nested mappings as one sequence; the names on the way to a value are joined."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}{separator}{inner}", each) for inner, each in flat_items(value, separator))
        else:
            yield name, value


def shown(value: Any) -> str:
    """A value of the config as people read it: four digits of a number, and of a long or nested list its length."""
    match value:
        case None:
            return "none"
        case float():
            return f"{value:.4g}"
        case list() if len(value) > MOST_ITEMS or any(isinstance(item, list | dict) for item in value):
            return f"{len(value)} entries, in mogu_config.json"
        case list():
            return ", ".join(map(shown, value))
        case _:
            return str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
