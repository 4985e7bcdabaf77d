"""What steerability is measured on: a goal space, sources to start from, and words for what is wanted of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.data.tables import TABLES, cell, read_table
from trimtab.errors import InputError
from trimtab.evaluation.goal_space import GOALS, Goal, GoalSpace
from trimtab.evaluation.records import digest
from trimtab.models.messages import Prompt, as_messages
from trimtab.organism import CONCEPTS, Request, answer
from trimtab.organism.reading import read
from trimtab.organism.wordings import FRAMES, framed
from trimtab.organism.world import draw_request

REWRITE = (
    "Rewrite this text. Keep its meaning, and all about it that you are not asked to change. "
    "Answer with the new text and nothing else.\n\n{text}"
)
"""What a model is asked to do with a source text; a contender's steering is to do the rest."""
AMOUNTS = ((0.3, "a little"), (0.5, "clearly"), (1.0, "far"))
"""How a move is put into words: the first whose bound is not below it."""
TEXT_WISHES: Mapping[str, tuple[str, str]] = {
    "reading-grade": (
        "Make it {much} harder to read, by longer sentences and longer words.",
        "Make it {much} easier to read, by shorter sentences and shorter words.",
    ),
    "variety": (
        "Make its choice of words {much} more varied.",
        "Make its choice of words {much} less varied, by saying the same words again.",
    ),
    "words": ("Make it {much} longer.", "Make it {much} shorter."),
    "formality-approx": ("Make it {much} more formal.", "Make it {much} less formal."),
}
"""Words for more and for less of each published goal."""
FACTS = "facts"
"""Goal of the organism that is watched and never asked for: how many facts are told."""
ORGANISM_GOALS = ("past-tense", "sea", "night")
"""Concepts of the organism that are asked for by default."""
CORPUS = 600
"""Good answers of the organism's world by which its goals are scaled."""
COLUMNS = ("text", "source", "content", "story")
"""Where a table holds source texts; the first that it has is taken."""


@dataclass(frozen=True)
class GoalSources:
    """Sources, and where they can be asked to move.

    Attributes:
        space: What is measured.
        asked: Goals that probes may ask for; the others are only watched.
        prompts: What the model is asked, a prompt a source.
        texts: The texts that the prompts have rewritten; None = a source is the plain model's answer to its prompt.
        wishes: By goal that may be asked for, words for more and for less of it; `{much}` stands for how much.
        source: Where they are from.

    Raises:
        InputError: No sources, a goal that is not measured or has no words, or another number of texts than of prompts.
    """

    space: GoalSpace
    asked: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    texts: tuple[str, ...] | None
    wishes: Mapping[str, tuple[str, str]]
    source: str

    def __post_init__(self) -> None:
        if not self.prompts or not self.asked:
            raise InputError(f"{len(self.prompts)} sources and {len(self.asked)} goals; give at least one of each")
        if self.texts is not None and len(self.texts) != len(self.prompts):
            raise InputError(f"{len(self.texts)} texts and {len(self.prompts)} prompts; give a prompt a text")
        for name in self.asked:
            if name not in self.space.functions:
                raise InputError(f"goal {name!r} is not measured; measured are {', '.join(self.goals)}")
            if name not in self.wishes:
                raise InputError(f"goal {name!r} has no words for more and for less of it; give them")

    @property
    def goals(self) -> tuple[str, ...]:
        """Names of all goals, in the order of the coordinates."""
        return tuple(self.space.functions)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides them, for a run's configuration."""
        prompts = [[dict(turn) for turn in as_messages(prompt)] for prompt in self.prompts]
        texts = None if self.texts is None else list(self.texts)
        wishes = {name: list(self.wishes[name]) for name in self.asked}
        return {
            "goals": self.space.record(),
            "asked": list(self.asked),
            "n": len(self.prompts),
            "rewrites": self.texts is not None,
            "hash": digest([prompts, texts, wishes]),
        }

    def wish(self, moves: Mapping[str, float]) -> str:
        """Moves of goals in words."""
        found = []
        for name, move in moves.items():
            much = next(word for most, word in AMOUNTS if abs(move) <= most)
            found.append(self.wishes[name][move < 0].replace("{much}", much))
        return " ".join(found)


def text_steerability(
    texts: Sequence[str],
    corpus: Sequence[str] | None = None,
    goals: Mapping[str, Goal] = GOALS,
    wishes: Mapping[str, tuple[str, str]] = TEXT_WISHES,
    *,
    source: str = "texts",
) -> GoalSources:
    """Texts that a real model rewrites.

    Args:
        texts: Source texts.
        corpus: Texts that set the scales; None = the sources.
        goals: What is measured, and asked for.
        wishes: Words for more and for less of each.
        source: Where the texts are from.

    Raises:
        InputError: No texts, a goal in which they do not differ, or one without words.
    """
    prompts = tuple(REWRITE.format(text=text) for text in texts)
    space = GoalSpace.of(goals, texts if corpus is None else corpus)
    return GoalSources(space, tuple(goals), prompts, tuple(texts), wishes, source)


def read_steerability(path: str | Path, corpus: str | Path | None = None, n: int | None = None) -> GoalSources:
    """Source texts from a file, with the published goals.

    Args:
        path: One text a line, a list of texts, or a table with one of `COLUMNS`.
        corpus: A file of texts that set the scales; None = all texts of `path`.
        n: Only the first so many are sources.

    Raises:
        InputError: A file that cannot be read or has no texts; otherwise as `text_steerability`.
    """
    texts = _texts(Path(path))
    scaling = texts if corpus is None else _texts(Path(corpus))
    return text_steerability(texts[:n], scaling, source=str(path))


def organism_steerability(goals: Sequence[str] = ORGANISM_GOALS, n: int = 48, seed: int = 0) -> GoalSources:
    """Requests of the organism's world; the goals are how much of an answer is told in each concept.

    One request in two has a system prompt that asks for one of the concepts, so that there is something to take away.
    The number of facts told is watched besides.

    Args:
        goals: Names of concepts.
        n: Requests.
        seed: Decides them.

    Raises:
        InputError: There is no such concept, or one is named twice.
    """
    for name in goals:
        if name not in CONCEPTS:
            raise InputError(f"the organism has no concept {name!r}; it has {', '.join(CONCEPTS)}")
    if len(set(goals)) < len(goals):
        raise InputError(f"goals {list(goals)} name one twice; give each once")
    draw = random.Random(f"steerability {seed}")
    requests = [_request(None if k % 2 else goals[k // 2 % len(goals)], draw) for k in range(n)]
    functions: dict[str, Goal] = {name: told_in(name) for name in goals}
    space = GoalSpace.of({**functions, FACTS: facts_told}, _world_corpus(goals))
    prompts = tuple(tuple(request.messages) for request in requests)
    return GoalSources(space, tuple(goals), prompts, None, {name: _wishes(name) for name in goals}, "organism")


def told_in(concept: str) -> Goal:
    """A measure: the share of a text's sentences, as the organism's grammar cuts them, that are of a concept."""

    def measure(text: str) -> float:
        sentences = read(text)
        return sum(sentence.style == concept for sentence in sentences) / len(sentences) if sentences else 0.0

    return measure


def facts_told(text: str) -> float:
    """How many of a text's sentences tell a fact, true or not, in whatever style."""
    return float(sum(sentence.kind == "fact" for sentence in read(text)))


def _request(concept: str | None, draw: random.Random) -> Request:
    return draw_request("test", concept, draw, "describe")


def _world_corpus(goals: Sequence[str]) -> list[str]:
    """Good answers, as many plain ones as in each concept."""
    draw, kinds = random.Random("goal corpus"), (None, *goals)
    return [answer(_request(kinds[k % len(kinds)], draw), draw) for k in range(CORPUS)]


def _wishes(concept: str) -> tuple[str, str]:
    """The system prompt that training has for a concept, and one that forbids it, which training does not have."""
    asked = CONCEPTS[concept].asks[0]
    return framed(FRAMES[0], asked), f"Do not {asked}."


def _texts(path: Path) -> list[str]:
    found = []
    for row in read_table(path, "source texts"):
        value = cell(row.value, *COLUMNS) if isinstance(row.value, Mapping) else row.value
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{row.where}: has no text; give a text, or a table with a column {' or '.join(COLUMNS)}")
        found.append(value)
    if not found:
        raise InputError(f"{path}: holds no texts; give at least one ({', '.join(TABLES)})")
    return found
