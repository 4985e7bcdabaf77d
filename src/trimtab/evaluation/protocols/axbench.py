"""AxBench: is the concept there, is the instruction answered, is it fluent; and can the vector be read as a probe?

Source: Wu et al., "AxBench: Steering LLMs? Even Simple Baselines Outperform Sparse Autoencoders", arXiv 2501.17148, and
the suppression of Wu et al., "Improved Representation Steering for Language Models", arXiv 2505.20809.

A concept has ten instructions. Each is answered at every multiplier, sampled at temperature 1, and rated 0 to 2 for
concept, instruction and fluency; the score is their harmonic mean. The multiplier is chosen on one half of the
instructions and reported on the other. To suppress, the prompt asks for the concept, and 2 - concept counts.

Deviations: seeds are a job's own; what has no factor is generated once; tokens are drawn from the whole distribution,
not from the 50 likeliest as transformers does unless told otherwise; multipliers move a vector in its own unit and not
by the largest latent of its concept; perplexity is of the answer alone behind the prompt, for every contender, and a
geometric mean; hard negatives have a figure of their own; unreadable ratings are left out. Not here: attacks on
suppression (overwriting, many examples), detection by prompts and bags of words, and the 100 to 1 imbalance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.errors import InputError
from trimtab.evaluation.concepts import Concept
from trimtab.evaluation.contenders import Contender, with_plain
from trimtab.evaluation.detection import can_be_read, probe_of, read
from trimtab.evaluation.generating import Writing, generate
from trimtab.evaluation.jobs import Job, seed_of
from trimtab.evaluation.judges import RATED, Judge
from trimtab.evaluation.likelihoods import measure_nll
from trimtab.evaluation.rating import rate
from trimtab.evaluation.records import Log, Run, finite
from trimtab.evaluation.statistics import split_half
from trimtab.models import Model
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering.factors import DIRECTIONS, check_direction, check_multiplier

FREE, CARRYING = "free", "carrying"
"""Conditions: prompts without the concept, and the same that ask for it."""
CONDITIONS: Mapping[str, str] = {"elicit": FREE, "suppress": CARRYING}
"""On which prompts a direction is judged."""
GRIDS: Mapping[str, tuple[float, ...]] = {
    "gap": (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0),
    "axbench": (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0),
    "sae": (0.4, 0.8, 1.2, 1.6, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 20.0, 40.0, 60.0, 100.0),
    "reps": (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0, 25.0, 30.0, 40.0, 50.0),
    "cdas-2b": (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 14.0),
    "cdas-9b": (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0),
    "unit": (1.0,),
}
"""Multipliers by name: our own, and the numbers of the published lists.

Here every multiplier moves a vector in its own unit (for clamps and differences of means the gap between the classes;
with `scale="published"` a clamp's factor). AxBench multiplies a unit vector by them, and by the concept's largest
latent.
"""
HEAT_TEXTS = 2
"""Texts of each category whose tokens' values are kept, for a look at them."""


@dataclass(frozen=True)
class AxbenchSettings:
    """Settings of the protocol.

    Args:
        ways: Directions that are judged.
        multipliers: Tried by every contender that has a factor, and no list of its own.
        max_new_tokens: Of an answer.
        temperature: Of the sampling.
        selection: Share of the instructions on which the multiplier is chosen.
        reference: Label of the contender that others are compared with, for win rates.
        unreadable: What a rating that could not be read is: `exclude`, or `zero` as published.
        perplexity: Whether the plain model's perplexity of answers is measured.
        detection: Whether vectors are read as probes.
        resamples: Of the bootstrap.
        seed: Of samples and bootstrap.

    Raises:
        InputError: A value that cannot be.
    """

    ways: tuple[str, ...] = DIRECTIONS
    multipliers: tuple[float, ...] = GRIDS["gap"]
    max_new_tokens: int = 128
    temperature: float = 1.0
    selection: float = 0.5
    reference: str = "prompt"
    unreadable: str = "exclude"
    perplexity: bool = True
    detection: bool = True
    resamples: int = 2000
    seed: int = 42

    def __post_init__(self) -> None:
        for way in self.ways:
            check_direction(way)
        if not self.ways or not self.multipliers:
            raise InputError("ways or multipliers are empty; give at least one of each")
        for multiplier in self.multipliers:
            check_multiplier(multiplier)
        if len(set(self.multipliers)) < len(self.multipliers):
            raise InputError(f"multipliers {list(self.multipliers)} hold one twice; give each once")
        if not 0 < self.selection < 1:
            raise InputError(f"selection is {self.selection}; it is a share between 0 and 1")
        if self.unreadable not in ("exclude", "zero"):
            raise InputError(f"unreadable is {self.unreadable!r}; allowed: exclude, zero")
        if self.resamples < 1:
            raise InputError(f"resamples is {self.resamples}; it must be at least 1")


def plan(concepts: Sequence[Concept], contenders: Sequence[Contender], settings: AxbenchSettings) -> list[Job]:
    """Every text to be written: the plain model's on both kinds of prompts, and each contender's at every multiplier.

    Raises:
        InputError: A contender for a concept that is not judged.
    """
    known = {concept.name: concept for concept in concepts}
    for contender in contenders:
        if contender.concept is not None and contender.concept not in known:
            raise InputError(
                f"{contender.label} was made for {contender.concept!r}, which is not judged; judged are "
                f"{', '.join(known)}"
            )
    for concept in concepts:
        split_half(range(len(concept.free)), settings.selection)  # refuses halves of which one is empty
    jobs: list[Job] = []
    for contender in with_plain(contenders):
        for concept in concepts if contender.concept is None else [known[contender.concept]]:
            for way in settings.ways:
                if contender.steerable is None:
                    jobs += _jobs(concept, contender, None, CONDITIONS[way], None, settings.seed)
                elif way in contender.ways:
                    for multiplier in contender.tried(way, settings.multipliers):
                        jobs += _jobs(concept, contender, way, CONDITIONS[way], multiplier, settings.seed)
    return jobs


def _jobs(
    concept: Concept, contender: Contender, way: str | None, condition: str, multiplier: float | None, seed: int
) -> list[Job]:
    prompts = concept.free if condition == FREE else concept.carrying
    return [
        Job(
            contender,
            prompt,
            number,
            condition,
            way,
            multiplier,
            concept.name,
            seed_of(seed, concept.name, condition, number, multiplier),
            instruction,
        )
        for number, (prompt, instruction) in enumerate(zip(prompts, concept.instructions, strict=True))
    ]


def run_axbench(
    model: Model,
    concepts: Sequence[Concept],
    contenders: Sequence[Contender],
    judge: Judge,
    settings: AxbenchSettings,
    run: Run,
    *,
    batch_size: int = 32,
    progress: ProgressCallback | None = None,
) -> None:
    """Put everything on record that is not there yet.

    Args:
        model: The model, plain.
        concepts: What is judged.
        contenders: Who is; each for one of the concepts.
        judge: Who rates.
        settings: See there.
        run: Where it goes.
        batch_size: Rows a forward.
        progress: Told of every stage.

    Raises:
        InputError: A contender for another concept or model, or a judge that does not have an aspect.
        NetworkError: The judge's endpoint fails; started again, the run goes on where it was.
    """
    writing = Writing(settings.max_new_tokens, settings.temperature, batch_size)
    generations = run.log("generations")
    generate(model, plan(concepts, contenders, settings), generations, writing, progress)
    rate(judge, generations.rows, lambda row: RATED, run.log("ratings"), progress)
    if settings.perplexity:
        measure_nll(model, generations.rows, run.log("measures"), progress)
    if settings.detection:
        _detect(model, concepts, contenders, run.log("items"), progress)


def _detect(
    model: Model,
    concepts: Sequence[Concept],
    contenders: Sequence[Contender],
    log: Log,
    progress: ProgressCallback | None,
) -> None:
    """Put on record what every vector reads in the labelled texts of its concept: the largest value of a text."""
    done, began = log.keys("label", "concept", "text"), time.monotonic()
    for number, concept in enumerate(concepts, 1):
        readable = [each for each in contenders if each.concept == concept.name and can_be_read(each)]
        wanted = {(each.label, concept.name, k) for each in readable for k in range(len(concept.texts))}
        if not wanted <= done:
            rows = _read_rows(model, concept, readable)
            log.append(row for row in rows if (row["label"], row["concept"], row["text"]) not in done)
        if progress is not None:
            progress(Progress("detection", number, len(concepts), time.monotonic() - began))


def _read_rows(model: Model, concept: Concept, readable: Sequence[Contender]) -> list[dict[str, Any]]:
    probes = [probe_of(model, each) for each in readable]
    rows: list[dict[str, Any]] = []
    for contender, probe, read_texts in zip(readable, probes, read(model, probes, concept.texts), strict=True):
        kept: dict[str, int] = {}
        for k, (text, latents) in enumerate(zip(concept.texts, read_texts, strict=True)):
            kept[text.category] = kept.get(text.category, 0) + 1
            shown = kept[text.category] <= HEAT_TEXTS
            rows.append(
                {
                    "label": contender.label,
                    "concept": concept.name,
                    "text": k,
                    "category": text.category,
                    "value": finite(max(latents.values, key=_order)),
                    "tokens": list(latents.tokens) if shown else None,
                    "values": [finite(round(value, 4)) for value in latents.values] if shown else None,
                    "negative": probe.negative,
                    "positive": probe.positive,
                }
            )
    return rows


def _order(value: float) -> float:
    """A value that is no number counts as the largest, so that a text with one has no score."""
    return math.inf if math.isnan(value) else value
