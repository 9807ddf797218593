"""Load a language model and its tokenizer from a hub id, a folder or a GGUF file, and say which model it is.

What comes back is a plain frozen model in eval mode, whatever the files were. Knows nothing about adapters.
"""

import io
import json
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    GgufConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from mogu.errors import MoguError
from mogu.models import baichuan
from mogu.models.gguf import read_once
from mogu.models.source import Source, find_source
from mogu.models.tokenizer import load_baichuan_tokenizer, load_tokenizer

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""What `load_model` takes as dtype."""


class ModelIdentity(BaseModel):
    """Which model it is: what an adapter remembers of its base.

    Attributes:
        name: Hub id, or the absolute path of a local model.
        revision: Commit hash on the hub; None for a local path.
        fingerprint: Hash of the weights files' sizes and content, of large files a sample (`Source.fingerprint`); the
            same under any folder name and loading dtype, another one for the same weights in other files.
        model_type: The model type of its configuration.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    name: str
    revision: str | None
    fingerprint: str
    model_type: str


@dataclass
class LoadedModel:
    """A frozen model in eval mode, its tokenizer, and which model it is."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: ModelIdentity


def load_model(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    chat_template: Path | str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a decoder-only language model and its tokenizer.

    Args:
        name: A hub id, a local folder (with safetensors, pytorch or one GGUF file) or a `.gguf` file.
        revision: Branch, tag or commit on the hub.
        dtype: One of `DTYPES`; "auto" is float32 on a CPU, else the checkpoint's own.
        device: Where it goes, as in "cuda:0"; by default an accelerator if there is one.
        chat_template: What to use in place of the tokenizer's template: a jinja file, or the template's text.
        trust_remote_code: Whether code in the checkpoint may run.

    Raises:
        MoguError: If the name leads to no such model, or its files are incomplete or corrupt.
    """
    if dtype not in DTYPES:
        raise MoguError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
    target = _device(device)
    if dtype == "auto" and target.type == "cpu":
        dtype = "float32"
    source = find_source(name, revision)
    load = _load_baichuan if _raw_config(source).get("model_type") == "baichuan" else _load
    try:
        with _silence():
            model, tokenizer = load(
                source,
                str(name),
                dtype=dtype,
                device=target,
                chat_template=chat_template,
                trust_remote_code=trust_remote_code,
            )
    except MoguError:
        raise
    # A damaged file surfaces as whatever its parser ran into: there is no common class to catch.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MoguError(f"cannot load {name}: {reason}") from error
    identity = ModelIdentity(
        name=str(name) if source.revision else str(Path(name).expanduser().absolute()),
        revision=source.revision,
        fingerprint=source.fingerprint(),
        model_type=model.config.model_type,
    )
    return LoadedModel(model.eval().requires_grad_(False), tokenizer, identity)


def _device(device: str | None) -> torch.device:
    if device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise MoguError(f"{device!r} is no device; give for example cpu, cuda or cuda:1") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Hold back the loaders' warnings; what is wrong is raised or checked instead."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _without_bars() -> AbstractContextManager[Any]:
    """Hold back the bars over weights, of which that over GGUF tensors has no switch.

    Around the weights alone: what this package itself has to say of a model is to be seen.
    """
    return redirect_stderr(io.StringIO())


def _raw_config(source: Source) -> dict[str, Any]:
    if source.gguf:
        return {}
    try:
        return json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise MoguError(f"{source.folder / 'config.json'} is no JSON: {error}") from error


def _load(
    source: Source,
    name: str,
    *,
    dtype: str,
    device: torch.device,
    chat_template: Path | str | None,
    trust_remote_code: bool,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if source.gguf:
        # Otherwise the weights stay packed where a kernel for them is installed.
        options = {"gguf_file": source.gguf.name, "quantization_config": GgufConfig(dequantize=True)}
    else:
        raw = _raw_config(source)
        if "auto_map" in raw and raw.get("model_type") not in CONFIG_MAPPING and not trust_remote_code:
            raise MoguError(
                f"{name} brings code of its own: read it, and allow it to run with --trust-remote-code"
            )
        _require_decoder(AutoConfig.from_pretrained(source.folder, **options), name, trust_remote_code)
    with read_once():
        # Before the weights: a missing tokenizer is known in no time.
        tokenizer = load_tokenizer(
            source, name, chat_template=chat_template, trust_remote_code=trust_remote_code
        )
        with _without_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source.folder, dtype=dtype, device_map=device, output_loading_info=True, **options
            )
    return _complete(loaded, name), tokenizer


def _load_baichuan(
    source: Source,
    name: str,
    *,
    dtype: str,
    device: torch.device,
    chat_template: Path | str | None,
    trust_remote_code: bool,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    config = baichuan.llama_config(_raw_config(source))
    tokenizer = load_baichuan_tokenizer(source, name, chat_template=chat_template)
    with _without_bars():
        loaded: Any = LlamaForCausalLM.from_pretrained(
            None,
            config=config,
            state_dict=baichuan.llama_state(source.weights, config.vocab_size),
            dtype=dtype,
            device_map=device,
            output_loading_info=True,
        )
    model = _complete(loaded, name)
    if (source.folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(source.folder)
    return model, tokenizer


def _require_decoder(config: PreTrainedConfig, name: str, trust_remote_code: bool) -> None:
    """Refuse what is no causal language model; transformers would give it a random head."""
    if config.is_encoder_decoder:
        raise MoguError(
            f"{name} is an encoder-decoder model ({config.model_type}); MoGU needs a decoder-only one"
        )
    if trust_remote_code:
        return
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if known is None or (config.architectures and not causal.intersection(config.architectures)):
        kind = ", ".join(config.architectures or [config.model_type])
        raise MoguError(f"{name} is no causal language model but a {kind}")


def _complete(loaded: tuple[PreTrainedModel, dict[str, Any]], name: str) -> PreTrainedModel:
    """Refuse a model of which some weights were not in the files and are random now."""
    model, report = loaded
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        raise MoguError(
            f"{name} is incomplete: {len(missing)} weights are not there or of another shape ({missing[0]})"
        )
    return model
