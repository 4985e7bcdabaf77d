"""What each protocol is run on, as a few options: the same on the command line and in a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from trimtab.data import load_pairs
from trimtab.errors import InputError
from trimtab.evaluation.concept_sources import ORGANISM, ConceptSet, load_concepts
from trimtab.evaluation.contenders import Contender, concepts_of
from trimtab.evaluation.goal_sources import GoalSources, organism_steerability, read_steerability
from trimtab.evaluation.prompt_sets import (
    PromptSet,
    backdoor_files,
    organism_backdoor,
    organism_refusal,
    refusal_files,
)
from trimtab.evaluation.protocols.faithfulness_data import (
    FaithfulnessData,
    faithfulness_files,
    organism_faithfulness,
)
from trimtab.evaluation.protocols.utility import UtilityData, UtilitySettings, load_utility


class Source(Protocol):
    """Where a protocol's data come from."""

    def load(self, settings: Any, contenders: Sequence[Contender]) -> Any:
        """The data.

        Args:
            settings: The protocol's.
            contenders: What will be compared on them.

        Raises:
            InputError: A file that cannot be read, or has not what the protocol needs.
            NetworkError: Something must be fetched and cannot be.
        """
        ...

    @property
    def is_organism(self) -> bool:
        """Whether they are of the built-in model's world, so that its exact judge can read the answers."""
        ...

    def beside(self, folder: Path) -> Source:
        """The same with its relative paths taken from a folder."""
        ...

    def smoked(self) -> Source:
        """A small one of the same protocol that needs no file."""
        ...


def _beside(folder: Path, name: str | None, words: Sequence[str] = ()) -> str | None:
    """A path taken from a folder; words that are no paths stay."""
    return name if name is None or name in words or Path(name).is_absolute() else str(folder / name)


@dataclass(frozen=True)
class AxbenchSource:
    """Concepts with their instructions.

    Args:
        concepts: `organism`, a folder of AxBench's layout, or a file of concepts.
        only: Names or numbers of those to take; none = all.
        prompts: Instructions a concept.
        instructions: A file of them, or `alpaca_eval`; None = that.
        place: Where a prompt that carries the concept asks for it: `system` or `user`.
        seed: Of what is drawn.
    """

    concepts: str = ORGANISM
    only: tuple[str, ...] = ()
    prompts: int = 10
    instructions: str | None = None
    place: str = "system"
    seed: int = 0

    @property
    def is_organism(self) -> bool:
        """Whether they are of the organism's world."""
        return self.concepts == ORGANISM

    def load(self, settings: Any, contenders: Sequence[Contender]) -> ConceptSet:
        """The concepts (see `load_concepts`): those that are named, else those that the contenders were made for."""
        if self.place not in ("system", "user"):
            raise InputError(f"place is {self.place!r}; allowed: system, user")
        return load_concepts(
            self.concepts,
            names=[str(name) for name in self.only or concepts_of(contenders)],
            prompts=self.prompts,
            instructions=self.instructions,
            place="user" if self.place == "user" else "system",
            seed=self.seed,
        )

    def beside(self, folder: Path) -> AxbenchSource:
        """The same with relative paths taken from a folder."""
        instructions = _beside(folder, self.instructions, ("alpaca_eval",))
        return replace(self, concepts=str(_beside(folder, self.concepts, (ORGANISM,))), instructions=instructions)

    def smoked(self) -> AxbenchSource:
        """The organism's, four instructions each."""
        return AxbenchSource(prompts=4)


@dataclass(frozen=True)
class RefusalSource:
    """Harmful prompts, harmless ones, and such as only look harmful.

    Args:
        harmful: `organism`, or a file.
        harmless: A file; None = the negative side of `harmful`.
        safe: A file.
        prompts: Most of each kind.
        seed: Of what is drawn.
    """

    harmful: str = ORGANISM
    harmless: str | None = None
    safe: str | None = None
    prompts: int = 100
    seed: int = 0

    @property
    def is_organism(self) -> bool:
        """Whether they are of the organism's world."""
        return self.harmful == ORGANISM

    def load(self, settings: Any, contenders: Sequence[Contender]) -> PromptSet:
        """The prompts."""
        if self.is_organism:
            if self.harmless is not None or self.safe is not None:
                raise InputError("the organism has harmless prompts of its own; give harmful a file too")
            return organism_refusal(self.prompts, self.seed)
        return refusal_files(self.harmful, self.harmless, self.safe).first(self.prompts)

    def beside(self, folder: Path) -> RefusalSource:
        """The same with relative paths taken from a folder."""
        harmful = str(_beside(folder, self.harmful, (ORGANISM,)))
        return replace(self, harmful=harmful, harmless=_beside(folder, self.harmless), safe=_beside(folder, self.safe))

    def smoked(self) -> RefusalSource:
        """The organism's, six of each."""
        return RefusalSource(prompts=6)


@dataclass(frozen=True)
class BackdoorSource:
    """Prompts with the trigger, without it, and in deployment.

    Args:
        trigger: `organism`, or a file.
        training: A file.
        deployment: A file.
        prompts: Most of each kind.
        seed: Of what is drawn.
    """

    trigger: str = ORGANISM
    training: str | None = None
    deployment: str | None = None
    prompts: int = 172
    seed: int = 0

    @property
    def is_organism(self) -> bool:
        """Whether they are of the organism's world."""
        return self.trigger == ORGANISM

    def load(self, settings: Any, contenders: Sequence[Contender]) -> PromptSet:
        """The prompts."""
        if self.is_organism:
            if self.training is not None or self.deployment is not None:
                raise InputError("the organism has prompts of its own for all conditions; give trigger a file too")
            return organism_backdoor(self.prompts, self.seed)
        if self.training is None:
            raise InputError("a file of prompts with the trigger needs one without it too; give training")
        return backdoor_files(self.trigger, self.training, self.deployment).first(self.prompts)

    def beside(self, folder: Path) -> BackdoorSource:
        """The same with relative paths taken from a folder."""
        return replace(
            self,
            trigger=str(_beside(folder, self.trigger, (ORGANISM,))),
            training=_beside(folder, self.training),
            deployment=_beside(folder, self.deployment),
        )

    def smoked(self) -> BackdoorSource:
        """The organism's, six of each."""
        return BackdoorSource(prompts=6)


@dataclass(frozen=True)
class UtilitySource:
    """Questions are named in the settings, so there is nothing to choose here."""

    is_organism: bool = False

    def load(self, settings: UtilitySettings, contenders: Sequence[Contender]) -> UtilityData:
        """The questions."""
        return load_utility(settings)

    def beside(self, folder: Path) -> UtilitySource:
        """The same."""
        return self

    def smoked(self) -> UtilitySource:
        """The same."""
        return self


@dataclass(frozen=True)
class SteerabilitySource:
    """Texts and goals.

    Args:
        texts: `organism`, or a file of texts to be rewritten.
        corpus: A file of texts that the goals' scales are read from; None = `texts`.
        goals: Of the organism: concepts; none = those that the contenders were made for.
        n: Source texts.
        seed: Of what is drawn.
    """

    texts: str = ORGANISM
    corpus: str | None = None
    goals: tuple[str, ...] = ()
    n: int = 48
    seed: int = 0

    @property
    def is_organism(self) -> bool:
        """Whether they are of the organism's world."""
        return self.texts == ORGANISM

    def load(self, settings: Any, contenders: Sequence[Contender]) -> GoalSources:
        """The texts with their goals."""
        if not self.is_organism:
            return read_steerability(Path(self.texts), None if self.corpus is None else Path(self.corpus), self.n)
        goals = self.goals or concepts_of(contenders)
        if not goals:
            return organism_steerability(n=self.n, seed=self.seed)
        return organism_steerability(goals, n=self.n, seed=self.seed)

    def beside(self, folder: Path) -> SteerabilitySource:
        """The same with relative paths taken from a folder."""
        texts = str(_beside(folder, self.texts, (ORGANISM,)))
        return replace(self, texts=texts, corpus=_beside(folder, self.corpus))

    def smoked(self) -> SteerabilitySource:
        """The organism's, six of them."""
        return SteerabilitySource(n=6)


@dataclass(frozen=True)
class FaithfulnessSource:
    """Material that has nothing to do with the concepts, and pairs that have.

    Args:
        prompts: `organism`, or a file of prompts of another kind.
        texts: A file of running texts, one each; None = none. The organism has none.
        pairs: Held-out contrast pairs, for preference and utility odds; None = not measured. The organism has its own.
        training: The pairs that the vectors were fitted to, for the stability of their directions; likewise.
        n: Most prompts, texts and pairs.
        seed: Of what is drawn.
    """

    prompts: str = ORGANISM
    texts: str | None = None
    pairs: str | None = None
    training: str | None = None
    n: int = 32
    seed: int = 0

    @property
    def is_organism(self) -> bool:
        """Whether they are of the organism's world."""
        return self.prompts == ORGANISM

    def load(self, settings: Any, contenders: Sequence[Contender]) -> FaithfulnessData:
        """The material."""
        if self.is_organism:
            return organism_faithfulness(concepts_of(contenders), self.n, self.seed)
        pairs, training = (
            None if source is None else {name: load_pairs(source, concept=name) for name in concepts_of(contenders)}
            for source in (self.pairs, self.training)
        )
        return faithfulness_files(self.prompts, self.texts, pairs, training, n=self.n)

    def beside(self, folder: Path) -> FaithfulnessSource:
        """The same with relative paths taken from a folder."""
        return replace(
            self,
            prompts=str(_beside(folder, self.prompts, (ORGANISM,))),
            texts=_beside(folder, self.texts),
            pairs=_beside(folder, self.pairs),
            training=_beside(folder, self.training),
        )

    def smoked(self) -> FaithfulnessSource:
        """The organism's, four of each."""
        return FaithfulnessSource(n=4)
