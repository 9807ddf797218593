"""Conversations that every defense must answer."""

from mogu.chat import Message
from mogu.defenses.base import Talk


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def system(text: str) -> Message:
    return Message(role="system", content=text)


TALKS = [
    Talk([user("Tell me something of the sea and the stones in it, and then some more of the same.")]),
    Talk([system("Be brief."), user("Hello"), assistant("Hi there."), user("How is the weather?")]),
    Talk([user("Name an ant")], opener="Sure, the"),
]
"""Of unlike lengths and out of their order, with a system message, an earlier turn and an opener among them."""
