"""What the benchmarks of one hardened model share: its options, its replies on disk, and the log of figures."""

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.machine import facts
from mogu.chat import Conversation
from mogu.evaluation.before_after import ReplyRow, answer
from mogu.generation import Mode, MoguModel

LOG = Path(__file__).with_name("log.jsonl")


def parser_of(description: str | None, max_new_tokens: int) -> argparse.ArgumentParser:
    """The options that say which adapter is measured, and how long its replies are."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--adapter", type=Path, default=Path("runs/demo/adapter"))
    parser.add_argument("--base", default=None, help="other place of the base model")
    parser.add_argument("--max-new-tokens", type=int, default=max_new_tokens)
    parser.add_argument("--note", default="", help="what this candidate is")
    return parser


@dataclass
class Candidate:
    """An adapter that is measured.

    Attributes:
        model: the hardened model.
        digest: tells it from others.
        max_new_tokens: length of its replies.
        note: what it is.
        folder: where its replies stay.
        console: where its progress is shown.
    """

    model: MoguModel
    digest: str
    max_new_tokens: int
    note: str
    folder: Path
    console: Console

    @classmethod
    def of(cls, options: argparse.Namespace, folder: Path) -> "Candidate":
        """The one that the options of `parser_of` name; its replies stay in `folder`."""
        model = MoguModel.from_pretrained(options.adapter, base=options.base)
        digest = hashlib.sha256((options.adapter / "mogu_config.json").read_bytes()).hexdigest()[:12]
        return cls(model, digest, options.max_new_tokens, options.note, folder, Console())

    def answer(
        self, groups: dict[str, list[Conversation]], mode: Mode, name: str | None = None
    ) -> list[ReplyRow]:
        """The replies of one mode, kept under a name, by default the adapter's digest."""
        return answer(
            self.model,
            groups,
            modes=[mode],
            max_new_tokens=self.max_new_tokens,
            kept=self.folder / f"{name or self.digest}-{self.max_new_tokens}.jsonl",
            progress=lambda done, total: self.console.print(f"{done}/{total} replies"),
        )

    def log(self, figures: dict[str, Any]) -> None:
        """Add a line to the log: where the figures come from, and they themselves."""
        entry = {
            **facts(),
            "adapter": self.digest,
            "note": self.note,
            "max_new_tokens": self.max_new_tokens,
            **figures,
        }
        with LOG.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
