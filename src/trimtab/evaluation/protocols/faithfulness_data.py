"""What faithfulness is measured on: prompts that have nothing to do with a concept, running texts, contrast pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.data import PairSet, load_pairs
from trimtab.data.tables import cell, read_table
from trimtab.errors import InputError
from trimtab.evaluation.prompt_sets import INSTRUCTION
from trimtab.evaluation.records import digest
from trimtab.evaluation.traits import TRAITS, Task
from trimtab.models.messages import Prompt, as_messages

UNRELATED = "unrelated"
"""The kind of prompts where there is but one."""
TEXT = ("text", "story", "content", "document", "passage")
"""Columns in which a table holds running texts; the first that it has is taken."""


@dataclass(frozen=True, eq=False)
class FaithfulnessData:
    """What is read and answered, and the pairs of each concept.

    Attributes:
        prompts: By kind, prompts that have nothing to do with the concepts that are measured on them.
        texts: Running texts, as they stand.
        pairs: By concept, held-out contrast pairs for preference and utility odds; a concept may have none.
        training: By concept, the pairs that a vector is fitted on again for its stability; likewise.
        source: Where all this is from.
        kinds: Which kind of prompts a concept is measured on; the first of `prompts` where it is not said.

    Raises:
        InputError: No prompts, or a kind that has none.
    """

    prompts: Mapping[str, tuple[Prompt, ...]]
    texts: tuple[str, ...] = ()
    pairs: Mapping[str, PairSet] = field(default_factory=dict)
    training: Mapping[str, PairSet] = field(default_factory=dict)
    source: str = "given"
    kinds: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.prompts or not all(self.prompts.values()):
            raise InputError("there are no unrelated prompts, or a kind without any; give at least one of each kind")
        for concept, kind in self.kinds.items():
            if kind not in self.prompts:
                raise InputError(f"{concept}: no prompts are of the kind {kind!r}; there are {', '.join(self.prompts)}")

    def kind(self, concept: str | None) -> str:
        """The kind of prompts that a concept is measured on."""
        return self.kinds.get(str(concept), next(iter(self.prompts)))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides it, for a run's configuration."""
        turns = {
            kind: [[dict(turn) for turn in as_messages(prompt)] for prompt in prompts]
            for kind, prompts in self.prompts.items()
        }
        return {
            "n": {**{kind: len(prompts) for kind, prompts in self.prompts.items()}, "texts": len(self.texts)},
            "hash": digest({"prompts": turns, "texts": list(self.texts)}),
            "kinds": dict(self.kinds),
            "pairs": {concept: pairs.content_hash for concept, pairs in self.pairs.items()},
            "training": {concept: pairs.content_hash for concept, pairs in self.training.items()},
        }


def organism_faithfulness(concepts: Sequence[str], n: int, seed: int = 0) -> FaithfulnessData:
    """Data from the organism's world, held out.

    Args:
        concepts: Traits of it. Styles are measured on allowed requests for instructions, kinds of refusal on plain
            questions.
        n: Prompts of a kind, and pairs of a concept.
        seed: Decides the prompts.

    Raises:
        InputError: Something that is no trait, or no prompts.
    """
    if strange := [concept for concept in concepts if concept not in TRAITS]:
        raise InputError(f"the organism has no concept {strange[0]!r}; it has {', '.join(TRAITS)}")
    if not concepts or n < 1:
        raise InputError(f"{len(concepts)} concepts with {n} prompts; give one of each or more")
    kinds = {concept: "questions" if concept.startswith("refusal") else "instructions" for concept in concepts}
    other = {"questions": "sea", "instructions": "refusal"}
    prompts = {kind: _distinct(Task.of(other[kind], n, seed + 1)) for kind in dict.fromkeys(kinds.values())}
    return FaithfulnessData(
        prompts,
        pairs={concept: load_pairs(f"{concept}-test")[:n] for concept in concepts},
        training={concept: load_pairs(concept) for concept in concepts},
        source="organism",
        kinds=kinds,
    )


def _distinct(task: Task) -> tuple[Prompt, ...]:
    """The prompts that are free of a trait, each once: a prompt drawn twice says nothing twice."""
    found = {(request.system, request.user): request.messages for request in task.free}
    return tuple(found.values())


def faithfulness_files(
    prompts: str | Path,
    texts: str | Path | None = None,
    pairs: Mapping[str, PairSet] | None = None,
    training: Mapping[str, PairSet] | None = None,
    *,
    n: int | None = None,
) -> FaithfulnessData:
    """Data from files.

    Args:
        prompts: Prompts that have nothing to do with any of the concepts: one a line, a list, a table.
        texts: Running texts, likewise.
        pairs: As of `FaithfulnessData`.
        training: Likewise.
        n: At most the first so many of prompts, texts, and pairs of a concept.

    Raises:
        InputError: A file that cannot be read, or that holds something else.
    """
    asked: list[Prompt] = [*_column(Path(prompts), "prompts", INSTRUCTION)][:n]
    read: list[Prompt] = [] if texts is None else [*_column(Path(texts), "texts", TEXT)][:n]
    for prompt in asked:
        try:
            as_messages(prompt)
        except InputError as error:
            raise InputError(f"{prompts}: {error}") from error
    if not asked:
        raise InputError(f"{prompts}: holds no prompts; give at least one")
    if strange := next((text for text in read if not isinstance(text, str)), None):
        raise InputError(f"{texts}: a running text is a {type(strange).__name__}; give plain texts")
    return FaithfulnessData(
        {UNRELATED: tuple(asked)},
        tuple(str(text) for text in read),
        {concept: each[:n] for concept, each in (pairs or {}).items()},
        training or {},
        ", ".join(str(path) for path in (prompts, texts) if path is not None),
    )


def _column(path: Path, what: str, names: Sequence[str]) -> Iterator[Prompt]:
    """The texts of a list, or of the first of these columns that a table has."""
    for row in read_table(path, what):
        value = cell(row.value, *names) if isinstance(row.value, Mapping) else row.value
        if not value or not isinstance(value, str | list):
            raise InputError(
                f"{row.where}: has no {what}; give a text a line, or name its column one of {', '.join(names)}"
            )
        yield value
