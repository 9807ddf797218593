"""Defenses and judges without a model, that remember what they were asked."""

import os
import signal
import threading
import time
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mogu.defenses import DEFENSES
from mogu.defenses.base import Answer, Defense, Host, Talk
from mogu.errors import MoguError
from mogu.evaluation.comparison import compare
from mogu.evaluation.rows import Comparison, Row
from mogu.evaluation.sets import Sample
from mogu.evaluation.tasks import Prompts
from mogu.judges.base import Judge, Judgement
from tests.defenses.hosts import tiny_host
from tests.defenses.talks import TALKS, user

WRONG = "wrong"
"""A text that holds it cannot be answered."""

ODD = "odd"
"""One that holds it cannot be judged."""


def text_of(talk: Talk) -> str:
    return talk.messages[-1]["content"]


class Echo(Defense):
    """Says the prompt and the opener again, with the length that it was asked for.

    Attributes:
        asked: all texts, over all of its kind.
        batches: how many talks each call had, and how many tokens they may have.
    """

    paper = "an echo"
    asked: list[str]
    batches: list[tuple[int, int]]

    def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
        self.batches.append((len(talks), max_new_tokens))
        self.asked += map(text_of, talks)
        if any(WRONG in text_of(talk) for talk in talks):
            raise MoguError("this cannot be answered")
        return [answer_of(talk, max_new_tokens) for talk in talks]


def answer_of(talk: Talk, max_new_tokens: int) -> Answer:
    text = f"{max_new_tokens}|{talk.opener}|{text_of(talk)}"
    return Answer(text, len(text), flagged="1" in text, score=len(text) / 1000)


def echo() -> type[Echo]:
    """A kind of its own, which has been asked nothing yet."""
    return type("OwnEcho", (Echo,), {"asked": [], "batches": []})


class Gate:
    """Holds up an echo's calls until it is opened.

    Attributes:
        entered: set when the first call is there.
    """

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    def hold(self) -> None:
        self.entered.set()
        assert self._opened.wait(60)


def held_echo(gate: Gate) -> type[Echo]:
    class Held(Echo):
        asked: list[str] = []  # noqa: RUF012
        batches: list[tuple[int, int]] = []  # noqa: RUF012

        def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
            gate.hold()
            return super().reply(talks, max_new_tokens)

    return Held


class Length(Judge):
    """Scores a reply by its length; says nothing of requests that hold "mute", and fails at those that are odd."""

    name = "length"

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    async def judge(self, request: str, reply: str) -> Judgement:
        self.seen.append((request, reply))
        if ODD in request:
            raise MoguError("nobody judges this")
        if "mute" in request:
            return Judgement(None, "no number")
        return Judgement({"score": float(len(reply))}, "counted")


class Harm(Length):
    """The same, of malicious prompts only."""

    name = "harm"
    label = "malicious"


MALICIOUS = Prompts(
    "malicious",
    [
        Sample("1", Talk([user("Name a thief")]), "plain", "Sure"),
        Sample("2", TALKS[1], "talk"),
        Sample("3", Talk([user("Name an ant")], "Sure, the"), "begun"),
    ],
)
BENIGN = Prompts("benign", [Sample("1", TALKS[0]), Sample("2", Talk([user("And a bee?")]))])
SETS = {"bad": MALICIOUS, "good": BENIGN}


def many(count: int, label: str = "malicious") -> Prompts:
    return Prompts(label, [Sample(str(number), Talk([user(f"Number {number}")])) for number in range(count)])


def timeless(rows: Sequence[Row]) -> list[Row]:
    return [replace(row, seconds=0.0) for row in rows]


def in_log(folder: Path) -> set[str]:
    """Ids of the samples that the one log below a folder holds, as it lies on the disk."""
    (log,) = folder.rglob("*.eval")
    with zipfile.ZipFile(log) as file:
        return {Path(name).name.split("_epoch")[0] for name in file.namelist() if name.startswith("samples/")}


KILLED_RUN = {"many": many(20)}
KILLED_AT = 4
"""Samples on the disk when the run is killed."""


def run_killed(folder: Path, host: Host) -> Comparison:
    return compare(host, ["echo"], KILLED_RUN, [Length()], max_new_tokens=7, folder=folder)


def be_killed(folder: str) -> None:
    """The run of a process that is killed by its defense when some of it is on the disk."""

    class Killing(Echo):
        asked: list[str] = []  # noqa: RUF012
        batches: list[tuple[int, int]] = []  # noqa: RUF012

        def reply(self, talks: Sequence[Talk], max_new_tokens: int) -> list[Answer]:
            if len(self.batches) == 2:
                for _ in range(6000):  # samples are written in another thread
                    if len(in_log(Path(folder) / "logs")) >= KILLED_AT:
                        os.kill(os.getpid(), signal.SIGKILL)
                    time.sleep(0.01)
            return super().reply(talks, max_new_tokens)

    DEFENSES["echo"] = Killing
    run_killed(Path(folder), tiny_host(Path(folder) / "work"))
