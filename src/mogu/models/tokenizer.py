"""A checkpoint's tokenizer, made ready for chats: a padding token, padding on the left, a chat template.

Knows tokenizer files and templates; opens no model.
"""

import importlib.util
from pathlib import Path

import jinja2
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerBase

from mogu.errors import MoguError
from mogu.models.source import Source
from mogu.models.templates import fallback_template

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "*.tiktoken",
    "spiece.model",
)


def load_tokenizer(
    source: Source, name: str, *, chat_template: Path | str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer and complete it.

    Args:
        source: The checkpoint's files.
        name: What the user called the model; decides the chat template where the checkpoint has none.
        chat_template: A jinja file, or the template's text, in place of whatever template the checkpoint has.
        trust_remote_code: Whether code in the checkpoint may run.

    Raises:
        MoguError: If there is no tokenizer, a library for it is missing, or the template does not render.
    """
    if source.gguf:
        tokenizer = AutoTokenizer.from_pretrained(source.folder, gguf_file=source.gguf.name)
    else:
        _require_files(source.folder, name)
        tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=trust_remote_code)
    return complete_tokenizer(tokenizer, name, chat_template)


def load_baichuan_tokenizer(
    source: Source, name: str, *, chat_template: Path | str | None = None
) -> PreTrainedTokenizerBase:
    """Load Baichuan's SentencePiece model as a Llama tokenizer that adds no special tokens.

    Raises:
        MoguError: As `load_tokenizer`.
    """
    _require_files(source.folder, name)
    adds_space = {}
    if (source.folder / "tokenizer.model").is_file():
        from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

        model = ModelProto.FromString((source.folder / "tokenizer.model").read_bytes())
        adds_space["add_prefix_space"] = model.normalizer_spec.add_dummy_prefix
    tokenizer = LlamaTokenizer.from_pretrained(
        source.folder, add_bos_token=False, add_eos_token=False, **adds_space
    )
    # The roles are ordinary pieces of the vocabulary; as text they must not be split.
    roles = [token for token in ("<reserved_106>", "<reserved_107>") if token in tokenizer.get_vocab()]
    tokenizer.add_special_tokens({"extra_special_tokens": roles})
    return complete_tokenizer(tokenizer, name, chat_template)


def complete_tokenizer(
    tokenizer: PreTrainedTokenizerBase, name: str, chat_template: Path | str | None
) -> PreTrainedTokenizerBase:
    """Give a tokenizer what it lacks for batches of chats; see `load_tokenizer` for the arguments.

    Raises:
        MoguError: If it has no end token, or the template cannot be read or does not render.
    """
    if tokenizer.eos_token is None:
        raise MoguError(
            f"the tokenizer of {name} names no end-of-sequence token: set eos_token in its config"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    if isinstance(chat_template, str):
        tokenizer.chat_template = chat_template
    elif chat_template is not None:
        try:
            tokenizer.chat_template = chat_template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MoguError(f"cannot read the chat template {chat_template}: {error}") from error
    elif tokenizer.chat_template is None:
        # Chats are rendered to text first: what the tokenizer would put in front goes into the template.
        adds_bos = (
            tokenizer.bos_token_id is not None and tokenizer("a").input_ids[0] == tokenizer.bos_token_id
        )
        tokenizer.chat_template = ("{{ bos_token }}" if adds_bos else "") + fallback_template(name)
    try:
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hello"}], add_generation_prompt=True, tokenize=False
        )
    except (jinja2.TemplateError, ValueError, TypeError) as error:
        raise MoguError(
            f"the chat template of {name} does not render ({error}): give another with --chat-template"
        ) from error
    return tokenizer


def _require_files(folder: Path, name: str) -> None:
    files = {path.name for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)}
    if not files:
        raise MoguError(
            f"{name} has no tokenizer: one of {', '.join(_TOKENIZER_FILES)} must be beside the weights"
        )
    needs_sentencepiece = "tokenizer.json" not in files and files & {"tokenizer.model", "spiece.model"}
    if needs_sentencepiece and not all(map(importlib.util.find_spec, ("sentencepiece", "google.protobuf"))):
        raise MoguError(f'the tokenizer of {name} needs SentencePiece: pip install "mogu-llm[sentencepiece]"')
