"""A vector read as a probe: how strongly each token of an answer has its coordinate, in the plain model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.evaluation.concepts import LabelledText
from trimtab.evaluation.contenders import Contender
from trimtab.models import Model
from trimtab.models.capture import capture
from trimtab.models.compat import edit_to_read
from trimtab.steering import SteeringVector
from trimtab.steering.transforms import probe_directions


@dataclass(frozen=True)
class Latents:
    """What a probe reads along one text, from the first token after the template prefix on.

    Attributes:
        tokens: Texts of the tokens.
        values: The coordinate of each; larger is more of the concept.
    """

    tokens: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Probe:
    """A direction to read, at a site.

    Attributes:
        vector: Whose.
        direction: (d,) unit, float32, towards the concept.
        negative: Where the class without the concept lies on it; None if the vector does not know.
        positive: Where the class with the concept lies.
    """

    vector: SteeringVector
    direction: Tensor
    negative: float | None
    positive: float | None


def can_be_read(contender: Contender) -> bool:
    """Whether it is a vector that has a direction."""
    if contender.vector is None:
        return False
    try:
        probe_directions(contender.vector.edits[0].intervention.transform)
    except InputError:
        return False
    return True


def probe_of(model: Model, contender: Contender) -> Probe:
    """The direction of a vector's first edit, turned so that the concept is at its larger end.

    With several dimensions it is the line through the classes' means, or the first where no factors are known.

    Raises:
        InputError: The vector does not fit the model, or has no direction.
    """
    vector = contender.vector
    if vector is None:
        raise InputError(f"{contender.label} is no vector, so it has no direction to read")
    edit = edit_to_read(model, vector, 0)
    directions = probe_directions(edit.intervention.transform)
    if edit.factors is None:
        return Probe(vector, torch.nn.functional.normalize(directions[0], dim=0), None, None)
    low, high = (torch.tensor(side.mean) for side in (edit.factors.negative, edit.factors.positive))
    gap = high - low
    if float(gap.norm()) == 0:
        return Probe(vector, torch.nn.functional.normalize(directions[0], dim=0), None, None)
    along = gap / gap.norm()
    rows = along @ directions
    size = float(rows.norm())  # 1 for orthonormal rows
    return Probe(vector, rows / size, float(along @ low) / size, float(along @ high) / size)


def read(model: Model, probes: Sequence[Probe], texts: Sequence[LabelledText]) -> list[list[Latents]]:
    """The coordinates of every token of prompts and answers, all probes in one run of the model.

    Args:
        model: The model, plain.
        probes: What is read.
        texts: Prompts, rendered with the chat template, and answers.

    Returns:
        For each probe the latents of every text.

    Raises:
        InputError: A text that is longer than the context.
    """
    prompts = [model.chat.render(text.prompt) for text in texts]
    rows = [
        (*prompt.ids, *model.chat.response_ids(prompt, text.response))
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    limit, longest = model.context_length, max(map(len, rows), default=0)
    if limit is not None and longest > limit:
        raise InputError(f"a labelled text of {longest} tokens exceeds the context of {limit}; leave detection out")
    places = [probe.vector.edits[0].intervention.site for probe in probes]
    directions = [probe.direction.to(model.device) for probe in probes]
    found: list[list[Latents]] = [[] for _ in probes]
    seen = capture(model.hf, rows, list(dict.fromkeys(places)))
    for ids, prompt, states in zip(rows, prompts, seen, strict=True):
        start = prompt.prefix_length
        tokens = tuple(str(model.tokenizer.decode([token])) for token in ids[start:])
        for k, (site, direction) in enumerate(zip(places, directions, strict=True)):
            values = (states[site][start:].float() @ direction).cpu().tolist()
            found[k].append(Latents(tokens, tuple(values)))
    return found
