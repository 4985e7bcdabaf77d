"""The turns of a conversation, as every room hands them to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimtab.errors import InputError

Message = Mapping[str, str]
"""One turn: `{"role": "system" | "user" | "assistant", "content": text}`."""

Prompt = str | Sequence[Message]
"""A text, which is one user turn, or the turns themselves."""

ROLES = ("system", "user", "assistant")
"""The roles that a message may have."""


def as_messages(prompt: Prompt) -> tuple[Message, ...]:
    """The turns of a prompt, checked: known roles, texts as contents, at least one user turn.

    Raises:
        InputError: What is wrong with which turn.
    """
    if isinstance(prompt, str):
        return ({"role": "user", "content": prompt},)
    if isinstance(prompt, Mapping) or not isinstance(prompt, Sequence):
        raise InputError(f"a prompt is a {type(prompt).__name__}; give a text or a list of {{role, content}}")
    for number, message in enumerate(prompt, 1):
        if not isinstance(message, Mapping):
            raise InputError(f"turn {number} is a {type(message).__name__}; give {{role, content}}")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise InputError(f"turn {number} has no text under {key!r}; give {{role, content}}")
        if message["role"] not in ROLES:
            raise InputError(f"turn {number} has the role {message['role']!r}; allowed: {', '.join(ROLES)}")
    if not any(message["role"] == "user" for message in prompt):
        raise InputError("a prompt has no user turn; give at least one message with the role 'user'")
    return tuple(prompt)


def split_system(messages: Sequence[Message]) -> tuple[list[str], list[Message]]:
    """The system texts that say something, and the other turns."""
    system = [message["content"] for message in messages if message["role"] == "system" and message["content"]]
    return system, [message for message in messages if message["role"] != "system"]


def with_system(messages: tuple[Message, ...], system: str) -> tuple[Message, ...]:
    """Puts a system text in front; one that the turns begin with comes behind it, after a blank line."""
    if messages[0]["role"] == "system":
        return ({"role": "system", "content": f"{system}\n\n{messages[0]['content']}"}, *messages[1:])
    return ({"role": "system", "content": system}, *messages)
