"""Another model in front, which decides what the base gets to see."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mogu.chat import Conversation, encode_chat, folded
from mogu.defenses.base import Answer, Defense, Host, Talk
from mogu.defenses.decision import decide
from mogu.defenses.speaker import Speaker, Verdict
from mogu.errors import MoguError
from mogu.models import load_model
from mogu.models.source import find_source

THRESHOLD = 0.5

# Of a label without white space, "-" and "_": "non-toxic" and "unharmful" are no harm.
_HARM = re.compile("(?<!un)(?<!no)(?<!non)(?<!not)(?:unsafe|harmful|toxic|malicious|injection|jailbreak)")


class Guard(Defense):
    """The base's reply to talks that a guard lets pass, a fixed refusal to the others.

    The guard reads the conversation, not the beginning of the reply. It is a sequence classifier, or a language model
    that replies "safe" or "unsafe" as Llama Guard does.

    Args:
        host: the base.
        argument: the guard's hub id or folder.

    Raises:
        MoguError: If there is no argument.
    """

    paper = "Inan et al. 2023, arXiv 2312.06674"

    def __init__(self, host: Host, argument: str = "") -> None:
        super().__init__(host, argument)
        if not argument:
            raise MoguError(
                "guard needs a model: give its hub id or folder after a colon, as in guard:meta-llama/Llama-Guard-3-8B"
            )
        self._judge: _Judge | None = None  # while it is entered: of several guards one is in memory

    @property
    def identity(self) -> str:
        """The fingerprint of the guard's weights."""
        return find_source(self.argument).fingerprint()

    def __enter__(self) -> Self:
        """Load the guard, onto the base's device.

        Raises:
            MoguError: If it cannot be loaded, or its labels do not tell harm.
        """
        self._judge = _load_judge(self.argument, self.host.mogu.model.device)
        return self

    def __exit__(self, *_: object) -> None:
        self._judge = None

    def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
        """What the base says where the guard lets it."""
        assert self._judge is not None, "it must be entered"
        verdicts = self._judge.verdicts([talk.messages for talk in talks], self.host.batch_size)
        scores = [verdict.share for verdict in verdicts]
        answers = decide(self.host, talks, scores, THRESHOLD, max_new_tokens)
        return [
            replace(answer, tokens=answer.tokens + verdict.tokens)
            for answer, verdict in zip(answers, verdicts, strict=True)
        ]


class _Judge(ABC):
    """A guard model."""

    @abstractmethod
    def verdicts(self, conversations: Sequence[Conversation], batch_size: int) -> list[Verdict]:
        """How likely each conversation is harmful, and how many tokens were generated to say so."""


def _load_judge(name: str, device: torch.device) -> _Judge:
    config = find_source(name).folder / "config.json"
    try:
        # A GGUF file has none; it holds a language model.
        raw = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    except ValueError as error:
        raise MoguError(f"{config} is no JSON: {error}") from error
    if any(kind.endswith("ForSequenceClassification") for kind in raw.get("architectures") or ()):
        return _Classifier(name, config.parent, device)
    return _LanguageModel(name, device)


class _LanguageModel(_Judge):
    """A guard that replies "safe" or "unsafe" to a conversation in its own chat template, greedily."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._name = name
        loaded = load_model(name, device=str(device))
        self._speaker = Speaker(loaded.model, loaded.tokenizer)

    def verdicts(self, conversations: Sequence[Conversation], batch_size: int) -> list[Verdict]:
        prompts = [self._encode(messages) for messages in conversations]
        return self._speaker.weigh(prompts, "unsafe", "safe", batch_size)

    def _encode(self, messages: Conversation) -> list[int]:
        # Guards' templates count turns to tell whose they judge, and take no other roles.
        chat = encode_chat(self._speaker.tokenizer, folded(messages))
        if not chat.spans:  # as that of Llama-Guard-3-1B, which takes lists of parts only
            raise MoguError(f"the chat template of {self._name} leaves the conversation's texts out: mend it")
        return chat.ids


class _Classifier(_Judge):
    """A guard that classifies texts: of a conversation the most harmful text of its users and tools counts.

    A text that is longer than the model reads is read in pieces.
    """

    def __init__(self, name: str, folder: Path, device: torch.device) -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder)
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                folder,
                dtype=torch.float32 if device.type == "cpu" else "auto",
                device_map=device,
                output_loading_info=True,
            )
        # A damaged file surfaces as whatever its parser ran into: there is no common class to catch.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise MoguError(f"cannot load {name}: {reason}") from error
        self._model, report = loaded
        if not self._tokenizer.is_fast:  # others do not cut long texts into pieces
            raise MoguError(f"{name} has no fast tokenizer: give a guard with a tokenizer.json")
        if missing := sorted(report["missing_keys"]):
            raise MoguError(f"{name} is incomplete: {len(missing)} weights are not there ({missing[0]})")
        self._model.eval()
        config = self._model.config
        self._several = config.problem_type == "multi_label_classification"
        self._harmful = harmful_labels(config.id2label, self._several, name)
        self._longest = min(self._tokenizer.model_max_length, getattr(config, "max_position_embeddings", 512))
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        # Decoders classify by the last token before the padding.
        config.pad_token_id = self._tokenizer.pad_token_id

    @torch.no_grad()
    def verdicts(self, conversations: Sequence[Conversation], batch_size: int) -> list[Verdict]:
        texts = [
            (owner, message["content"])
            for owner, messages in enumerate(conversations)
            for message in messages
            if message["role"] in ("user", "tool")
        ]
        highest = [0.0] * len(conversations)
        for start in range(0, len(texts), batch_size):
            owners, contents = zip(*texts[start : start + batch_size], strict=True)
            inputs = self._tokenizer(
                list(contents),
                truncation=True,
                max_length=self._longest,
                return_overflowing_tokens=True,
                padding=True,
                return_tensors="pt",
            )
            pieces = inputs.pop("overflow_to_sample_mapping").tolist()
            logits = self._model(**inputs.to(self._model.device)).logits.float()
            for piece, score in zip(pieces, self._scores(logits), strict=True):
                highest[owners[piece]] = max(highest[owners[piece]], score)
        return [Verdict(score, 0) for score in highest]

    def _scores(self, logits: torch.Tensor) -> list[float]:
        """How likely each row ``(rows, labels)`` has a harmful label, 0 to 1."""
        if self._several:
            return logits.sigmoid()[:, self._harmful].amax(1).tolist()
        return logits.softmax(1)[:, self._harmful].sum(1).tolist()


def harmful_labels(labels: Mapping[int, str], several: bool, name: str) -> list[int]:
    """Which of a classifier's labels say that a text is harmful: by their names, or label 1 of two without names.

    Args:
        labels: names by index.
        several: whether a text can have more than one label at once, or none.
        name: what the user called the classifier.

    Raises:
        MoguError: If none does, or if a text has exactly one label and all do.
    """
    plain = {index: re.sub(r"[\W_]", "", label.lower()) for index, label in labels.items()}
    if plain == {0: "label0", 1: "label1"}:
        return [1]
    found = [index for index, label in plain.items() if _HARM.search(label)]
    if not found or (len(found) == len(labels) and not several):
        raise MoguError(
            f"the labels of {name} are {', '.join(labels.values())}: a guard has some that say unsafe, harmful, "
            "toxic, malicious, injection or jailbreak, and others that do not"
        )
    return found
