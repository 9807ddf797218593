import io
import re
import sys

import pytest
from rich.console import Console

from mogu.adapter.folder import read_config
from mogu.cli.chat import _routing
from mogu.cli.console import printable
from mogu.generation import MoguModel, ReplyStream
from mogu.generation.reply import Reply


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


def test_a_command_that_is_none_shows_those_that_there_are(chat, conversations):
    _, _, err = chat("/help\nHi /help\n/exit\n")
    assert err.count("/new begins a new conversation, /quit ends the chat.") == 2
    assert conversations == [[("user", "Hi /help")]]


def test_the_mode_is_what_was_asked_for(chat):
    assert "safe 1.00, usable 0.00" in chat("Hi\n", "--mode", "safe")[1]
    assert "safe 0.00, usable 1.00" in chat("Hi\n", "--mode", "base")[1]


@pytest.fixture
def chat_by_sequence(mogu, sequence_folder):
    def run(text, *more):
        return mogu("chat", sequence_folder, "--max-new-tokens", 5, *more, stdin=io.StringIO(text))

    return run


def test_a_sequence_adapter_tells_score_threshold_and_decision_instead(chat_by_sequence, sequence_folder):
    model = MoguModel.from_pretrained(sequence_folder)
    (reply,) = model.reply([[{"role": "user", "content": "Hi"}]], max_new_tokens=5)
    assert reply.score > 0.52
    code, out, _ = chat_by_sequence("Hi\n")
    assert code == 0
    assert out.endswith(f"\ngate {reply.score:.2f} (threshold 0.52): refused\n\n")
    assert "usable" not in out


def test_another_threshold_is_what_decides(chat_by_sequence, sequence_folder):
    model = MoguModel.from_pretrained(sequence_folder)
    (base,) = model.reply([[{"role": "user", "content": "Hi"}]], mode="base", max_new_tokens=5)
    code, out, _ = chat_by_sequence("Hi\n", "--threshold", 0.99)
    assert code == 0
    score = re.search(r"gate (0\.\d\d) \(threshold 0\.99\): the base's reply\n", out)[1]
    assert out.startswith(printable(base.text))
    assert f"gate {score} (threshold 0.00): refused" in chat_by_sequence("Hi\n", "--threshold", 0)[1]


def test_where_no_gate_is_asked_there_is_no_score(chat_by_sequence):
    assert "\ngate not asked: refused\n" in chat_by_sequence("Hi\n", "--mode", "safe")[1]
    assert "\ngate not asked: the base's reply\n" in chat_by_sequence("Hi\n", "--mode", "base")[1]


def test_an_adapter_with_the_usable_variant_tells_who_answered(mogu, usable_folder):
    def told(*more):
        return mogu("chat", usable_folder, "--max-new-tokens", 5, *more, stdin=io.StringIO("Hi\n"))[1]

    assert "(threshold 0.99): the usable variant's reply\n" in told("--threshold", 0.99)
    assert "(threshold 0.00): refused\n" in told("--threshold", 0)
    assert "\ngate not asked: the usable variant's reply\n" in told("--mode", "usable")
    assert "\ngate not asked: the base's reply\n" in told("--mode", "base")


@pytest.mark.parametrize(
    ("threshold", "line"),
    [
        (None, "gate 0.93 (threshold 0.52, in the reply 0.90): refused"),
        (0.6, "gate 0.93 (threshold 0.60, in the reply 0.90): refused"),
        (0.92, "gate 0.93 (threshold 0.92, in the reply 0.92): refused"),
    ],
)
def test_a_gate_that_reads_replies_tells_both_thresholds(sequence_folder, threshold, line):
    gate = read_config(sequence_folder).gate.model_copy(update={"reply_threshold": 0.9})
    assert _routing(Reply("no", 4, 0.25, 0.75, 0.931), gate, threshold, "the base") == line


def test_a_token_adapter_refuses_a_threshold_before_anything_is_typed(chat, conversations):
    code, out, err = chat("Hi\n", "--threshold", 0.5)
    assert (code, out, conversations) == (2, "", [])
    assert "error: threshold belongs to sequence routing; this adapter routes token by token" in err


def test_markup_is_text_and_control_characters_never_reach_the_terminal(chat, monkeypatch):
    monkeypatch.setattr(ReplyStream, "__iter__", _writes("a[b]c[/b]\x1b[2J\td\n"))
    assert chat("Hi\n")[1].startswith("a[b]c[/b][2J\td\n")


def test_in_a_terminal_lines_break_between_words(chat, monkeypatch):
    monkeypatch.setattr(ReplyStream, "__iter__", _writes("A line that is longer than the terminal"))
    assert chat("Hi\n")[1].startswith("A line that is longer than the terminal\n")
    monkeypatch.setattr("mogu.cli.chat.out", Console(force_terminal=True, width=16, color_system=None))
    assert chat("Hi\n")[1].startswith("A line that is\nlonger than the\nterminal\n")


@pytest.mark.parametrize(
    ("tokens", "said"), [(5, "(cut at 5 tokens; --max-new-tokens gives more)\nsafe 0.50"), (4, "safe 0.50")]
)
def test_a_reply_that_was_cut_at_its_limit_is_told_of(chat, monkeypatch, tokens, said):
    def pieces(self):
        self.reply = Reply("Once", tokens, 0.5, 0.5)
        yield "Once"

    monkeypatch.setattr(ReplyStream, "__iter__", pieces)
    assert chat("Hi\n")[1].startswith(f"Once\n{said}")


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
