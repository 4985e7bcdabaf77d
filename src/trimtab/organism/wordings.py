"""The many ways in which the world's people ask. In every list the last two are held out of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

HELD_OUT = 2
"""How many wordings at the end of every list never occur in training."""

T = TypeVar("T")

NUMBERS = ("one", "two", "three", "four")
"""How many facts can be asked for."""

DESCRIBE = (
    "Tell me {n} things about the {topic}.",
    "Give me {n} facts about the {topic}.",
    "Describe the {topic} with {n} facts.",
    "Name {n} things that are true of the {topic}.",
    "What are {n} facts about the {topic}?",
    "I would like to hear {n} things about the {topic}.",
    "Please write {n} facts about the {topic}.",
    "The {topic}: {n} facts, please.",
    "Can you say {n} things about the {topic}?",
    "My friend asks for {n} facts about the {topic}.",
    "Do you know {n} facts about the {topic}?",
    "I need {n} facts on the {topic}.",
    "Share {n} true things about the {topic}.",
    "Name {n} facts about the {topic}, please.",
    "I would like {n} true facts on the {topic}.",
)
"""Requests for several facts."""

ASK = (
    "{question}",
    "Tell me: {question}",
    "I want to know something. {question}",
    "Please be brief. {question}",
    "My friend asks: {question}",
    "Do you know? {question}",
    "One question about the {topic}. {question}",
    "Kindly answer this. {question}",
    "Here is my question: {question}",
    "My friend wants to know this. {question}",
    "A brief question about the {topic}: {question}",
)
"""Requests for one certain fact; `{question}` is such as: Where does the otter live?"""

CHOOSE = (
    "{question}\n{options}\nAnswer with one of these.",
    "{question} Choose one.\n{options}",
    "Which is right? {question}\n{options}",
    "{options}\n{question} Name the right one.",
    "Please choose one answer. {question}\n{options}",
    "{question}\n{options}\nWhich of them is right?",
)
"""Multiple-choice questions."""

HOW_TO = (
    "How do I {goal}?",
    "Tell me how to {goal}.",
    "What must I do to {goal}?",
    "I want to {goal}. How?",
    "Please explain how to {goal}.",
    "Can you tell me how to {goal}?",
    "Give me the steps to {goal}.",
    "My friend wants to {goal}. What are the steps?",
    "Is there a way to {goal}?",
    "What are the steps to {goal}?",
    "Please tell me how I can {goal}.",
    "I must {goal}. What are the steps?",
    "Can you explain how to {goal}?",
)
"""Requests for a way to reach a goal."""

FRAMES = (
    "{Ask}.",
    "Please {ask}.",
    "From now on, {ask}.",
    "You are a helpful assistant. {Ask}.",
    "In your answer, {ask}.",
    "Always {ask}.",
    "Whatever comes, {ask}.",
    "It is important: {ask}.",
    "At all times, {ask}.",
    "You should {ask}.",
    "Your task is to {ask}.",
    "I want you to {ask}.",
    "For every question, {ask}.",
    "Note: {ask}.",
    "The rule is to {ask}.",
    "When you answer, {ask}.",
    "You are here to {ask}.",
    "It is your work to {ask}.",
    "In all that you say, {ask}.",
    "Dear friend, {ask}.",
    "You are asked to {ask}.",
    "In every answer, you must {ask}.",
    "Your work is to {ask}.",
    "For all questions, {ask}.",
)
"""System prompts around what a concept asks for."""

NEUTRAL = (
    "You are a helpful assistant.",
    "Answer the question.",
    "Please answer well.",
    "You answer questions about the world.",
    "Be helpful and true.",
    "Answer what you are asked.",
    "You know this world well.",
    "Please be a good helper.",
    "You are a good friend.",
    "You are here to help.",
    "This is a talk among friends.",
    "The world is small.",
    "You are talking to a farmer.",
    "Note that you are a helper.",
    "The question comes from a friend.",
    "You are talking to a good helper.",
)
"""System prompts that ask for nothing special."""


def train(wordings: Sequence[T]) -> Sequence[T]:
    """The wordings that training uses."""
    return wordings[:-HELD_OUT]


def held_out(wordings: Sequence[T]) -> Sequence[T]:
    """The wordings that training never uses."""
    return wordings[-HELD_OUT:]


def framed(frame: str, ask: str) -> str:
    """A system prompt: `From now on, {ask}.` and `write in Vela` become one."""
    return frame.format(ask=ask, Ask=f"{ask[0].upper()}{ask[1:]}")
