"""Whatever is sent, the server says what is wrong with it and lives on."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance

from mogu.serving.http.app import make_app
from mogu.serving.http.body import parse_body
from mogu.serving.http.faults import Fault
from mogu.serving.http.fields import ChatRequest, CompletionRequest
from mogu.serving.http.limits import Limits
from tests.serving.http.fake import FakeEngine
from tests.serving.http.live import NAME, served
from tests.tiny import tiny_tokenizer

SETTINGS = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}

APP = make_app(FakeEngine(), tiny_tokenizer(), NAME)
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)


@SCHEMA.parametrize()
@settings(max_examples=15, **SETTINGS)
def test_the_server_does_what_its_document_says(case):
    # What fits the document may still clash (a reply and a prompt that are too long together), which is a 400.
    case.call_and_validate(excluded_checks=[positive_data_acceptance])


FIELDS = [*ChatRequest.model_fields, *CompletionRequest.model_fields, "threshold", "", "\x00", "ü"]
TEXTS = st.one_of(
    st.text(max_size=20), st.sampled_from(["user", "assistant", "system", "text", NAME, "<|im_end|>"])
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | TEXTS
    | st.text(st.characters(categories=["Cs"]), min_size=1, max_size=2),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "5", "include_usage"]) | TEXTS, inner
        )
    ),
    max_leaves=12,
)
REQUESTS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6)
BASES = st.sampled_from(
    [{}, {"model": NAME, "messages": [{"role": "user", "content": "Hi"}]}, {"model": NAME, "prompt": "Hi"}]
)


@pytest.fixture(scope="module")
def live():
    with served(FakeEngine(places=1000), limits=Limits(body=20_000)) as client:
        yield client


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@settings(max_examples=150, **SETTINGS)
@given(base=BASES, fields=REQUESTS)
def test_any_json_is_answered_or_refused(live, path, base, fields):
    body = json.dumps(base | fields).encode()
    answer = live.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 404), body
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]


@settings(max_examples=150, **SETTINGS)
@given(body=st.binary(max_size=200), kind=st.sampled_from([ChatRequest, CompletionRequest]))
def test_any_bytes_are_read_or_refused(body, kind):
    with pytest.raises(Fault) as caught:
        parse_body(body, kind)
    assert caught.value.status == 400


@settings(max_examples=100, **SETTINGS)
@given(
    body=st.lists(
        st.sampled_from(
            ['{"', '"', "{", "}", "[", "]", ":", ",", "NaN", "1e999", "-", "null", "\\u", "d800", "model"]
        ),
        max_size=30,
    ).map("".join)
)
def test_anything_that_looks_like_json_is_read_or_refused(body):
    with pytest.raises(Fault) as caught:
        parse_body(body.encode(), ChatRequest)
    assert caught.value.status == 400


def test_the_server_lives(live):
    assert live.chat("Hi").status_code == live.complete("Hi").status_code == 200
