"""What docs/serving.md and docker/ say is what is there."""

import json
import re
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

from mogu.cli import app
from mogu.serving.http.app import make_app
from mogu.serving.http.faults import Fault
from mogu.serving.http.fields import ChatMessage, ChatRequest, CompletionRequest, StreamOptions
from mogu.serving.http.metrics import Metrics
from tests.serving.http.fake import FakeEngine, State
from tests.serving.http.live import NAME
from tests.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
CODE = set(re.findall(r"`([^`\n]+)`", PAGE))


def test_every_field_stands_in_the_docs_and_no_other():
    tables = PAGE.split("## Fields")[1].split("## Limits")[0]
    named = set(re.findall(r"`([a-z_]+)`", tables))
    fields = {*ChatRequest.model_fields, *CompletionRequest.model_fields, *StreamOptions.model_fields}
    of_messages = set(ChatMessage.model_fields)
    assert fields <= named
    values = {"text", "false", "developer", "system", "tool", "threshold", "adapter", "include_usage"}
    assert named - fields - of_messages <= values


def test_every_option_stands_in_the_docs_and_no_other():
    options = {option for each in get_command(app).commands["serve"].params for option in each.opts}
    named = set(re.findall(r"(?<![-\w])--[a-z][a-z-]+", PAGE))
    assert named - {"--rm", "--gpus", "--time", "--build-arg"} <= options
    common = {"--device", "--dtype", "--trust-remote-code", "--port", "--threshold", "--mode"}
    assert options - named - common == {"folder"}


def test_every_status_stands_in_the_docs():
    document = make_app(FakeEngine(), tiny_tokenizer(), NAME).openapi()
    statuses = set(document["paths"]["/v1/chat/completions"]["post"]["responses"]) - {"200"}
    assert set(re.findall(r"^\| (\d{3}) \|", PAGE, re.MULTILINE)) == statuses


def test_every_metric_stands_in_the_docs():
    families = text_string_to_metric_families(Metrics(lambda: State(0, 0)).text().decode())
    there = {family.name for family in families if family.name.startswith("mogu_")}
    named = {name.removesuffix("_total") for name in re.findall(r"`(mogu_\w+)[`{]", PAGE)}
    assert {name for name in there if not name.endswith("_created")} == named


def test_every_error_has_a_type_as_openai_has_them():
    for status in (400, 401, 404, 408, 413, 415, 429, 499, 500, 503, 504):
        error = Fault(status, "x", param="p", code="c").body["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert re.fullmatch("[a-z_]+", error["type"])


def test_the_log_line_in_the_docs_is_json():
    (block,) = re.findall(r"```json\n(.+?)```", PAGE, re.DOTALL)
    assert json.loads(block)["status"] == 200


@pytest.mark.parametrize("name", ["cpu", "cuda"])
class TestDockerfiles:
    @pytest.fixture
    def steps(self, name, tmp_path):
        parser = DockerfileParser(fileobj=(ROOT / "docker" / f"{name}.Dockerfile").open("rb"))
        return [(step["instruction"], step["value"]) for step in parser.structure]

    def of(self, steps, instruction):
        return [value for name, value in steps if name == instruction]

    def test_every_instruction_is_one(self, steps):
        known = {
            "FROM",
            "ARG",
            "RUN",
            "WORKDIR",
            "COPY",
            "USER",
            "ENV",
            "EXPOSE",
            "HEALTHCHECK",
            "ENTRYPOINT",
            "CMD",
        }
        assert {name for name, _ in steps if name != "COMMENT"} == known

    def test_the_user_is_not_root_when_the_server_starts(self, steps):
        order = [name for name, _ in steps]
        assert self.of(steps, "USER") == ["10001"]
        assert order.index("USER") > max(index for index, name in enumerate(order) if name == "RUN")

    def test_what_is_copied_is_there_and_not_ignored(self, steps):
        ignored = (ROOT / ".dockerignore").read_text().split()
        sources = [part for value in self.of(steps, "COPY") for part in value.split()[:-1]]
        assert sorted(f"!{source}" for source in sources) == sorted(ignored[1:])
        assert all((ROOT / source).exists() for source in sources)

    def test_the_health_check_asks_the_port_that_is_served(self, steps):
        (check,) = self.of(steps, "HEALTHCHECK")
        command = json.loads(check.split("CMD", 1)[1])
        assert command[:2] == ["python", "-c"]
        compile(command[2], "health", "exec")
        assert "http://127.0.0.1:8000/health" in command[2]
        assert self.of(steps, "EXPOSE") == ["8000"]

    def test_the_command_is_one_of_mogu(self, steps):
        (entry,), (arguments,) = (map(json.loads, self.of(steps, name)) for name in ("ENTRYPOINT", "CMD"))
        assert entry == ["mogu", "serve"]
        context = get_command(app).commands["serve"].make_context("serve", arguments)
        assert context.params["host"] == "0.0.0.0"
        assert context.params["keys"] is None  # so that it refuses to start without one in the environment

    def test_torch_is_the_one_that_the_makefile_pins(self, steps):
        (pinned,) = re.findall(r"torch==([\d.]+)", (ROOT / "Makefile").read_text())
        assert f"TORCH={pinned}" in self.of(steps, "ARG")
