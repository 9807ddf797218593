"""Chat templates for models that ship none.

The forms are those of the models' own published code, without the beginning-of-sequence token, which is the
tokenizer's matter. Knows the model's name and nothing else of it.
"""

import logging

logger = logging.getLogger(__name__)

# https://github.com/lm-sys/FastChat: the "vicuna_v1.1" conversation
VICUNA = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}"
    "{% set system = 'A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user\\'s questions.' %}"
    "{% set turns = messages %}"
    "{% endif %}"
    "{{ system }}"
    "{% for message in turns %}"
    "{% if message['role'] == 'user' %}{{ ' USER: ' + message['content'] }}"
    "{% else %}{{ ' ASSISTANT: ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)

# https://huggingface.co/baichuan-inc/Baichuan2-7B-Chat: user_token_id 195 and assistant_token_id 196
BAICHUAN2 = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<reserved_106>' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<reserved_107>' }}{% endif %}"
    "{{ message['content'] }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<reserved_107>' }}{% endif %}"
)

# Falcon-instruct has no format of its own; this is the one it is used with.
PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% else %}{{ message['role'].capitalize() + ': ' + message['content'] }}{% endif %}"
    "{% if not loop.last %}{{ '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)


def fallback_template(name: str) -> str:
    """Choose a chat template for a model whose tokenizer has none; warns when that is a guess.

    Args:
        name: Hub id or path of the model.

    Returns:
        A jinja template.
    """
    lowered = name.lower()
    if "vicuna" in lowered:
        return VICUNA
    if "baichuan2" in lowered:
        return BAICHUAN2
    if "falcon" not in lowered:
        logger.warning(
            "%s has no chat template: using a plain 'User: ... Assistant:' form; "
            "give the right one with --chat-template FILE",
            name,
        )
    return PLAIN
