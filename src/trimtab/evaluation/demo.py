"""The main job on the built-in model, whole: a vector a concept, both ways, against its controls."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trimtab.data import PairSet, load_pairs
from trimtab.evaluation.controls import matched, random_directions, without_labels
from trimtab.evaluation.traits import Measured, Reference, Task, choose_right, measure
from trimtab.methods import fit
from trimtab.progress import renamed
from trimtab.steering import Clamp, SteeringVector

if TYPE_CHECKING:
    from trimtab.models import Model
    from trimtab.progress import ProgressCallback

CONCEPTS = ("refusal", "sea", "past-tense")
"""What the demo learns: the refusal, a concept that inserts sentences and one that rewrites every sentence."""


@dataclass(frozen=True)
class DemoSettings:
    """How large the demo is. None of it depends on the concept.

    Attributes:
        train: Pairs to learn from.
        epochs: Passes over them. Started from the means, in small batches and at half the published rate, so few
            find what the default finds in ten times the time.
        batch_size: Pairs a step.
        lr: Learning rate.
        start: Where training begins.
        calibration: Pairs to calibrate on.
        prompts: Held-out prompts that are judged.
        choices: Multiple-choice questions.
        doses: Multipliers of the dose-response figure, besides the calibrated ones.
        dose_prompts: Prompts judged at each of them.
        seed: Decides prompts and controls.
    """

    train: int = 48
    epochs: int = 4
    batch_size: int = 4
    lr: float = 0.02
    start: str = "means"
    calibration: int = 40
    prompts: int = 40
    choices: int = 100
    doses: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0)
    dose_prompts: int = 10
    seed: int = 0

    @property
    def training(self) -> dict[str, Any]:
        """Settings of every fit, the control's too."""
        return {"epochs": self.epochs, "batch_size": self.batch_size, "lr": self.lr, "start": self.start}


@dataclass(frozen=True)
class ConceptResult:
    """What the demo found for one concept.

    Attributes:
        name: Of the concept.
        vector: The calibrated vector.
        task: The held-out prompts.
        rows: `unsteered`, `prompted`, `elicit`, `suppress`.
        controls: `random`, `shuffled`: eliciting with vectors that should do nothing.
        choice_accuracy: Share of multiple-choice questions answered rightly, for `unsteered`, `elicit`, `suppress`.
        doses: For each direction (multiplier, mean score).
        seconds: Wall clock of the fit, its search and its calibration.
    """

    name: str
    vector: SteeringVector
    task: Task
    rows: Mapping[str, Measured]
    controls: Mapping[str, Measured]
    choice_accuracy: Mapping[str, float]
    doses: Mapping[str, Sequence[tuple[float, float]]]
    seconds: float


def study(model: Model, name: str, settings: DemoSettings, progress: ProgressCallback | None = None) -> ConceptResult:
    """Fits, calibrates and judges one concept; layer and multipliers are found, not given.

    Args:
        model: The organism.
        name: A trait of `trimtab.evaluation.traits`, which is also the name of its pairs.
        settings: How large the study is.
        progress: Told of every stage.

    Raises:
        KeyError: There is no such trait.
    """
    began = time.monotonic()
    progress = renamed(progress, lambda stage: f"{name}: {stage}")
    pairs = load_pairs(name)
    train, held = pairs[: settings.train], pairs[settings.train : settings.train + settings.calibration]
    vector = fit("cdas", model, train, calibration_pairs=held, progress=progress, **settings.training)
    seconds = time.monotonic() - began
    controls = control_vectors(model, vector, train, settings.seed, settings.training, progress)
    task = Task.of(name, settings.prompts, settings.seed)
    reference = Reference(model, task)
    steered = {way: vector.steering(way) for way in vector.directions}
    doses = {
        (way, m): vector.steering(way, m)
        for way in vector.directions
        for m in sorted({*settings.doses, vector.multipliers.get(way, 1.0)})
    }
    judged = measure(
        model,
        task,
        {way: (way, steering) for way, steering in steered.items()}
        | {name: ("elicit", control.elicit()) for name, control in controls.items()}
        | {f"{way} {m}": (way, steering) for (way, m), steering in doses.items()},
        reference=reference,
        fewer={f"{way} {m}": settings.dose_prompts for way, m in doses},
        progress=progress,
    )
    right = choose_right(model, {"unsteered": None, **steered}, settings.choices, settings.seed)
    return ConceptResult(
        name,
        vector,
        task,
        rows=reference.rows | {way: judged[way] for way in steered},
        controls={control: judged[control] for control in controls},
        choice_accuracy={row: sum(answers) / len(answers) for row, answers in right.items()},
        doses={
            way: [(m, _mean(judged[f"{way} {m}"].score)) for of, m in doses if of == way] for way in vector.directions
        },
        seconds=seconds,
    )


def control_vectors(
    model: Model,
    vector: SteeringVector,
    pairs: PairSet,
    seed: int,
    training: Mapping[str, Any],
    progress: ProgressCallback | None = None,
) -> dict[str, SteeringVector]:
    """`random`: a random direction; `shuffled`: one fitted in the same way to pairs without labels.

    Args:
        model: The model.
        vector: The vector they accompany, a clamp of CDAS.
        pairs: What it was fitted to.
        seed: Decides both.
        training: Settings of its fit.
        progress: Told of its steps.

    Raises:
        InputError: The vector does not elicit by a single clamp with factors, or what `trimtab.fit` refuses.
    """
    randomly = random_directions(vector, seed)
    told = renamed(progress, lambda stage: stage.replace("fit", "control"))
    layer = vector.edits[vector.directions["elicit"][0]].intervention.site.layer
    unlabelled = fit(
        "cdas", model, without_labels(pairs, seed), layer=layer, calibrate=False, progress=told, **training
    )
    transform = unlabelled.edits[0].intervention.transform
    assert isinstance(transform, Clamp)
    return {
        "random": matched(model, vector, randomly, pairs, "random"),
        "shuffled": matched(model, vector, transform.directions, pairs, "shuffled"),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
