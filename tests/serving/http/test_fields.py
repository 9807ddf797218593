"""Every field of OpenAI's requests is honoured, ignored or refused by name; any other one is refused."""

import json

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from mogu.serving.engine.job import Sampling
from mogu.serving.http.body import parse_body
from mogu.serving.http.faults import Fault
from mogu.serving.http.fields import ChatRequest, CompletionRequest

USER = {"role": "user", "content": "Hi"}


def chat(**fields):
    return parse_body(json.dumps({"model": "m", "messages": [USER]} | fields).encode(), ChatRequest)


def complete(**fields):
    return parse_body(json.dumps({"model": "m", "prompt": "Hi"} | fields).encode(), CompletionRequest)


def fault(parse, **fields):
    with pytest.raises(Fault) as caught:
        parse(**fields)
    assert caught.value.status == 400
    return caught.value


def test_every_field_of_openai_is_known():
    of_chat = chat_create_params.CompletionCreateParamsBase.__annotations__
    of_text = completion_create_params.CompletionCreateParamsBase.__annotations__
    assert set(of_chat) | {"stream"} <= set(ChatRequest.model_fields)
    assert set(of_text) | {"stream"} <= set(CompletionRequest.model_fields)


def test_nothing_is_known_beside_openais_fields_but_two_of_vllm():
    of_chat = {*chat_create_params.CompletionCreateParamsBase.__annotations__, "stream"}
    of_text = {*completion_create_params.CompletionCreateParamsBase.__annotations__, "stream"}
    assert set(ChatRequest.model_fields) - of_chat == {"add_generation_prompt", "continue_final_message"}
    assert set(CompletionRequest.model_fields) == of_text


@pytest.mark.parametrize("parse", [chat, complete])
@pytest.mark.parametrize(
    "name",
    [
        "threshold",
        "adapter",
        "mogu",
        "mode",
        "lora",
        "lora_request",
        "reply_threshold",
        "routed_tokens",
        "top_k",
    ],
)
def test_any_other_field_is_refused_by_its_name(parse, name):
    told = fault(parse, **{name: None})
    assert (told.param, told.code) == (name, "unknown_parameter")
    assert told.message == f"{name}: Unknown field."


IGNORED = [
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "parallel_tool_calls",
]  # fmt: skip


@pytest.mark.parametrize("name", IGNORED)
def test_what_changes_no_reply_is_ignored(name):
    for value in (None, True, "x", {"a": [1]}):
        assert chat(**{name: value}).sampling(8, 0) == Sampling(8)


REFUSED = {
    "audio": [{"voice": "ash", "format": "wav"}],
    "function_call": [{"name": "f"}],
    "functions": [[{"name": "f"}]],
    "modalities": [["text", "audio"], ["audio"]],
    "moderation": [{"model": "m"}],
    "prediction": [{"type": "content", "content": "x"}],
    "reasoning_effort": ["low", "high"],
    "response_format": [{"type": "json_object"}, {"type": "json_schema", "json_schema": {}}],
    "tool_choice": ["required", {"type": "function"}],
    "tools": [[{"type": "function"}]],
    "verbosity": ["low"],
    "web_search_options": [{}],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_a_reply_is_refused_by_its_name(name):
    for value in REFUSED[name]:
        told = fault(chat, **{name: value})
        assert (told.param, told.code) == (name, "unsupported_parameter")
        assert told.message.startswith(f"{name}: Not supported: ")
    chat(**{name: None})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", []),
        ("functions", []),
        ("tool_choice", "none"),
        ("tool_choice", "auto"),
        ("modalities", ["text"]),
        ("response_format", {"type": "text"}),
        ("reasoning_effort", "none"),
        ("verbosity", "medium"),
    ],
)
def test_of_those_a_value_that_asks_for_nothing_is_allowed(name, value):
    chat(**{name: value})


@pytest.mark.parametrize(
    ("name", "refused", "allowed"), [("echo", True, False), ("suffix", "end", ""), ("best_of", 2, 1)]
)
def test_the_same_of_raw_prompts(name, refused, allowed):
    assert fault(complete, **{name: refused}).param == name
    complete(**{name: allowed})
    complete(**{name: None})


def test_best_of_may_be_n():
    complete(best_of=2, n=2)
    assert fault(complete, best_of=1, n=2).param == "best_of"


def test_what_is_honoured_is_what_the_engine_is_asked_for():
    fields = {
        "temperature": 0,
        "top_p": 0.5,
        "seed": 7,
        "stop": ["a", "b"],
        "logit_bias": {"5": -100, "6": 1.5},
        "frequency_penalty": 0.5,
        "presence_penalty": -2,
    }
    for request in (chat(**fields, logprobs=True, top_logprobs=3), complete(**fields, logprobs=3)):
        assert request.sampling(9, 0) == Sampling(
            9, 0, 0.5, 7, ("a", "b"), {5: -100, 6: 1.5}, 0.5, -2, logprobs=3
        )
    assert chat().sampling(9, 0) == complete().sampling(9, 0) == Sampling(9)
    assert chat(stop="a").sampling(9, 0).stop == ("a",)
    assert chat(logprobs=True).sampling(9, 0).logprobs == 0
    assert chat(logprobs=False).sampling(9, 0).logprobs is None
    assert complete(logprobs=0).sampling(9, 0).logprobs == 0


def test_with_a_seed_each_reply_has_its_own():
    request = chat(seed=2**63 - 1, n=2)
    assert [request.sampling(9, choice).seed for choice in range(2)] == [2**63 - 1, 0]
    assert chat(n=2).sampling(9, 1).seed is None


def test_null_is_as_good_as_nothing():
    for name in set(ChatRequest.model_fields) - {"model", "messages"}:
        assert chat(**{name: None}).sampling(9, 0) == Sampling(9)
    for name in set(CompletionRequest.model_fields) - {"model", "prompt"}:
        assert complete(**{name: None}).sampling(9, 0) == Sampling(9)


def test_the_longest_reply():
    assert chat().longest is complete().longest is None
    assert (chat().usual_longest, complete().usual_longest) == (None, 16)
    assert chat(max_tokens=5).longest == chat(max_completion_tokens=5).longest == 5
    assert complete(max_tokens=5).longest == 5
    assert chat(max_tokens=5, max_completion_tokens=5).longest == 5
    assert fault(chat, max_tokens=5, max_completion_tokens=6).param == "max_tokens"


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "model": [None, 5, ["m"]],
        "temperature": [-0.1, 2.1, "1", True],
        "top_p": [0, 1.1, "1"],
        "n": [0, 1.5, "1", True],
        "max_tokens": [0, -1, 2.5, "5"],
        "seed": [1.5, 2**63, "5"],
        "stop": ["", [""], 5, ["a"] * 17, "a" * 257, [None]],
        "logit_bias": [{"5": 101}, {"x": 1}, {"-1": 1}, {"5": "1"}, [5]],
        "frequency_penalty": [2.5],
        "presence_penalty": [-2.5],
        "stream": ["yes", 1],
        "stream_options": [5, {"include_usage": 1}],
    }.items(),
)
@pytest.mark.parametrize("parse", [chat, complete])
def test_a_wrong_value_is_refused_by_the_fields_name(parse, name, values):
    for value in values:
        told = fault(parse, **{name: value})
        assert told.param.partition(".")[0] == name, value
        assert told.message.startswith(name)


def test_the_options_of_a_stream():
    assert chat(
        stream=True, stream_options={"include_usage": True, "include_obfuscation": False}
    ).include_usage
    assert not chat(stream=True, stream_options={}).include_usage
    assert fault(chat, stream_options={"threshold": 1}).param == "stream_options.threshold"


def test_likeliest_tokens_of_a_chat_need_logprobs():
    assert fault(chat, top_logprobs=2).param == "top_logprobs"
    assert fault(chat, top_logprobs=21, logprobs=True).param == "top_logprobs"
    assert fault(complete, logprobs=21).param == "logprobs"


def text_of(**message):
    return chat(messages=[USER, message]).messages[-1].text


def test_a_message_is_a_text_or_parts_of_text():
    assert text_of(role="user", content="a") == "a"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert text_of(role="user", content=parts) == "a\nb"
    assert text_of(role="user", content="") == ""
    assert text_of(role="tool", content="a", tool_call_id="1", name="f") == "a"


def test_an_assistants_reply_may_come_back_as_it_was():
    empty = {"annotations": None, "audio": None, "function_call": None, "tool_calls": None}
    assert text_of(role="assistant", content="a", refusal=None, **empty) == "a"
    assert text_of(role="assistant", content=None, refusal="no", tool_calls=[]) == "no"
    assert text_of(role="assistant", content=[{"type": "refusal", "refusal": "no"}]) == "no"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages[1].content",
        ),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[1].content"),
        ({"role": "user", "content": [{"type": "text", "text": "a", "more": 1}]}, "messages[1].content"),
        ({"role": "user", "content": ["a"]}, "messages[1].content"),
        ({"role": "user", "content": 5}, "messages[1].content"),
        ({"role": "user", "content": None}, "messages[1].content"),
        ({"role": "user"}, "messages[1].content"),
        ({"role": "assistant", "content": None}, "messages[1].content"),
        ({"role": "evil", "content": "a"}, "messages[1].role"),
        ({"role": "function", "content": "a", "name": "f"}, "messages[1].role"),
        ({"content": "a"}, "messages[1].role"),
        ({"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]}, "messages[1].tool_calls"),
        ({"role": "user", "content": "a", "threshold": 1}, "messages[1].threshold"),
        ("a", "messages[1]"),
    ],
)
def test_a_message_that_the_model_cannot_read_is_refused_with_its_place(message, param):
    told = fault(chat, messages=[USER, message])
    assert told.param == param
    assert told.message.startswith(f"{param}: ")


def test_there_is_at_least_one_message_and_not_any_number():
    assert fault(chat, messages=[USER] * 4097).param == "messages"
    assert fault(chat, messages=[]).param == fault(chat, messages="Hi").param == "messages"


def test_a_reply_is_continued_where_the_assistant_has_begun_it():
    begun = [USER, {"role": "assistant", "content": "Well"}]
    chat(messages=begun, continue_final_message=True)
    chat(messages=begun, continue_final_message=True, add_generation_prompt=False)
    chat(messages=begun)
    chat(add_generation_prompt=True)
    for fields, param in [
        ({"continue_final_message": True}, "continue_final_message"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"messages": begun, "add_generation_prompt": False}, "add_generation_prompt"),
        (
            {"messages": begun, "continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt",
        ),
    ]:
        assert fault(chat, **fields).param == param


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([5, 6], [[5, 6]]), ([[5], [6]], [[5], [6]]), ("", [""])],
)
def test_a_raw_prompt_is_text_or_token_ids(prompt, prompts):
    assert complete(prompt=prompt).prompt == prompts


@pytest.mark.parametrize(
    "prompt", [None, [], 5, {"a": 1}, ["a", 5], [5, "a"], [-1], [1.5], [[5], "a"], [True]]
)
def test_anything_else_is_no_prompt(prompt):
    assert fault(complete, prompt=prompt).param == "prompt"


def test_several_mistakes_are_told_at_once():
    told = fault(chat, temperature=5, threshold=1, **{f"x{number}": 1 for number in range(5)})
    assert told.message.startswith("temperature: ")
    assert "threshold: Unknown field." in told.message
    assert told.message.endswith(" and 2 more")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a": 1} x', "Extra data"),
        (b"[]", "it is no object"),
        (b"null", "it is no object"),
        (b"\xff", "byte 0 is not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "byte 7 is not UTF-8"),
        (b'{"a": "\\ud800"}', "half a surrogate pair"),
        (b'{"\\ud800": 1}', "half a surrogate pair"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": 1, "a": 1}', "the same key twice"),
        (b'{"a": ' + b"1" * 5000 + b"}", "more than 300 digits"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_a_body_that_is_no_json_is_told_so(body, reason):
    with pytest.raises(Fault, match=reason) as caught:
        parse_body(body, ChatRequest)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_whole_surrogate_pairs_and_numbers_beyond_any_float_are_read():
    assert chat(messages=[{"role": "user", "content": "\U0001f600"}]).messages[0].text == "\U0001f600"
    with pytest.raises(Fault, match="temperature: Input should be a finite number"):
        parse_body(
            b'{"model": "m", "messages": [{"role": "user", "content": ""}], "temperature": 1e999}',
            ChatRequest,
        )
