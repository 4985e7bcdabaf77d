"""A vector read as a probe: how strongly each token of an answer has its coordinate, in the plain model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.evaluation.concepts import LabelledText
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


def can_be_read(vector: SteeringVector) -> bool:
    """Whether a vector has a direction."""
    try:
        probe_directions(vector.edits[0].intervention.transform)
    except InputError:
        return False
    return True


def probe_of(model: Model, vector: SteeringVector) -> Probe:
    """The direction of a vector's first edit, turned so that the concept is at its larger end.

    With several dimensions it is the line through the classes' means, or the first where no factors are known.

    Raises:
        InputError: The vector does not fit the model, or has no direction.
    """
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


def read(model: Model, probe: Probe, texts: Sequence[LabelledText]) -> list[Latents]:
    """The coordinates of every token of prompts and answers.

    Args:
        model: The model, plain.
        probe: What is read.
        texts: Prompts, rendered with the chat template, and answers.

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
    site = probe.vector.edits[0].intervention.site
    direction = probe.direction.to(model.device)
    found = []
    for ids, prompt, states in zip(rows, prompts, capture(model.hf, rows, [site]), strict=True):
        values = (states[site][prompt.prefix_length :].float() @ direction).cpu().tolist()
        tokens = tuple(str(model.tokenizer.decode([token])) for token in ids[prompt.prefix_length :])
        found.append(Latents(tokens, tuple(values)))
    return found
