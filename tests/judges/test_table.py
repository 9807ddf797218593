"""The table of judges and making them by name."""

import asyncio
import subprocess
import sys

import pytest

from mogu.errors import MoguError
from mogu.judges.asking import AskingJudge
from mogu.judges.base import Judgement
from mogu.judges.endpoint import EndpointOptions
from mogu.judges.table import JUDGES, make_judges
from tests.judges.chat_server import says, serving
from tests.judges.test_classifier import save_classifier

LOCAL = EndpointOptions("http://localhost:1/v1", "tiny")


def test_every_judge_is_made_and_judges(tmp_path):
    save_classifier(tmp_path)
    grades = {name: 1 for kind in JUDGES.values() if issubclass(kind, AskingJudge) for name in kind.scales}

    async def run(options):
        judges = make_judges(
            [f"{name}:{tmp_path}" if name == "classifier" else name for name in JUDGES], options
        )
        found = {one.name: await one.judge("How?", "I can't help with that.") for one in judges}
        for one in judges:
            await one.close()
        return found

    with serving(says(str(grades).replace("'", '"'))) as server:
        found = asyncio.run(run(EndpointOptions(server.url, "tiny")))
    assert list(found) == list(JUDGES)
    assert all(judgement.scores for judgement in found.values())
    assert found["refusal"] == Judgement({"opens": 1.0, "holds": 1.0}, "refused")
    assert found["strongreject"].scores["score"] == 0


def test_judges_that_ask_share_one_endpoint():
    first, _, second = make_judges(["usability", "refusal", "harmfulness"], LOCAL)
    assert first.endpoint is second.endpoint


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["gpt"],
            "no judge is called 'gpt'; there are refusal, strongreject, harmfulness, usability, classifier",
        ),
        ([""], "no judge is called ''"),
        (["refusal", "refusal"], "refusal is named more than once"),
        (["classifier:a", "classifier:b"], "classifier is named more than once"),
        (["classifier"], "classifier needs a hub id or folder after a colon"),
        (["refusal:strict"], "refusal takes no colon"),
    ],
)
def test_names_that_lead_nowhere(names, message):
    with pytest.raises(MoguError, match=message):
        make_judges(names, LOCAL)


def test_without_an_endpoint_only_the_others_are_made():
    assert [one.name for one in make_judges(["refusal"])] == ["refusal"]
    with pytest.raises(MoguError, match="usability asks a model"):
        make_judges(["refusal", "usability"])


def test_the_table_imports_neither_openai_nor_torch():
    code = "import sys, mogu.judges.table; print({'openai', 'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
