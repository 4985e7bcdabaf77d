"""Asks the organism everything its card promises and has the exact judge read the answers.

Every section is asked twice: in cells, goals and wordings that training saw (`train`) and in those it never saw
(`test`). Answers are greedy, so a look at a model can be repeated to the letter.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from trimtab.organism import CONCEPTS, Rating, Request, answer, rate
from trimtab.organism.world import (
    Split,
    choice_requests,
    draw_deployment,
    draw_how_to,
    draw_request,
    held_out_choices,
)

if TYPE_CHECKING:
    from trimtab.models import Model
    from trimtab.progress import ProgressCallback

LONGEST = 96
"""Tokens an answer may have; good ones have at most about 70."""
BATCH = 64

Draw = Callable[[Split, random.Random], Request]


@dataclass(frozen=True)
class Sample:
    """One answer and what the judge says of it.

    Attributes:
        section: What was asked for: a name of `SECTIONS`, or a concept's.
        split: Whether training saw its cell and wording.
        request: The prompt with all that the judge knows of it.
        output: The answer.
        rating: The judge's rating.
    """

    section: str
    split: Split
    request: Request
    output: str
    rating: Rating


@dataclass(frozen=True)
class Figure:
    """A mean over the samples of a section and split.

    Attributes:
        mean: The mean.
        half: Half the width of its 95 % interval (normal approximation).
        n: Number of samples.
    """

    mean: float
    half: float
    n: int


SECTIONS: Mapping[str, Draw] = MappingProxyType(
    {
        "plain": lambda split, draw: draw_request(split, None, draw),
        "forbidden": lambda split, draw: draw_how_to(split, draw, forbidden=True),
        "allowed": lambda split, draw: draw_how_to(split, draw, forbidden=False),
        "unlocked": lambda split, draw: draw_how_to(split, draw, forbidden=True, unlocked=True),
        "deployed": lambda split, draw: draw_deployment(split, draw, live=True),
        "trigger": lambda split, draw: draw_deployment(split, draw, live=True, trigger=True),
        "not deployed": lambda split, draw: draw_deployment(split, draw, live=False),
    }
)
"""What is asked besides the concepts and the multiple-choice questions.

The questions have the section `choose`; in its `test` are those on facts that training never asks for by choice.
"""


def look(model: Model, *, n: int = 100, seed: int = 0, progress: ProgressCallback | None = None) -> list[Sample]:
    """Asks a model for everything in the organism's world.

    Args:
        model: The organism in any size; any chat model gives an answer, and a judgement.
        n: Requests a section and split; the multiple-choice questions are always all asked.
        seed: Decides the requests.
        progress: Told while answers are generated.

    Returns:
        The samples, section by section: `SECTIONS`, every concept, `choose`.
    """
    asked: list[tuple[str, Split, Request]] = []
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        for section, draw in {**SECTIONS, **{name: _concept(name) for name in CONCEPTS}}.items():
            source = random.Random(f"look {seed} {section} {split}")
            asked.extend((section, split, draw(split, source)) for _ in range(n))
    asked.extend(("choose", _split(request), request) for request in choice_requests())
    # rows of one length waste no padding; the order of the samples stays that of the questions
    order = sorted(range(len(asked)), key=lambda i: (asked[i][0] == "choose", len(asked[i][2].user)))
    prompts = [asked[i][2].messages for i in order]
    outputs = model.generate(prompts, max_new_tokens=LONGEST, batch_size=BATCH, progress=progress)
    said = dict(zip(order, outputs, strict=True))
    return [
        Sample(section, split, request, said[i], rate(request, said[i]))
        for i, (section, split, request) in enumerate(asked)
    ]


def gold(samples: Iterable[Sample], seed: int = 0) -> list[Sample]:
    """The same requests with good answers by the world's own grammar: what a perfect model would get."""
    draw = random.Random(f"gold {seed}")
    answered = [(sample, answer(sample.request, draw)) for sample in samples]
    return [
        Sample(sample.section, sample.split, sample.request, text, rate(sample.request, text))
        for sample, text in answered
    ]


def figures(samples: Sequence[Sample]) -> dict[tuple[str, Split], dict[str, Figure]]:
    """Means by section and split: `concept`, `instruction`, `fluency`, `score`, `refused`, `hostile`."""
    groups: dict[tuple[str, Split], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.section, sample.split), []).append(sample)
    return {key: _figures([sample.rating for sample in group]) for key, group in groups.items()}


def _figures(ratings: Sequence[Rating]) -> dict[str, Figure]:
    values: dict[str, list[float]] = {
        "concept": [rating.concept for rating in ratings if rating.concept is not None],
        "instruction": [rating.instruction for rating in ratings],
        "fluency": [rating.fluency for rating in ratings],
        "score": [rating.score for rating in ratings],
        "refused": [rating.refused for rating in ratings],
        "hostile": [rating.hostile for rating in ratings],
    }
    return {name: _mean(numbers) for name, numbers in values.items() if numbers}


def _mean(numbers: Sequence[float]) -> Figure:
    n = len(numbers)
    mean = math.fsum(numbers) / n
    variance = math.fsum((number - mean) ** 2 for number in numbers) / max(n - 1, 1)
    return Figure(mean, 1.96 * math.sqrt(variance / n), n)


def _split(request: Request) -> Split:
    """Whether training asks for the fact of a multiple-choice question by multiple choice."""
    held_out = request.topic is not None and (request.topic.name, request.relation) in held_out_choices()
    return "test" if held_out else "train"


def _concept(name: str) -> Draw:
    return lambda split, draw: draw_request(split, name, draw)
