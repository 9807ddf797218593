"""The official client against a real server on loopback, and what the answers are made of."""

import json

import openai
import pytest

from mogu.serving.engine.job import Piece, TokenLogprob, Verdict
from tests.serving.http.fake import ANSWERED, REFUSED, FakeEngine, words
from tests.serving.http.live import NAME, served

TALK = [{"role": "user", "content": "Hi"}]
TEXT = "Hello there, friend."
SHOWN = {"score": 0.125, "threshold": 0.5, "reply_threshold": 0.625, "refused": False, "refused_from": None}
REFUSAL = {"score": 0.75, "threshold": 0.5, "reply_threshold": 0.625, "refused": True, "refused_from": 0}


@pytest.fixture(scope="module")
def live():
    with served(FakeEngine()) as client:
        yield client


@pytest.fixture(scope="module")
def client(live):
    return live.openai()


def test_the_models(client):
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == (NAME, "model", "mogu")
    assert client.models.retrieve(NAME) == model
    with pytest.raises(openai.NotFoundError, match=f"this server's is '{NAME}'"):
        client.models.retrieve("gpt/4")


def test_a_chat(client):
    reply = client.chat.completions.create(model=NAME, messages=TALK)
    assert (reply.object, reply.model) == ("chat.completion", NAME)
    assert reply.id.startswith("chatcmpl-")
    (choice,) = reply.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert choice.message.model_dump(exclude_none=True) == {"role": "assistant", "content": TEXT}
    assert reply.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 20,
        "completion_tokens": 4,
        "total_tokens": 24,
    }
    assert reply.model_extra["mogu"] == choice.model_extra["mogu"] == SHOWN


def test_a_chat_streamed(client):
    stream = client.chat.completions.create(model=NAME, messages=TALK, stream=True)
    chunks = list(stream)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    first, *middle, last = [chunk.choices[0] for chunk in chunks]
    assert (first.delta.role, first.delta.content, first.finish_reason) == ("assistant", "", None)
    assert [choice.delta.content for choice in middle] == ["Hello", " there,", " friend."]
    assert {choice.finish_reason for choice in middle} == {None}
    assert (last.delta.content, last.finish_reason) == (None, "stop")
    assert chunks[-1].model_extra["mogu"] == last.model_extra["mogu"] == SHOWN
    assert not any("mogu" in chunk.model_extra for chunk in chunks[:-1])
    assert not any(chunk.usage for chunk in chunks)


def test_a_stream_ends_with_the_usage_if_it_is_asked_for(client, live):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *rest, last = client.chat.completions.create(model=NAME, messages=TALK, **options)
    assert (last.choices, last.usage.total_tokens, last.model_extra["mogu"]) == ([], 24, SHOWN)
    assert not any(chunk.usage for chunk in rest)
    *rest, last = client.completions.create(model=NAME, prompt="Hi", **options)
    assert (last.choices, last.usage.total_tokens, last.model_extra["mogu"]) == ([], 6, SHOWN)
    events = live.chat("Hi", **options).text.split("\n\n")
    assert all(json.loads(event[6:])["usage"] is None for event in events[:-3])
    assert events[-2:] == ["data: [DONE]", ""]
    assert "usage" not in live.chat("Hi", stream=True).text
    assert "usage" not in live.chat("Hi", stream=True, stream_options={"include_usage": False}).text


def test_the_answers_of_a_stream_pass_proxies_unbuffered(live):
    headers = live.chat("Hi", stream=True).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")


def test_a_raw_prompt(client):
    reply = client.completions.create(model=NAME, prompt="Hi")
    assert (reply.object, reply.model, reply.id[:5]) == ("text_completion", NAME, "cmpl-")
    (choice,) = reply.choices
    assert (choice.index, choice.text, choice.finish_reason, choice.logprobs) == (0, TEXT, "stop", None)
    assert reply.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 2,
        "completion_tokens": 4,
        "total_tokens": 6,
    }
    assert reply.model_extra["mogu"] == choice.model_extra["mogu"] == SHOWN


def test_a_raw_prompt_streamed(client):
    chunks = list(client.completions.create(model=NAME, prompt="Hi", stream=True))
    assert [chunk.choices[0].text for chunk in chunks] == ["Hello", " there,", " friend.", ""]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert chunks[-1].model_extra["mogu"] == SHOWN
    assert not any("mogu" in chunk.model_extra for chunk in chunks[:-1])


def test_several_replies_to_several_prompts():
    def pieces(index, sampling):
        return words(f"reply {index}", REFUSED if index == 3 else ANSWERED)

    engine = FakeEngine(pieces)
    with served(engine) as live:
        reply = live.openai().completions.create(model=NAME, prompt=["a", "bb"], n=2, seed=5)
        assert [(each.index, each.text) for each in reply.choices] == [
            (index, f"reply {index}") for index in range(4)
        ]
        assert [ids for ids, _ in engine.jobs] == [[engine.jobs[0][0][0]]] * 2 + [engine.jobs[2][0]] * 2
        assert [sampling.seed for _, sampling in engine.jobs] == [5, 6, 7, 8]
        # Each prompt is counted once, whatever n is.
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (3, 12)
        assert [each.model_extra["mogu"] for each in reply.choices] == [SHOWN] * 3 + [REFUSAL]
        assert reply.model_extra["mogu"] == REFUSAL


def test_several_replies_streamed(client):
    texts, roles, ends = {}, [], []
    for chunk in client.chat.completions.create(model=NAME, messages=TALK, n=3, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
        roles += [choice.index] * (choice.delta.role == "assistant")
        ends += [choice.index] * (choice.finish_reason is not None)
    assert texts == dict.fromkeys(range(3), TEXT)
    assert sorted(roles) == sorted(ends) == [0, 1, 2]


def test_of_several_replies_the_first_refusal_speaks_for_all():
    verdicts = [
        Verdict(0.6, 0.5, 0.625, refused=True, refused_from=8),
        Verdict(0.9, 0.5, 0.625, refused=True, refused_from=3),
    ]
    with served(FakeEngine(lambda index, _: words("a", verdicts[index]))) as live:
        told = live.chat("Hi", n=2).json()["mogu"]
        assert told == {
            "score": 0.9,
            "threshold": 0.5,
            "reply_threshold": 0.625,
            "refused": True,
            "refused_from": 3,
        }


def test_without_a_gate_there_is_no_score():
    verdict = Verdict(None, None, None, refused=False, refused_from=None)
    with served(FakeEngine(lambda *_: words("a", verdict))) as live:
        none = {
            "score": None,
            "threshold": None,
            "reply_threshold": None,
            "refused": False,
            "refused_from": None,
        }
        assert live.chat("Hi").json()["mogu"] == none


def test_the_mogu_object_can_be_hidden():
    with served(FakeEngine(), with_mogu=False) as live:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        for ask in (live.chat, live.complete):
            assert ask("Hi").json()["choices"][0]["finish_reason"] == "stop"
            assert "mogu" not in ask("Hi").text.replace(NAME, "")
            assert "mogu" not in ask("Hi", **options).text.replace(NAME, "")


def test_logprobs_of_a_chat(client):
    options = {"model": NAME, "messages": TALK, "logprobs": True, "top_logprobs": 2}
    (choice,) = client.chat.completions.create(**options).choices
    hello, *_ = choice.logprobs.content
    assert [token.token for token in choice.logprobs.content] == ["Hello", " there,", " friend."]
    assert (hello.logprob, hello.bytes) == (-0.5, list(b"Hello"))
    # JSON has no minus infinity.
    assert [(top.token, top.logprob) for top in hello.top_logprobs] == [("Hello", -0.5), (" x", -9999.0)]
    chunks = list(client.chat.completions.create(**options, stream=True))
    streamed = [chunk.choices[0].logprobs for chunk in chunks]
    assert [each and each.content[0].token for each in streamed] == [
        None,
        "Hello",
        " there,",
        " friend.",
        None,
    ]


def test_logprobs_of_a_raw_prompt(client):
    (choice,) = client.completions.create(model=NAME, prompt="Hi", logprobs=1).choices
    told = choice.logprobs
    assert (told.tokens, told.token_logprobs) == (["Hello", " there,", " friend."], [-0.5] * 3)
    assert told.text_offset == [0, 5, 12]
    assert told.top_logprobs[1] == {" there,": -0.5, " x": -9999.0}
    chunks = list(client.completions.create(model=NAME, prompt="Hi", logprobs=1, stream=True))
    assert [chunk.choices[0].logprobs.text_offset for chunk in chunks] == [[0], [5], [12], []]


def test_offsets_are_characters_of_the_text_where_a_token_is_half_of_one():
    halves = [TokenLogprob("\ufffd", each, -1.0, ()) for each in (b"\xc3", b"\xa9")]
    last = TokenLogprob("x", b"x", -1.0, ())
    pieces = [Piece("é", 2, tuple(halves), ANSWERED, None), Piece("x", 3, (last,), ANSWERED, "length")]
    with served(FakeEngine(lambda *_: pieces)) as live:
        choice = live.complete("Hi", logprobs=0).json()["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == ("éx", "length")
        assert choice["logprobs"]["text_offset"] == [0, 0, 1]


def test_what_is_asked_reaches_the_engine():
    engine = FakeEngine()
    with served(engine) as live:
        client = live.openai()
        client.chat.completions.create(
            model=NAME, messages=TALK, temperature=0, top_p=0.5, max_completion_tokens=7, stop=["x"], seed=3,
            logit_bias={"5": -1}, frequency_penalty=1, presence_penalty=-1, user="me", store=True,
        )  # fmt: skip
        prompt, sampling = engine.jobs[0]
        assert (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.stop) == (
            0,
            0.5,
            7,
            ("x",),
        )
        assert (sampling.seed, sampling.logit_bias) == (3, {5: -1})
        assert (sampling.frequency_penalty, sampling.presence_penalty) == (1, -1)
        client.chat.completions.create(model=NAME, messages=TALK)
        # What neither the request nor the server bounds is bounded by the model; the default is not greedy.
        assert engine.jobs[1][1].max_tokens == engine.longest - len(prompt)
        assert engine.jobs[1][1].temperature == 1
        client.completions.create(model=NAME, prompt="Hi")
        assert engine.jobs[2][1].max_tokens == 16


def test_the_client_raises_what_the_server_says(client):
    with pytest.raises(openai.BadRequestError, match="threshold: Unknown field") as caught:
        client.chat.completions.create(model=NAME, messages=TALK, extra_body={"threshold": 1})
    assert (caught.value.param, caught.value.code) == ("threshold", "unknown_parameter")
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError, match="There is no model 'gpt' here") as caught:
        client.chat.completions.create(model="gpt", messages=TALK)
    assert caught.value.code == "model_not_found"


def test_a_reply_that_fails_is_an_error_of_the_server():
    pieces = [Piece("", 0, (), ANSWERED, "error", "no memory is left")]
    with served(FakeEngine(lambda *_: pieces)) as live:
        client = live.openai()
        for stream in (False, True):  # nothing has been sent yet
            with pytest.raises(openai.InternalServerError, match="no memory is left"):
                client.chat.completions.create(model=NAME, messages=TALK, stream=stream)


def test_a_stream_that_fails_ends_with_an_error_event():
    pieces = [*words("a b")[:2], Piece("", 2, (), ANSWERED, "error", "no memory is left")]
    with served(FakeEngine(lambda *_: pieces)) as live:
        stream = live.openai().chat.completions.create(model=NAME, messages=TALK, stream=True)
        seen = []
        with pytest.raises(openai.APIError, match="no memory is left"):
            seen += [chunk.choices[0].delta.content for chunk in stream]
        text = live.chat("Hi", stream=True).text
        assert '{"content": "a"}' in text
        assert json.loads(text.rstrip().split("\n\n")[-1][6:]) == {
            "error": {
                "message": "The reply failed: no memory is left",
                "type": "server_error",
                "param": None,
                "code": "engine_error",
            }
        }
