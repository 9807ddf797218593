import pytest

from mogu.defenses.base import Talk
from mogu.defenses.safety_prompt import SAFETY_PROMPT, SafetyPrompt
from tests.defenses.hosts import tiny_host
from tests.defenses.talks import TALKS, assistant, system, user
from tests.tiny import CHAT_TEMPLATE

REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE
)
DROPS_SYSTEM = CHAT_TEMPLATE.replace("in messages %}", "in messages if message['role'] != 'system' %}")


def test_the_safety_prompt_is_the_system_message_or_its_beginning(tmp_path):
    host = tiny_host(tmp_path)
    guided = [
        Talk([system(SAFETY_PROMPT), *TALKS[0].messages]),
        Talk([system(f"{SAFETY_PROMPT}\n\nBe brief."), *TALKS[1].messages[1:]]),
        Talk([system(SAFETY_PROMPT), *TALKS[2].messages], opener="Sure, the"),
    ]
    answers = SafetyPrompt(host).reply(TALKS, 5)
    assert answers == host.base_replies(guided, 5)
    assert answers != host.base_replies(TALKS, 5)


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, DROPS_SYSTEM])
def test_without_system_messages_it_begins_the_first_users_turn(tmp_path, monkeypatch, template):
    host = tiny_host(tmp_path)
    monkeypatch.setattr(host.mogu.tokenizer, "chat_template", template)
    guided = [
        Talk([user(f"{SAFETY_PROMPT}\n\n{TALKS[0].messages[0]['content']}")]),
        Talk(
            [
                user(f"{SAFETY_PROMPT}\n\nBe brief.\n\nHello"),
                assistant("Hi there."),
                user("How is the weather?"),
            ]
        ),
    ]
    assert SafetyPrompt(host).reply(TALKS[:2], 5) == host.base_replies(guided, 5)


def test_no_talks_no_answers(tmp_path):
    assert SafetyPrompt(tiny_host(tmp_path)).reply([], 5) == []
