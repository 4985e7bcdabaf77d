"""Runs a recipe: fits what it names, or reads back what was fitted, and checks it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.data import PairSet, load_pairs
from trimtab.data.load import concept_names, of_concept, pairs_by_concept
from trimtab.data.preferences import load_preferences
from trimtab.errors import InputError
from trimtab.evaluation.contenders import Contender
from trimtab.evaluation.evaluate import evaluate, protocol_settings
from trimtab.evaluation.judges.build import build_judge
from trimtab.evaluation.judges.judge import Judge
from trimtab.evaluation.protocols.protocol import Asked
from trimtab.evaluation.recipe import CACHE, VECTORS, Recipe
from trimtab.evaluation.recipe_specs import CONCEPT, ContenderSpec, JudgeSpec, PairsSpec, tuples
from trimtab.evaluation.records import canonical, digest
from trimtab.methods import fit_steerable, load_steerable
from trimtab.methods.steerable import Steerable
from trimtab.models import Model
from trimtab.progress import ProgressCallback, renamed
from trimtab.steering import SteeringVector

ORIGIN = "origin.json"
"""Beside a fitted vector: what it was fitted from, so that a contender that was changed is fitted anew."""
SMOKE_PAIRS = 8


def run_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    smoke: bool = False,
    device: str | None = None,
    batch_size: int = 32,
    overwrite: bool = False,
    command: str | None = None,
    progress: ProgressCallback | None = None,
) -> list[Path]:
    """Makes what a recipe names and checks it, going on where an interruption left it.

    Args:
        recipe: What to do.
        out: The folder: `vectors/LABEL/CONCEPT`, and one run an evaluation. Contenders that are fitted alike, and
            differ in how much of them is given, share the vectors of the first.
        smoke: It is a smoke run (`Recipe.smoked`): fits learn from a few pairs.
        device: As of `load_model`.
        batch_size: Rows a forward of evaluations.
        overwrite: Begin the evaluations anew; vectors whose contender is the same are kept.
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
    made = _Fits(recipe, model, out / VECTORS, SMOKE_PAIRS if smoke else None, progress).contenders()
    runs = []
    for name, one in recipe.evaluations.items():
        chosen = [each for each in made if not one.contenders or each.label in one.contenders]
        settings = protocol_settings(one.protocol, one.settings)
        told = renamed(progress, lambda stage, name=name: f"{name}: {stage}")
        data = one.source.load(settings, chosen)
        asked = Asked(model, data, chosen, _judge(one.judge, out), settings, batch_size, told)
        info = {} if command is None else {"command": command}
        evaluate(one.protocol, asked, out / name, overwrite=overwrite, info=info)
        runs.append(out / name)
    return runs


@dataclass(frozen=True)
class _Fits:
    """The fits of a recipe.

    Attributes:
        recipe: What to fit.
        model: On what.
        folder: Where vectors are kept.
        most: Pairs a concept, at most; None = all.
        progress: Told of every unit of work.
    """

    recipe: Recipe
    model: Model
    folder: Path
    most: int | None
    progress: ProgressCallback | None

    def contenders(self) -> list[Contender]:
        """Every contender for every concept, fitted or, if that was done, read back."""
        shelf, done, found = _Shelf(), dict[str, Steerable](), list[Contender]()
        for label, one in self.recipe.contenders.items():
            source = one.pairs or self.recipe.pairs
            for concept in one.concepts or self.recipe.concepts or shelf.names(source):
                pairs = shelf.pairs(source, concept)[: self.most]
                origin = self._origin(one, source, concept, pairs)
                if origin not in done:
                    told = renamed(self.progress, lambda stage, at=f"{label} {concept}": f"{at}: {stage}")
                    done[origin] = self._made(one, pairs, self.folder / label / _file_name(concept), origin, told)
                known = done[origin].provenance.get("concept")  # where the recipe has its number
                name = known if isinstance(known, str) and known else concept
                steerable = _with_prefix(done[origin]) if one.prefix else done[origin]
                found.append(Contender(label, name, steerable, one.scale, one.multipliers))
        return found

    def _origin(self, one: ContenderSpec, source: PairsSpec, concept: str, pairs: PairSet) -> str:
        """All that decides a fit, as text: not how much of the vector is given later."""
        decides = {name: getattr(one, name) for name in ("method", "layer", "settings", "calibrate")}
        origin = {
            "contender": decides,
            "model": dataclasses.asdict(self.recipe.model),
            "pairs": dataclasses.asdict(source),
            "concept": concept,
            "content": pairs.content_hash,
        }
        return json.dumps(json.loads(canonical(origin)), indent=1)

    def _made(
        self, one: ContenderSpec, pairs: PairSet, place: Path, origin: str, progress: ProgressCallback | None
    ) -> Steerable:
        """A contender's steerable, read back if it is there and was made from the same."""
        note = place.parent / f"{place.name}.{ORIGIN}"
        if note.exists() and note.read_text(encoding="utf-8") == origin:
            return load_steerable(place)
        note.unlink(missing_ok=True)
        layer = {} if one.layer is None else {"layer": list(one.layer) if isinstance(one.layer, tuple) else one.layer}
        made = fit_steerable(
            one.method,
            self.model,
            pairs,
            calibrate=one.calibrate,
            progress=progress,
            **layer,
            **_settings(one.settings, pairs.concepts[0] if pairs.concepts else place.name),
        )
        made.save(place, overwrite=True)
        fresh = note.with_name(f".{note.name}.new")
        fresh.write_text(origin, encoding="utf-8")
        fresh.replace(note)  # last, so that what is half done is done again
        return load_steerable(place)  # so that a run that goes on has the same numbers to the last bit


class _Shelf:
    """The contrast data of a recipe, each source read once."""

    def __init__(self) -> None:
        self._read: dict[str, Mapping[str, PairSet]] = {}

    def names(self, spec: PairsSpec) -> tuple[str, ...]:
        """The concepts of a source."""
        if CONCEPT in spec.source:
            raise InputError(f"pairs {spec.source!r} are of one concept each; name the concepts in the recipe")
        if spec.layout == "preference":
            return concept_names(self._preferences(spec, None))
        return tuple(self._found(spec.source))

    def pairs(self, spec: PairsSpec, concept: str) -> PairSet:
        """The pairs of a concept."""
        if spec.layout == "preference":
            return self._preferences(spec, concept)
        if CONCEPT in spec.source:
            return load_pairs(spec.source.replace(CONCEPT, concept))
        return of_concept(self._found(spec.source), concept, spec.source)

    def _found(self, source: str) -> Mapping[str, PairSet]:
        if source not in self._read:
            self._read[source] = pairs_by_concept(source)
        return self._read[source]

    def _preferences(self, spec: PairsSpec, concept: str | None) -> PairSet:
        assert spec.positive_system is not None  # checked by the specification
        return load_preferences(spec.source.replace(CONCEPT, concept or ""), spec.positive_system, concept=concept)


def _with_prefix(steerable: Steerable) -> Steerable:
    """A vector that edits the template's prefix as well, as AxBench's do."""
    if not isinstance(steerable, SteeringVector):
        return steerable
    edits = []
    for edit in steerable.edits:
        there = replace(edit.intervention.positions, include_prefix=True)
        edits.append(replace(edit, intervention=replace(edit.intervention, positions=there)))
    return replace(steerable, edits=tuple(edits))


def _settings(found: Mapping[str, Any], concept: str) -> dict[str, Any]:
    """Settings of a method, with the concept's name in their texts."""
    return {
        name: value.replace(CONCEPT, concept) if isinstance(value, str) else value
        for name, value in tuples(found).items()
    }


def _judge(spec: JudgeSpec | None, out: Path) -> Judge | None:
    if spec is None:
        return None
    return build_judge(
        spec.judge,
        base_url=spec.base_url,
        cache_dir=out / CACHE,
        temperature=spec.temperature,
        concurrency=spec.concurrency,
        requests_per_minute=spec.requests_per_minute,
    )


def _file_name(concept: str) -> str:
    """A folder's name for a concept: its own where that can be one, else its beginning and a hash."""
    plain = "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in concept)[:40]
    return concept if plain == concept else f"{plain.strip('-')}-{digest(concept)[:8]}"
