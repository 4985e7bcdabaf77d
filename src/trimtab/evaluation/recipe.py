"""A recipe: a YAML file that says which vectors are made and what is checked about them, so that one command does it.

    title, paper, hardware, cost, published, notes    for people: printed before anything is done
    model       name, and perhaps dtype, revision, source_tokens, blocks, family
    pairs       contrast data: a built-in name, a path, hub:owner/name; {concept} stands for the concept's name
    concepts    names or numbers; none = all that the pairs have
    contenders  label: {method, layer, settings, calibrate, scale, pairs, concepts, multipliers, prefix}
    evaluations name: {protocol, contenders, data, settings, judge}

Running one is `trimtab.evaluation.recipe_run`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from trimtab.errors import InputError
from trimtab.evaluation.contenders import PLAIN
from trimtab.evaluation.evaluate import find_protocol
from trimtab.evaluation.recipe_specs import (
    CONCEPT,
    ContenderSpec,
    EvaluationSpec,
    JudgeSpec,
    ModelSpec,
    PairsSpec,
    read_concepts,
    read_contender,
    read_evaluation,
    read_model,
    read_pairs,
)
from trimtab.methods.registry import find_method
from trimtab.models.tiny import FAMILIES, make_tiny_model

T = TypeVar("T")

FOR_PEOPLE = ("title", "paper", "hardware", "cost", "published", "notes")
KEYS = (*FOR_PEOPLE, "model", "pairs", "concepts", "contenders", "evaluations")
VECTORS, MODEL, PAGE, CACHE = "vectors", "model", "report.html", "judge-cache"
"""What the folder of a recipe holds besides its evaluations."""
SMOKE_CONCEPTS, SMOKE_LAYERS, SMOKE_MULTIPLIERS = ("sea", "past-tense"), 4, 2
SMOKE_TRAITS = ("refusal", "backdoor")
"""Protocols that are about a concept of the same name."""
SMOKE_SETTINGS: Mapping[str, Any] = {"epochs": 1, "batch_size": 4, "max_response_tokens": 8}
"""Of every method that has them."""
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 ._@+-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Recipe:
    """All of it; see the module.

    Attributes:
        about: What is for people, by key of `FOR_PEOPLE`.
        model: Which model.
        pairs: Where contrast data come from.
        concepts: Names or numbers.
        contenders: By label.
        evaluations: By name, which is also that of its folder.
    """

    about: Mapping[str, Any]
    model: ModelSpec
    pairs: PairsSpec
    concepts: tuple[str, ...]
    contenders: Mapping[str, ContenderSpec]
    evaluations: Mapping[str, EvaluationSpec]

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """A recipe from its file.

        Raises:
            InputError: No YAML, an unknown key, method, protocol or setting, a value of the wrong type, or a label that
                is not there.
        """
        path = Path(path)
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())}); give a recipe") from error
        if not isinstance(found, dict):
            raise InputError(f"{path}: holds no keys and values; give a recipe")
        try:
            return cls.of(found)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    @classmethod
    def of(cls, found: Mapping[Any, Any]) -> Recipe:
        """A recipe from what its file holds; see `read`."""
        if strange := [key for key in found if key not in KEYS]:
            raise InputError(f"unknown key {strange[0]!r} (allowed: {', '.join(KEYS)})")
        for key in ("model", "pairs", "contenders", "evaluations"):
            if not found.get(key):
                raise InputError(f"{key} is missing; a recipe says model, pairs, contenders and evaluations")
        recipe = cls(
            {key: found[key] for key in FOR_PEOPLE if key in found},
            read_model("model", found["model"]),
            read_pairs("pairs", found["pairs"]),
            read_concepts("concepts", found.get("concepts")),
            _named("contenders", found["contenders"], read_contender, (PLAIN,)),
            _named("evaluations", found["evaluations"], read_evaluation, (VECTORS, MODEL, PAGE, CACHE)),
        )
        recipe.check()
        return recipe

    def check(self) -> None:
        """Raise InputError for what could be found out before any work, and would end it later."""
        for label, one in self.contenders.items():
            _within(f"contenders.{label}", lambda one=one: one.check(self.model.blocks))
        for name, one in self.evaluations.items():
            _within(f"evaluations.{name}", one.check)
            if missing := sorted(set(one.contenders) - set(self.contenders)):
                raise InputError(f"evaluations.{name}: there is no contender {missing[0]!r}")

    def beside(self, folder: Path) -> Recipe:
        """The same with relative paths of data taken from a folder."""
        return replace(
            self,
            pairs=self.pairs.beside(folder),
            contenders={
                label: replace(one, pairs=None if one.pairs is None else one.pairs.beside(folder))
                for label, one in self.contenders.items()
            },
            evaluations={
                name: replace(one, data=dataclasses.asdict(one.source.beside(folder)))  # pyright: ignore[reportArgumentType]
                for name, one in self.evaluations.items()
            },
        )

    def smoked(self, folder: Path) -> Recipe:
        """A small one that runs the same fits and protocols on a tiny random model of the same family, without files.

        Args:
            folder: Where the tiny model is made.

        Raises:
            InputError: The recipe names no family.
        """
        family = self.model.family
        if family is None or family not in FAMILIES:
            raise InputError(f"model.family is {family!r}; a smoke run needs one of {', '.join(FAMILIES)}")
        if not (folder / "config.json").exists():
            make_tiny_model(folder, family=family, n_blocks=SMOKE_LAYERS, overwrite=True)
        return replace(
            self,
            model=ModelSpec(str(folder)),
            pairs=PairsSpec(CONCEPT),
            concepts=(),
            contenders={label: self._smoked_contender(label, one) for label, one in self.contenders.items()},
            evaluations={
                name: replace(
                    one,
                    data=dataclasses.asdict(one.source.smoked()),  # pyright: ignore[reportArgumentType]
                    settings={**one.settings, **find_protocol(one.protocol).smoke},
                    judge=None if one.judge is None else JudgeSpec("exact"),
                )
                for name, one in self.evaluations.items()
            },
        )

    def _smoked_contender(self, label: str, one: ContenderSpec) -> ContenderSpec:
        seen = {each.protocol for each in self.evaluations.values() if not each.contenders or label in each.contenders}
        trait = next((name for name in SMOKE_TRAITS if name in seen), None)
        known = {each.name for each in dataclasses.fields(find_method(one.method).settings)}
        return replace(
            one,
            pairs=None,
            concepts=SMOKE_CONCEPTS if trait is None else (trait,),
            layer=one.layer if one.layer is None or isinstance(one.layer, str) else self._smoked_layers(one.layer),
            settings={**one.settings, **{name: value for name, value in SMOKE_SETTINGS.items() if name in known}},
            multipliers=one.multipliers[:SMOKE_MULTIPLIERS],
        )

    def _smoked_layers(self, layer: int | tuple[int, ...]) -> int | tuple[int, ...]:
        """Blocks of a tiny model at about the same depth, none of them twice."""
        blocks = self.model.blocks or 32
        layers = (layer,) if isinstance(layer, int) else layer
        scaled = sorted({min(SMOKE_LAYERS - 2, each * SMOKE_LAYERS // blocks) for each in layers})
        return scaled[0] if len(scaled) == 1 else tuple(scaled)


def _named(where: str, found: Any, read: Callable[[str, Any], T], taken: tuple[str, ...]) -> dict[str, T]:
    """Parts by name; a name is also that of a folder."""
    if not isinstance(found, Mapping):
        raise InputError(f"{where} is {found!r}; give names, each with its keys and values")
    for name in found:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in taken:
            raise InputError(
                f"{where}: {name!r} cannot be a name; use letters, digits, spaces, dots and dashes, but not "
                f"{', '.join(taken)}"
            )
    return {name: read(f"{where}.{name}", one) for name, one in found.items()}


def _within(where: str, check: Callable[[], None]) -> None:
    """A check whose error names the place."""
    try:
        check()
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
