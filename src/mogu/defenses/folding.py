"""Conversations in the plainest form, for chat templates that take user and assistant in turns and nothing else."""

from mogu.chat import Conversation, Message


def folded(messages: Conversation) -> list[Message]:
    """The same texts in turns of user and assistant: other roles are the user's, neighbours of a role are one turn.

    Joined texts stand a blank line apart.
    """
    turns: list[Message] = []
    for message in messages:
        role, text = "assistant" if message["role"] == "assistant" else "user", message["content"]
        if turns and turns[-1]["role"] == role:
            text = f"{turns.pop()['content']}\n\n{text}"
        turns.append(Message(role=role, content=text))
    return turns
