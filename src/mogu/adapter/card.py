"""The model card of an adapter folder, made from its config alone."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mogu.adapter.config import AdapterConfig

_TEMPLATE = """\
---
{front_matter}
---

# MoGU adapter for {base}

An adapter trained to make {base} refuse harmful requests without refusing more of the harmless ones, by
the method of MoGU ([arXiv 2405.14488](https://arxiv.org/abs/2405.14488)). It wraps the attention output
projection of {layers} layers. Each has two LoRA variants (rank {rank}, alpha {lora_alpha:g}): *safe*, which
tends to refuse, and *usable*, which tends to answer. {routing}

The base is not in here: it is {base}{revision}, of type {model_type}, with fingerprint
`{fingerprint}`. Another one is refused on loading. Its license holds for what you do with both.

## Use

```python
from mogu import MoguModel  # pip install mogu-llm

model = MoguModel.from_pretrained("path/to/this/folder")
print(model.reply([[{{"role": "user", "content": "How do I kill a Python process?"}}]])[0].text)
```

Or `mogu chat path/to/this/folder`. `safe/` and `usable/` are ordinary PEFT adapters, each for itself, without
routing:

```python
from mogu.models import load_model
from peft import PeftModel

base = load_model({base_literal}).model  # or by transformers, if it has a class for it
model = PeftModel.from_pretrained(base, "path/to/this/folder/safe")
```

This folder holds: {parts}.

## Training

With mogu {mogu_version} on {created}; {versions}.

{training}

## Measured

{metrics}

## Limits

- A reply's direction is decided within its first {routed_tokens} tokens; the base writes the rest. A reply
  that turns harmful later is not caught.
- The routers know the kinds of requests that they were trained on. Jailbreaks of another kind, other
  languages and long conversations may get through, and harmless requests that look dangerous may be refused.
- Whoever has the weights can take the adapter out or train it away: it protects users, not the weights.
- One variant loaded with PEFT acts on every token. The safe one then refuses harmless requests as well, and
  the usable one answers harmful ones: do not serve it.
- The figures above hold for the prompts and the judge that they were measured with. Measure on your own
  before you rely on them.
"""


def model_card(config: AdapterConfig) -> str:
    """The `README.md` of an adapter folder: Markdown with the front matter that the Hugging Face hub reads.

    The license is the base's and left to it. The hub takes only hub ids as `base_model`, so a local base is
    named in the text alone.
    """
    base = config.base
    front_matter = {
        **({"base_model": base.name, "base_model_relation": "adapter"} if base.revision else {}),
        "library_name": "mogu-llm",
        "pipeline_tag": "text-generation",
        "tags": ["mogu", "safety", "lora", "peft"],
    }
    prompt = "all" if config.routed_prompt_tokens is None else f"the last {config.routed_prompt_tokens}"
    return _TEMPLATE.format(
        # JSON is YAML, and quotes what YAML would misread.
        front_matter="\n".join(f"{key}: {json.dumps(value)}" for key, value in front_matter.items()),
        base=base.name,
        base_literal=json.dumps(base.name),
        revision=f" at revision `{base.revision}`" if base.revision else "",
        model_type=base.model_type,
        fingerprint=base.fingerprint,
        layers=len(config.projections),
        rank=config.rank,
        lora_alpha=config.lora_alpha,
        routing=(
            f"A router per layer weighs them for every routed token: {prompt} of the prompt's tokens, and "
            f"the reply's until {config.routed_tokens} tokens were sampled."
        ),
        parts=", ".join(config.parts),
        mogu_version=config.mogu_version,
        created=config.created,
        versions=", ".join(f"{name} {version}" for name, version in config.versions.items()),
        training=_table(
            "setting", {"dtype": config.dtype, "projection": config.projection} | config.training
        ),
        metrics=_table("measure", config.metrics),
        routed_tokens=config.routed_tokens,
    )


def _table(heading: str, values: Mapping[str, Any]) -> str:
    """A Markdown table of two columns; names of nested values are joined."""
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in flat_items(values, " / ")]
    return "\n".join([f"| {heading} | value |", "|---|---|", *rows]) if rows else "Nothing was noted."


def flat_items(values: Mapping[str, Any], separator: str) -> Iterator[tuple[str, Any]]:
    """The items of nested mappings as one sequence; the names on the way to a value are joined."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}{separator}{inner}", each) for inner, each in flat_items(value, separator))
        else:
            yield name, value


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
