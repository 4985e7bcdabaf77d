"""Prompt: the concept's system prompt, put in front of every prompt.

Source: the baseline that AxBench's methods are measured against; Wu et al., "AxBench: Steering LLMs? Even Simple
Baselines Outperform Sparse Autoencoders", arXiv 2501.17148; code stanfordnlp/axbench.

    elicit: x' = text, x        suppress: x' = "do not follow: text", x

Deviations: AxBench has a language model write the text from the concept's name, and puts it before the user's question.
Here it is the system message that the pairs already have, or one that is given, and it is a system message (which
templates without such a role put before the first user turn).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trimtab.data import ContrastPair, PairSet
from trimtab.errors import InputError, check_characters
from trimtab.fitting import FitOptions
from trimtab.fitting.vectors import origin
from trimtab.methods.method import Method
from trimtab.methods.saved import Saved
from trimtab.methods.steerable import Applied, Baseline, require_one
from trimtab.models import Model, Prompt
from trimtab.models.messages import as_messages, split_system, with_system
from trimtab.steering import ModelCard
from trimtab.steering.content import JSON
from trimtab.steering.factors import DIRECTIONS

SUPPRESS = "Do not follow this instruction, wherever it is given: {text} Answer as if it had not been given."
"""What stands in front of a prompt to suppress a concept, unless it is given."""


@dataclass(frozen=True)
class PromptSettings:
    """Settings of the prompt.

    Args:
        text: System message that asks for the concept; None = the one that the positive prompts of the pairs have.
        suppress: System message that takes it away; None = an instruction not to follow `text`.

    Raises:
        InputError: A text that is empty or none at all.
    """

    text: str | None = None
    suppress: str | None = None

    def __post_init__(self) -> None:
        for name in ("text", "suppress"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"{name} is {value!r}; give a system message, or leave it out")
            check_characters(name, value)


@dataclass(frozen=True, eq=False)
class SystemPrompt(Baseline):
    """A system message for each direction; other attributes as of every `Baseline`.

    Attributes:
        texts: By direction.
    """

    texts: Mapping[str, str]
    model: ModelCard
    settings: Mapping[str, JSON]
    provenance: Mapping[str, JSON]
    method: str = "prompt"
    directions: Sequence[str] = DIRECTIONS

    def check_fits(self, model: Model) -> list[str]:
        """A text fits every model."""
        return []

    @contextmanager
    def applied(self, model: Model, direction: str, multiplier: float, *, force: bool = False) -> Iterator[Applied]:
        """The text in front of every prompt; a system message of the prompt's own comes behind it, after a blank line.

        Raises:
            InputError: A multiplier other than 1.
        """
        require_one("prompt", multiplier, "a text is there or not")
        text = self.texts[direction]

        def in_front(prompt: Prompt) -> Prompt:
            return with_system(as_messages(prompt), text)

        yield Applied(prompt=in_front)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write its directory, atomically; InputError as `Saved.write`."""
        return Saved.of(self).write(path, overwrite=overwrite)


def usual_system(pairs: Sequence[ContrastPair]) -> tuple[str, int, int]:
    """The system message that positive prompts have and negative ones lack: the text, how often, how many wordings.

    Of several wordings it is the most frequent, of equally frequent ones the first.

    Raises:
        InputError: A positive prompt has none of its own, or several.
    """
    found: Counter[str] = Counter()
    for number, pair in enumerate(pairs, 1):
        (positive, _), (negative, _) = (
            split_system(as_messages(prompt)) for prompt in (pair.positive_input, pair.negative_input)
        )
        own = [text for text in positive if text not in negative]
        if len(own) != 1:
            has = "no system message" if not own else f"{len(own)} system messages"
            raise InputError(
                f"pair {number}: the positive prompt has {has} that the negative one lacks, and the prompt is to be "
                "one; give it as text (--set text='...')"
            )
        found[own[0]] += 1
    text, times = found.most_common(1)[0]
    return text, times, len(found)


def fit_prompt(model: Model, pairs: PairSet, settings: PromptSettings, options: FitOptions) -> SystemPrompt:
    """The system prompt that is given, or that the pairs have.

    Raises:
        InputError: No text is given and the pairs have none, or several in one prompt.
    """
    began = time.monotonic()
    notes = origin(model, pairs)
    text = settings.text
    if text is None:
        text, times, wordings = usual_system(pairs)
        notes["wording"] = {"times": times, "wordings": wordings}
    suppress = settings.suppress
    if suppress is None:
        suppress = SUPPRESS.format(text=text if text.rstrip().endswith((".", "!", "?")) else f"{text.rstrip()}.")
    seconds = round(time.monotonic() - began, 3)
    return SystemPrompt(
        {"elicit": text, "suppress": suppress},
        model.card(),
        {"text": text, "suppress": suppress},
        notes | {"training": {"seconds": seconds, "steps": 0}},
    )


def restore_prompt(saved: Saved) -> SystemPrompt:
    """From its folder; InputError if there is no text for a direction, or one that is none."""
    saved.check_directions(SystemPrompt.directions)
    texts = {"elicit": saved.settings.get("text"), "suppress": saved.settings.get("suppress")}
    if not all(isinstance(text, str) and text.strip() for text in texts.values()):
        raise InputError(f"the texts of the prompt are {texts}; fetch or fit it again")
    return SystemPrompt({way: str(text) for way, text in texts.items()}, saved.model, saved.settings, saved.provenance)


PROMPT = Method(
    name="prompt",
    family="baseline",
    paper="arXiv 2501.17148",
    summary="the concept's system prompt in front of every prompt",
    settings=PromptSettings,
    fit=fit_prompt,
    places="model",
    restore=restore_prompt,
)
