"""A recipe: a YAML file that says which vectors are made and what is checked about them, so that one command does it.

    title, paper, hardware, cost, published    for people: printed before anything is done
    model       name, and perhaps dtype, revision, source_tokens
    pairs       contrast data: a built-in name, a path, hub:owner/name; {concept} stands for the concept's name
    concepts    names or numbers; none = all that the pairs have
    contenders  label: {method, layer, settings, calibrate, scale}
    evaluations name: {protocol, contenders, data, settings, judge}

Fits and runs lie in one folder and are gone on with where an interruption left them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from trimtab.data import load_pairs
from trimtab.data.load import concept_names
from trimtab.errors import InputError
from trimtab.evaluation.contenders import Contender
from trimtab.evaluation.evaluate import evaluate, find_protocol, protocol_settings
from trimtab.evaluation.judges.build import build_judge
from trimtab.evaluation.protocols.protocol import Asked
from trimtab.evaluation.records import canonical, digest
from trimtab.evaluation.sources import Source
from trimtab.fitting.settings import build_settings
from trimtab.methods import fit_steerable, load_steerable
from trimtab.methods.registry import find_method
from trimtab.models import Model, load_model
from trimtab.models.tiny import FAMILIES, make_tiny_model
from trimtab.progress import ProgressCallback, renamed

FOR_PEOPLE = ("title", "paper", "hardware", "cost", "published", "notes")
ORIGIN = "origin.json"
"""Beside a fitted vector: what it was fitted from, so that a recipe that was changed is fitted anew."""
SMOKE_CONCEPTS, SMOKE_PAIRS, SMOKE_LAYERS = ("sea", "past-tense"), 8, 4


@dataclass(frozen=True)
class ModelSpec:
    """Which model, and how it is loaded.

    Args:
        name: Hub id, path, or `organism`.
        family: Of a tiny random model that stands in for it in a smoke run.
        dtype: As of `load_model`.
        revision: As of `load_model`.
        source_tokens: As of `load_model`.
        blocks: How many the model has, so that a smoke run can scale its layers.
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
class ContenderSpec:
    """How a contender is made.

    Args:
        method: Of `trimtab methods`.
        layer: Block numbers, or `auto`; None for methods that take none.
        settings: Of the method.
        calibrate: Whether its multipliers are looked for.
        scale: What they move along: `gap` or `published`.
        pairs: Contrast data of its own, for methods that learn from others.
    """

    method: str
    layer: int | tuple[int, ...] | str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    calibrate: bool = False
    scale: str = "gap"
    pairs: str | None = None


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
        return build_settings(find_protocol(self.protocol).source, _tuples(self.data))


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
    pairs: str
    concepts: tuple[str, ...]
    contenders: Mapping[str, ContenderSpec]
    evaluations: Mapping[str, EvaluationSpec]

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """A recipe from its file.

        Raises:
            InputError: No YAML, an unknown key, method, protocol or setting, or a label that is not there.
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
    def of(cls, found: Mapping[str, Any]) -> Recipe:
        """A recipe from what its file holds; see `read`."""
        keys = (*FOR_PEOPLE, "model", "pairs", "concepts", "contenders", "evaluations")
        if strange := sorted(set(found) - set(keys)):
            raise InputError(f"unknown key {strange[0]!r} (allowed: {', '.join(keys)})")
        for key in ("model", "pairs", "contenders", "evaluations"):
            if not found.get(key):
                raise InputError(f"{key} is missing; a recipe says model, pairs, contenders and evaluations")
        model = found["model"]
        recipe = cls(
            {key: found[key] for key in FOR_PEOPLE if key in found},
            ModelSpec(model) if isinstance(model, str) else _spec(ModelSpec, "model", model),
            str(found["pairs"]),
            tuple(str(name) for name in found.get("concepts") or ()),
            {label: _spec(ContenderSpec, f"contenders.{label}", one) for label, one in found["contenders"].items()},
            {name: _evaluation(f"evaluations.{name}", one) for name, one in found["evaluations"].items()},
        )
        recipe.check()
        return recipe

    def check(self) -> None:
        """Raise InputError for what could be found out before any work, and would end it later."""
        for label, one in self.contenders.items():
            method = find_method(one.method)
            known = {each.name for each in dataclasses.fields(method.settings)}
            if strange := sorted(set(one.settings) - known - {"reading"}):
                raise InputError(f"contenders.{label}: {one.method} has no setting {strange[0]!r}")
            if method.places == "layer" and one.layer is None:
                raise InputError(f"contenders.{label}: {one.method} needs a layer, or auto")
            if one.scale not in ("gap", "published"):
                raise InputError(f"contenders.{label}: scale is {one.scale!r}; allowed: gap, published")
        for name, one in self.evaluations.items():
            try:
                protocol_settings(one.protocol, one.settings)
                _ = one.source
            except InputError as error:
                raise InputError(f"evaluations.{name}: {error}") from error
            if missing := sorted(set(one.contenders) - set(self.contenders)):
                raise InputError(f"evaluations.{name}: there is no contender {missing[0]!r}")

    def beside(self, folder: Path) -> Recipe:
        """The same with relative paths of data taken from a folder."""
        return replace(
            self,
            pairs=_beside(folder, self.pairs),
            contenders={
                label: replace(one, pairs=None if one.pairs is None else _beside(folder, one.pairs))
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
            make_tiny_model(folder, family=family, n_blocks=SMOKE_LAYERS)
        kinds = {one.protocol for one in self.evaluations.values()}
        trait = next((name for name in ("refusal", "backdoor") if name in kinds), None)
        return replace(
            self,
            model=ModelSpec(str(folder)),
            pairs="{concept}",
            concepts=SMOKE_CONCEPTS if trait is None else (trait,),
            contenders={label: self._smoked_contender(one) for label, one in self.contenders.items()},
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

    def _smoked_contender(self, one: ContenderSpec) -> ContenderSpec:
        known = {each.name for each in dataclasses.fields(find_method(one.method).settings)}
        small = {"epochs": 1, "batch_size": 4, "max_response_tokens": 8}
        return replace(
            one,
            pairs=None,
            layer=one.layer if one.layer is None or isinstance(one.layer, str) else self._smoked_layers(one.layer),
            settings={**one.settings, **{name: value for name, value in small.items() if name in known}},
        )

    def _smoked_layers(self, layer: int | tuple[int, ...]) -> int | tuple[int, ...]:
        """Blocks of a tiny model at about the same depth, none of them twice."""
        blocks = self.model.blocks or 32
        layers = (layer,) if isinstance(layer, int) else layer
        scaled = sorted({min(SMOKE_LAYERS - 2, each * SMOKE_LAYERS // blocks) for each in layers})
        return scaled[0] if len(scaled) == 1 else tuple(scaled)


def run_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    smoke: bool = False,
    device: str | None = None,
    batch_size: int = 32,
    command: str | None = None,
    progress: ProgressCallback | None = None,
) -> list[Path]:
    """Makes what a recipe names and checks it, going on where an interruption left it.

    Args:
        recipe: What to do.
        out: The folder: `vectors/LABEL/CONCEPT`, and one run an evaluation.
        smoke: It is a smoke run (`Recipe.smoked`): fits learn from a few pairs.
        device: As of `load_model`.
        batch_size: Rows a forward of evaluations.
        command: What was typed.
        progress: Told of every stage.

    Returns:
        The runs' directories.

    Raises:
        InputError: What loading, fitting or evaluating refuses.
        NetworkError: A model, data or a judge that cannot be reached.
    """
    out = Path(out)
    model = recipe.model.load(device)
    made = _contenders(recipe, model, out / "vectors", SMOKE_PAIRS if smoke else None, progress)
    runs = []
    for name, one in recipe.evaluations.items():
        chosen = [each for each in made if not one.contenders or each.label in one.contenders]
        settings = protocol_settings(one.protocol, one.settings)
        told = renamed(progress, lambda stage, name=name: f"{name}: {stage}")
        asked = Asked(
            model, one.source.load(settings, chosen), chosen, _judge(one.judge, out), settings, batch_size, told
        )
        evaluate(one.protocol, asked, out / name, info={} if command is None else {"command": command})
        runs.append(out / name)
    return runs


def _contenders(
    recipe: Recipe, model: Model, folder: Path, most: int | None, progress: ProgressCallback | None
) -> list[Contender]:
    """Every contender for every concept, fitted or, if that was done, read back."""
    found = []
    for label, one in recipe.contenders.items():
        source = one.pairs or recipe.pairs
        for concept in recipe.concepts or concept_names(source):
            origin = {"contender": dataclasses.asdict(one), "model": recipe.model.name, "pairs": source, "most": most}
            place = folder / label / _file_name(concept)
            told = renamed(progress, lambda stage, at=f"{label} {concept}": f"{at}: {stage}")
            steerable = _made(one, model, source, concept, place, origin, told)
            known = steerable.provenance.get("concept")  # where the recipe has its number
            found.append(Contender(label, known if isinstance(known, str) and known else concept, steerable, one.scale))
    return found


def _made(
    one: ContenderSpec,
    model: Model,
    source: str,
    concept: str,
    place: Path,
    origin: Mapping[str, Any],
    progress: ProgressCallback | None,
) -> Any:
    """A contender's steerable, read back if it is there and was made from the same."""
    name = place.parent / f"{place.name}.{ORIGIN}"
    text = json.dumps({**json.loads(canonical(origin)), "concept": concept}, indent=1)
    if name.exists() and name.read_text(encoding="utf-8") == text:
        return load_steerable(place)
    pairs = load_pairs(source.format(concept=concept), concept=None if "{concept}" in source else concept)
    layer = {} if one.layer is None else {"layer": list(one.layer) if isinstance(one.layer, tuple) else one.layer}
    made = fit_steerable(
        one.method,
        model,
        pairs[: origin["most"]],
        calibrate=one.calibrate,
        progress=progress,
        **layer,
        **_tuples(one.settings),
    )
    made.save(place, overwrite=True)
    name.write_text(text, encoding="utf-8")  # last, so that what is half done is done again
    return made


def _judge(spec: JudgeSpec | None, out: Path) -> Any:
    if spec is None:
        return None
    return build_judge(
        spec.judge,
        base_url=spec.base_url,
        cache_dir=out / "judge-cache",
        temperature=spec.temperature,
        concurrency=spec.concurrency,
        requests_per_minute=spec.requests_per_minute,
    )


def _evaluation(where: str, found: Any) -> EvaluationSpec:
    if not isinstance(found, Mapping):
        raise InputError(f"{where} is {found!r}; give keys and values")
    judge = found.get("judge")
    if judge is not None:
        judge = JudgeSpec(judge) if isinstance(judge, str) else _spec(JudgeSpec, f"{where}.judge", judge)
    return _spec(EvaluationSpec, where, {**found, "judge": judge})


def _spec(cls: type[Any], where: str, found: Any) -> Any:
    """A specification from keys and values, strictly."""
    if not isinstance(found, Mapping):
        raise InputError(f"{where} is {found!r}; give keys and values")
    try:
        return build_settings(cls, _tuples(found))
    except (InputError, TypeError) as error:
        raise InputError(f"{where}: {error}") from error


def _tuples(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def _beside(folder: Path, source: str) -> str:
    """A path of data taken from a folder; what names no file there stays as it is."""
    return str(folder / source) if not source.startswith("hub:") and (folder / source).exists() else source


def _file_name(concept: str) -> str:
    """A folder's name for a concept: its own where that can be one, else its beginning and a hash."""
    plain = "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in concept)[:40]
    return concept if plain == concept else f"{plain.strip('-')}-{digest(concept)[:8]}"
