"""LinEAS: affine maps a feature at all sites, trained together to bring one class's distribution to the other's.

Source: "LinEAS: End-to-end Learning of Activation Steering with a Distributional Loss", arXiv 2503.10679
(apple/ml-lineas, read in the fork JDIXON-2/ml-lineas).

    h' = h + m (w * h + b - h) at every site     loss = mean over sites of sum over features of W2^2
    penalty: l1 (|w - 1|_1 + |b|_1) + group sum over sites of sqrt(d) (|w - 1|_2 + |b|_2), by a proximal step

A row is the mean over a prompt with its response; the target's rows come from the plain model, the source's from the
model with all maps at work. `elicit` carries negative states onto positive ones, `suppress`, trained by itself, the
other way round. The pairs' pairing is not used.

The loss compares sorted values, so nothing keeps w positive: where means are far apart, training may end at the
mirrored map -s2/s1, which is as good for the loss and turns the order of states round. And Adam's steps do not get
shorter with the gradient, so that with it the penalty chooses features and hardly shrinks those that stay; with `sgd`
it is the minimum of loss + penalty.

Shapes: d hidden, m sites.

Deviations: Adam for 100 steps of 8 rows at 0.02 (published: 1000 steps of Adam at 0.001 in the code, of SGD at 0.1 in
the paper), so that a fit takes seconds to a minute on a processor; classes of different sizes are compared by their
quantiles; tokens of the template prefix take no part.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from trimtab.data import PairSet
from trimtab.errors import FitDivergedError, InputError
from trimtab.fitting import FitOptions
from trimtab.fitting.closed import closed_states, closed_vector
from trimtab.fitting.items import Side
from trimtab.fitting.lineas import Schedule, TrainedMaps, source_run, train_maps
from trimtab.fitting.norm_sites import SITES, ReadSettings, check_choice, places
from trimtab.fitting.settings import MAX_STEP, check_number, checked_layers
from trimtab.fitting.states import ClassStates
from trimtab.fitting.transport import DiagonalMap, class_rows
from trimtab.methods.linear_act import map_edits
from trimtab.methods.method import Method
from trimtab.models import Model
from trimtab.steering import Site, SteeringVector

OPTIMISERS = ("adam", "sgd")


@dataclass(frozen=True)
class LineasSettings(ReadSettings):
    """Settings of LinEAS.

    Args:
        sites: `norm_out` (published) or `resid_post`.
        layers: Blocks whose sites are edited, a number, several or as text ("2,3"); None = all.
        steps: Steps of the optimiser, a direction.
        lr: First learning rate.
        batch_size: Rows a step, of either class.
        optimiser: `adam` or `sgd`.
        l1: Weight of the absolute values of w - 1 and b.
        group: Weight of their norms, a site.
        refit: Train again without penalty on the features that were left.

    Raises:
        InputError: A setting outside its range, or a reading of single tokens, which have no place in the loss.
    """

    sites: str = "norm_out"
    layers: int | tuple[int, ...] | str | None = None
    steps: int = 100
    lr: float = 0.02
    batch_size: int = 8
    optimiser: str = "adam"
    l1: float = 0.0
    group: float = 0.0
    refit: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reading == "tokens":
            raise InputError(
                "reading is 'tokens'; lineas compares one state a row: take mean, prompt, response or last"
            )
        check_choice("sites", self.sites, SITES)
        check_choice("optimiser", self.optimiser, OPTIMISERS)
        for name in ("steps", "batch_size"):
            check_number(name, getattr(self, name), least=1, whole=True)
        check_number("lr", self.lr, above=0, most=MAX_STEP)
        for name in ("l1", "group"):
            check_number(name, getattr(self, name), least=0, most=MAX_STEP)
        if self.layers is not None:
            object.__setattr__(self, "layers", checked_layers(_numbers(self.layers)))

    def blocks(self, n_blocks: int) -> tuple[int, ...]:
        """The blocks whose sites are edited, of a model of so many."""
        if self.layers is None:
            return tuple(range(n_blocks))
        assert not isinstance(self.layers, str)  # read when they were set
        return (self.layers,) if isinstance(self.layers, int) else self.layers

    @property
    def schedule(self) -> Schedule:
        """How the maps are trained."""
        return Schedule(self.steps, self.lr, self.batch_size, self.optimiser, self.l1, self.group)


def _numbers(layers: object) -> object:
    if not isinstance(layers, str):
        return layers
    try:
        return [int(part) for part in layers.split(",")]
    except ValueError:
        raise InputError(f"layers is {layers!r}; name block numbers, such as 2,3") from None


def fit_lineas(model: Model, pairs: PairSet, settings: LineasSettings, options: FitOptions) -> SteeringVector:
    """Maps in both directions at all sites.

    Raises:
        InputError: A layer the model does not have, no pairs or such that do not fit the context, or a start vector,
            order or trace, which it has no use for.
        FitDivergedError: The loss left the finite numbers; carries the maps before.
    """
    began = time.monotonic()
    sites, reason = places(model, settings.sites, settings.blocks(model.n_blocks))
    read = closed_states("lineas", model, pairs, settings.closed(settings.reading), options, sites)
    states = [read[site] for site in sites]
    ways: tuple[tuple[str, Side], ...] = (("elicit", "negative"), ("suppress", "positive"))
    found = {way: _trained(model, pairs, states, source, settings, options) for way, source in ways}
    edits = [edit for maps in found.values() for edit in map_edits(_maps(sites, maps), settings.positions)]
    m = len(sites)
    figures = {
        "steps": sum(len(maps.losses) for maps in found.values()),
        "loss_first": {way: maps.losses[0] for way, maps in found.items() if maps.losses},
        "loss_last": {way: maps.losses[-1] for way, maps in found.items() if maps.losses},
        "support": {way: float(maps.support.double().mean()) for way, maps in found.items()},
        **({"sites": reason} if reason else {}),
    }
    directions = {"elicit": tuple(range(m)), "suppress": tuple(range(m, 2 * m))}
    vector = closed_vector("lineas", model, pairs, settings, tuple(edits), directions, began, figures)
    for way, maps in found.items():
        if maps.diverged_at is not None:
            raise FitDivergedError(
                f"the loss of step {maps.diverged_at} ({way}) is not finite; lower lr (now {settings.lr:g}), or load "
                "the model in float32",
                maps.diverged_at,
                vector,
            )
    return vector


def _trained(
    model: Model,
    pairs: PairSet,
    states: list[ClassStates],
    source: Side,
    settings: LineasSettings,
    options: FitOptions,
) -> TrainedMaps:
    """The maps that carry one class onto the other, and once more on their support if asked for."""
    rows = class_rows(model, pairs, source, settings)
    targets = [(s.positive if source == "negative" else s.negative).to(model.device) for s in states]
    generator = torch.Generator().manual_seed(settings.seed)
    schedule, progress = settings.schedule, options.progress
    with source_run(model, rows, [s.site for s in states], settings) as run:
        found = train_maps(run, len(rows), targets, schedule, generator, progress=progress, stage=f"fit {source}")
        if not settings.refit or found.diverged_at is not None:
            return found
        plain = Schedule(schedule.steps, schedule.lr, schedule.batch, schedule.optimiser)
        return train_maps(
            run,
            len(rows),
            targets,
            plain,
            generator,
            support=found.support,
            start=found,
            progress=progress,
            stage=f"refit {source}",
        )


def _maps(sites: tuple[Site, ...], maps: TrainedMaps) -> dict[Site, DiagonalMap]:
    return {site: DiagonalMap(1 + delta, bias) for site, delta, bias in zip(sites, maps.delta, maps.bias, strict=True)}


LINEAS = Method(
    name="lineas",
    family="map",
    paper="arXiv 2503.10679",
    summary="affine maps at all norms, trained together to match the classes' distributions",
    settings=LineasSettings,
    fit=fit_lineas,
    places="model",
)
