from mogu.chat import Message
from mogu.defenses.base import Talk
from mogu.defenses.self_reminder import AFTER, BEFORE, SelfReminder
from tests.defenses.hosts import tiny_host
from tests.defenses.talks import TALKS, user


def reminded(text):
    return user(f"{BEFORE}\n\n{text}\n\n{AFTER}")


def test_reminders_stand_around_the_last_users_text_and_the_rest_stays(tmp_path):
    host = tiny_host(tmp_path)
    expected = [
        Talk([reminded(TALKS[0].messages[0]["content"])]),
        Talk([*TALKS[1].messages[:-1], reminded("How is the weather?")]),
        Talk([reminded("Name an ant")], opener="Sure, the"),
    ]
    answers = SelfReminder(host).reply(TALKS, 5)
    assert answers == host.base_replies(expected, 5)
    assert answers != host.base_replies(TALKS, 5)


def test_what_a_tool_said_is_not_wrapped(tmp_path):
    host = tiny_host(tmp_path)
    tool = Message(role="tool", content="12 degrees")
    talks = [Talk([user("Warm?"), tool]), Talk([tool])]
    expected = [Talk([reminded("Warm?"), tool]), Talk([tool])]
    assert SelfReminder(host).reply(talks, 5) == host.base_replies(expected, 5)


def test_the_callers_conversation_is_not_changed(tmp_path):
    messages = [user("Hello")]
    SelfReminder(tiny_host(tmp_path)).reply([Talk(messages)], 2)
    assert messages == [{"role": "user", "content": "Hello"}]


def test_no_talks_no_answers(tmp_path):
    assert SelfReminder(tiny_host(tmp_path)).reply([], 5) == []
