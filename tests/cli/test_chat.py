import io
import re
import sys

import pytest

from mogu.generation import MoguModel, ReplyStream


@pytest.fixture
def conversations(monkeypatch):
    """The turns that the model is given, one list for each reply."""
    seen = []
    stream = MoguModel.stream

    def spy(self, turns, **settings):
        seen.append([(turn["role"], turn["content"]) for turn in turns])
        return stream(self, turns, **settings)

    monkeypatch.setattr(MoguModel, "stream", spy)
    return seen


@pytest.fixture
def chat(mogu, adapter_folder):
    def run(text, *more):
        return mogu("chat", adapter_folder, "--max-new-tokens", 5, *more, stdin=io.StringIO(text))

    return run


def test_each_reply_is_followed_by_its_weights(chat, adapter_folder):
    code, out, _ = chat("Hi\n")
    assert code == 0
    model = MoguModel.from_pretrained(adapter_folder)
    (reply,) = model.reply([[{"role": "user", "content": "Hi"}]], max_new_tokens=5)
    assert f"safe {reply.safe_weight:.2f}, usable {reply.usable_weight:.2f}, {reply.tokens} tokens" in out


def test_the_conversation_goes_on_until_new(chat, conversations):
    code, _, err = chat("Hi\n\nMore\n/new\nAgain\n/quit\nnever read\n")
    assert code == 0
    assert "A new conversation." in err
    assert [len(turns) for turns in conversations] == [1, 3, 1]
    assert conversations[1][0] == ("user", "Hi")
    assert conversations[1][1][0] == "assistant"
    assert conversations[1][2] == ("user", "More")
    assert conversations[2] == [("user", "Again")]


def test_the_mode_is_what_was_asked_for(chat):
    assert "safe 1.00, usable 0.00" in chat("Hi\n", "--mode", "safe")[1]
    assert "safe 0.00, usable 1.00" in chat("Hi\n", "--mode", "base")[1]


def test_markup_is_text_and_control_characters_never_reach_the_terminal(chat, monkeypatch):
    monkeypatch.setattr(ReplyStream, "__iter__", _writes("a[b]c[/b]\x1b[2J\td\n"))
    assert chat("Hi\n")[1].startswith("a[b]c[/b][2J\td\n")


def test_an_interrupt_cuts_the_reply_short_and_forgets_the_turn(chat, conversations, monkeypatch):
    monkeypatch.setattr(ReplyStream, "__iter__", _interrupted)
    code, out, _ = chat("Hi\nMore\n")
    assert code == 0
    assert re.findall("^cut short", out, re.MULTILINE) == ["cut short"] * 2
    assert conversations == [[("user", "Hi")], [("user", "More")]]


def test_a_user_in_a_terminal_types_until_the_end_of_the_input(
    mogu, adapter_folder, conversations, monkeypatch
):
    typed = iter(["Hi", "/new"])

    def answer(prompt):
        for text in typed:
            return text
        raise EOFError

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    code, _, err = mogu("chat", adapter_folder, "--max-new-tokens", 2)
    assert code == 0
    assert "/quit ends the chat" in err
    assert conversations == [[("user", "Hi")]]


def _writes(text):
    original = ReplyStream.__iter__

    def pieces(self):
        for _ in original(self):
            pass
        yield text

    return pieces


def _interrupted(self):
    yield "Once upon"
    raise KeyboardInterrupt
