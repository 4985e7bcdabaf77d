"""The parts that a recipe is made of, read strictly: model, pairs, contenders, evaluations, judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from trimtab.errors import InputError
from trimtab.evaluation.conditions import checked_multipliers
from trimtab.evaluation.evaluate import find_protocol, protocol_settings
from trimtab.evaluation.protocols.protocol import Protocol
from trimtab.evaluation.recipe_types import check_types
from trimtab.evaluation.setting_kinds import typed
from trimtab.evaluation.sources import Source
from trimtab.fitting.settings import build_settings
from trimtab.methods.registry import check_fit, find_method
from trimtab.models import Model, load_model
from trimtab.steering.factors import SCALES

T = TypeVar("T")

CONCEPT = "{concept}"
"""Stands for a concept: in `pairs` as the recipe names it, in texts of settings as the pairs do."""
LAYOUTS = ("contrast", "preference")


@dataclass(frozen=True)
class ModelSpec:
    """Which model, and how it is loaded.

    Args:
        name: Hub id, path, or `organism`.
        family: Of a tiny random model that stands in for it in a smoke run.
        dtype: As of `load_model`.
        revision: As of `load_model`.
        source_tokens: As of `load_model`.
        blocks: How many the model has: layers are checked by it, and scaled in a smoke run.
    """

    name: str
    family: str | None = None
    dtype: str | None = None
    revision: str | None = None
    source_tokens: str | None = None
    blocks: int | None = None

    def load(self, device: str | None) -> Model:
        """The model."""
        return load_model(
            self.name, device=device, dtype=self.dtype, revision=self.revision, source_tokens=self.source_tokens
        )


@dataclass(frozen=True)
class PairsSpec:
    """Where contrast data come from.

    Args:
        source: A built-in name, a path, `hub:owner/name[:split]`; `{concept}` stands for the concept.
        layout: `contrast`, or `preference`: a file of rows with `input`, `winning_output` and `losing_output`.
        positive_system: Of preference rows, which have one prompt for both answers: the system message that makes it
            the positive one.

    Raises:
        InputError: An unknown layout, or a system message where it has no use, or none where it is needed.
    """

    source: str
    layout: str = "contrast"
    positive_system: str | None = None

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise InputError(f"layout is {self.layout!r}; allowed: {', '.join(LAYOUTS)}")
        if (self.layout == "preference") != bool(self.positive_system):
            raise InputError("positive_system goes with layout preference, and only with it; give both or neither")

    def beside(self, folder: Path) -> PairsSpec:
        """The same with a relative path taken from a folder; what names no file there stays as it is."""
        if self.source.startswith("hub:") or not (folder / self.source).exists():
            return self
        return PairsSpec(str(folder / self.source), self.layout, self.positive_system)


@dataclass(frozen=True)
class ContenderSpec:
    """How a contender is made, and how much of it is given.

    Args:
        method: Of `trimtab methods`.
        layer: Block numbers, or `auto`; None for methods that take none.
        settings: Of the method.
        calibrate: Whether its multipliers are looked for.
        scale: What they move along: `gap` or `published`.
        pairs: Contrast data of its own, for methods that learn from others.
        concepts: Names or numbers of its own; none = the recipe's.
        multipliers: Tried with it, whatever the protocols try with others; none = what they try.
        prefix: Whether the template's prefix is steered too, as AxBench does (training never sees it steered).

    Raises:
        InputError: Multipliers that cannot be.
    """

    method: str
    layer: int | tuple[int, ...] | str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    calibrate: bool = False
    scale: str = "gap"
    pairs: PairsSpec | None = None
    concepts: tuple[str, ...] = ()
    multipliers: tuple[float, ...] = ()
    prefix: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", checked_multipliers(self.multipliers))

    def check(self, blocks: int | None) -> None:
        """Raise InputError for a method, layer, setting or multiplier that cannot be.

        Args:
            blocks: How many the model has, if that is known.
        """
        check_types(find_method(self.method).settings, self.settings)
        method = check_fit(self.method, "auto" if self.layer is None else self.layer, tuples(self.settings))
        if method.places == "layer" and self.layer is None:
            raise InputError(f"{self.method} needs a layer, or auto")
        layers = () if self.layer is None or isinstance(self.layer, str) else _several(self.layer)
        if blocks is not None and layers and max(layers) >= blocks:
            raise InputError(f"layer {max(layers)} is not there; the model has {blocks} blocks, 0 to {blocks - 1}")
        if self.scale not in SCALES:
            raise InputError(f"scale is {self.scale!r}; allowed: {', '.join(SCALES)}")
        if method.is_baseline and (self.prefix or self.multipliers):
            raise InputError(f"{self.method} edits no hidden state; leave out prefix and multipliers")


@dataclass(frozen=True)
class JudgeSpec:
    """Who rates.

    Args:
        judge: As of `--judge`.
        base_url: Of an endpoint.
        temperature: Of its replies.
        concurrency: Requests at a time.
        requests_per_minute: At most.
    """

    judge: str
    base_url: str | None = None
    temperature: float | None = None
    concurrency: int = 8
    requests_per_minute: float | None = None


@dataclass(frozen=True)
class EvaluationSpec:
    """What is checked.

    Args:
        protocol: Of `trimtab eval`.
        contenders: Labels; none = all.
        data: Options of the protocol's source.
        settings: Of the protocol.
        judge: Who rates, if anybody does.
    """

    protocol: str
    contenders: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    judge: JudgeSpec | None = None

    @property
    def source(self) -> Source:
        """Where its data come from."""
        source = find_protocol(self.protocol).source
        return build_settings(source, typed(source, self.data))

    def check(self) -> None:
        """Raise InputError for a protocol, setting, option or judge that cannot be."""
        protocol: Protocol = find_protocol(self.protocol)
        for name, made in (
            ("settings", lambda: protocol_settings(self.protocol, self.settings)),
            ("data", lambda: self.source),
        ):
            try:
                made()
            except InputError as error:
                raise InputError(f"{name}: {error}") from error
        if protocol.judging == "needed" and self.judge is None:
            raise InputError(f"{self.protocol} needs a judge: exact, rules, openai:MODEL or local:MODEL")
        if protocol.judging == "none" and self.judge is not None:
            raise InputError(f"{self.protocol} asks no judge; leave it out")


def read_pairs(where: str, found: Any) -> PairsSpec:
    """Contrast data from a text, or from keys and values."""
    return PairsSpec(found) if isinstance(found, str) and found else _spec(PairsSpec, where, found, "a text or keys")


def read_concepts(where: str, found: Any) -> tuple[str, ...]:
    """Names or numbers of concepts, as texts; none where none are given."""
    if found is None:
        return ()
    if not isinstance(found, list) or not all(
        isinstance(name, (str, int)) and not isinstance(name, bool) for name in found
    ):
        raise InputError(f"{where} is {found!r}; give a list of names or numbers, or leave it out for all")
    names = tuple(str(name) for name in found)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{where} holds {twice!r} twice; name each once")
    return names


def read_model(where: str, found: Any) -> ModelSpec:
    """A model from its name, or from keys and values."""
    return ModelSpec(found) if isinstance(found, str) else _spec(ModelSpec, where, found, "a name or keys and values")


def read_contender(where: str, found: Any) -> ContenderSpec:
    """A contender from keys and values."""
    if isinstance(found, Mapping):
        found = {**found, "concepts": read_concepts(f"{where}.concepts", found.get("concepts"))}
        if found.get("pairs") is not None:
            found["pairs"] = read_pairs(f"{where}.pairs", found["pairs"])
    return _spec(ContenderSpec, where, found)


def read_evaluation(where: str, found: Any) -> EvaluationSpec:
    """An evaluation from keys and values."""
    judge = found.get("judge") if isinstance(found, Mapping) else None
    if judge is not None:
        read = (
            JudgeSpec(judge) if isinstance(judge, str) else _spec(JudgeSpec, f"{where}.judge", judge, "a name or keys")
        )
        found = {**found, "judge": read}
    return _spec(EvaluationSpec, where, found)


def tuples(found: Mapping[str, Any]) -> dict[str, Any]:
    """The same with tuples for lists, which settings hold."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def _spec(cls: type[T], where: str, found: Any, wanted: str = "keys and values") -> T:
    """A part from keys and values, strictly."""
    if not isinstance(found, Mapping):
        raise InputError(f"{where} is {found!r}; give {wanted}")
    given = {str(key): value for key, value in found.items()}
    try:
        check_types(cls, given)
        return build_settings(cls, tuples(given))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _several(layer: int | tuple[int, ...]) -> tuple[int, ...]:
    return (layer,) if isinstance(layer, int) else layer
