"""Which multiplier? Found without a judge, from what the steered model writes by itself.

A teacher-forced match to the counterfactual is blind to steering that is too weak: every token of the right answer
already pulls the next one along. So the steered model writes freely from held-out inputs, and the unsteered model reads
what it wrote. For an answer y, with base the prompt that was steered and target its counterfactual of the same pair:

    evidence(y)   = sum_t clip(log p(y_t | target) - log p(y_t | base), -3, 3)
    likeliness(y) = mean_t max(log p(y_t | target), log p(y_t | base))               p = the unsteered model

Where pairs hold openings only (`Sure.`), evidence is read as far as the pair's own answer to its target prompt reaches:
what follows is about the subject of the base prompt, and would speak against every answer that keeps to it.

An answer counts if it is *turned* (its evidence lies above the midpoint between the medians of the model's own greedy
answers to target and to base prompts) and *likely* (its likeliness reaches the 10th percentile of answers that the
model draws at temperature 1). Where nearly all of the greedy ones end, one that does not end is not even read. The
effect of a multiplier is the share of answers that count. Steering that is too weak fails the first condition, steering
that is too strong the second. (Greedy answers are likelier than what a model draws, so their 10th percentile would fail
good ones: docs/design/calibration.md.)

Of multipliers with equal effects the one counts that does least where nothing is to be done: KL(plain || steered) on
prompts that are of the wanted kind already. Equal also means equally far: an answer's *degree* is where its evidence
lies on the way from the input's own base answer to its own target answer, so one that is half turned is no equal.

The target of eliciting is the pair's positive input and its base the negative one; for suppressing the other way round.
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.fitting.likelihood import final_states, kl_divergences, log_likelihoods
from trimtab.models.chat import RenderedPrompt
from trimtab.models.model import Model
from trimtab.progress import ProgressCallback
from trimtab.steering import Steering, SteeringVector
from trimtab.steering.factors import DIRECTIONS

CLIP = 3.0
"""Most evidence of one token, in nats: one impossible token must not decide about an answer."""
PERCENTILE = 0.1
"""Share of natural answers that may be less likely than an answer that counts."""
ENDING = 0.9
"""If so many of the natural answers end by themselves, one that does not end does not count."""
SLACK = 1.1
"""How much longer than the longest natural answer a steered one may get."""
TOKENS = 24576
"""Prompt and answer tokens in one batch of answers."""
START = (1.0, 1.5)
"""Multipliers that are tried at first."""
STEP = 1.5
"""Factor between multipliers, up and down from there."""
MOST_UP, MOST_DOWN = 5, 3
"""Steps at most."""
WORSE = 0.1
"""A share that lies so far below the best one is past the peak."""
HIGH = 0.9
"""Above this share any step that does not help is."""
PEAK = 0.5
"""A share up to this ends no climb: between half-turned and turned answers there may be a valley of unlikely ones."""
BROKEN = 0.25
"""Where fewer of the answers are likely at two strengths running, more is no use."""
ENOUGH = 0.98
"""A share from which on nothing better is looked for."""
ALIKE = 0.03
"""Differences of the mean degree below this do not count."""
REFINEMENTS = 2
"""How often the gaps beside the best are divided; the second time only to save strength."""

Ids = tuple[int, ...]
Try = tuple[str, Steering]
"""A direction and what is to work in it."""
Read = tuple[Tensor, Tensor]
"""Log-probabilities (n,) of an answer's tokens behind the positive and behind the negative prompt."""


@dataclass(frozen=True)
class Effect:
    """What one steering does to free-running answers.

    Attributes:
        share: Answers that count, of all.
        turned: Share with enough evidence.
        likely: Share that is likely enough.
        n: Answers.
        degree: How far the answers that count are turned, summed over them and divided by all: at most `share`.
    """

    share: float
    turned: float
    likely: float
    n: int
    degree: float

    @property
    def rank(self) -> tuple[float, float]:
        """What effects are compared by: the share, then what came near."""
        return self.share, self.turned + self.likely


class Verdict(NamedTuple):
    """What the reader says of one answer."""

    turned: bool
    likely: bool
    degree: float


UNREAD = Verdict(turned=False, likely=False, degree=0.0)


class Reader:
    """The unsteered model as a reader of free-running answers, in both directions.

    Args:
        model: The model, not steered.
        positive: Prompts with the concept, rendered.
        negative: For each its counterpart without.
        windows: For each the lengths of the pair's positive and negative response, in tokens; None = no limit.
        max_new_tokens: Longest natural answer.
        progress: Told while answers are written.

    Raises:
        InputError: Fewer than two pairs of prompts.
    """

    def __init__(
        self,
        model: Model,
        positive: Sequence[RenderedPrompt],
        negative: Sequence[RenderedPrompt],
        windows: Sequence[tuple[int, int]] | None = None,
        *,
        max_new_tokens: int,
        progress: ProgressCallback | None = None,
    ) -> None:
        if len(positive) < 2:
            raise InputError(f"too few pairs of prompts to read answers to: {len(positive)}; give at least two")
        self._model, self._progress = model, progress
        self._positive, self._negative = tuple(positive), tuple(negative)
        n = len(self._positive)
        self._windows = [(sys.maxsize, sys.maxsize)] * n
        limit = _limit(model, (*positive, *negative), max_new_tokens)
        self.natural: list[Ids] = self._answers((*self._positive, *self._negative), None, limit)
        """The model's own answers: to all positive prompts, then to all negative ones."""
        if windows is not None and _are_openings(windows, self.natural):
            self._windows = list(windows)
        self._limit = min(limit, round(SLACK * max(map(len, self.natural))) + 1)
        self._must_end = sum(map(model.is_ended, self.natural)) >= ENDING * len(self.natural)
        everyone = [*range(n), *range(n)]
        some = [k for k in range(2 * n) if k % 2 == k // n % 2]  # half of each side; a percentile needs no more
        prompts = (*self._positive, *self._negative)
        drawn = self._answers([prompts[k] for k in some], None, self._limit, temperature=1.0)
        self._floor = float(_likeliness(self._read([k % n for k in some], drawn)).quantile(PERCENTILE))
        read = self._read(everyone, self.natural)
        self._midpoint: dict[str, float] = {}
        self._ends: dict[str, tuple[Tensor, Tensor]] = {}
        judged: dict[str, list[Verdict]] = {}
        self._known: dict[tuple[str, int, Ids], Verdict] = {}  # steering that works writes what is natural, or nearly
        for direction in DIRECTIONS:
            evidence = self._evidence(direction, everyone, read)
            with_it, without = evidence[:n], evidence[n:]
            self._midpoint[direction] = float(with_it.quantile(0.5) + without.quantile(0.5)) / 2
            self._ends[direction] = (without, with_it) if direction == "elicit" else (with_it, without)
            given = zip(self.natural, self._verdicts(direction, everyone, read), strict=True)
            judged[direction] = [one if self._may_count(answer) else UNREAD for answer, one in given]
            natural = zip(everyone, self.natural, judged[direction], strict=True)
            self._known |= {(direction, k, answer): one for k, answer, one in natural}
        self.natural_effects = {
            "elicit": (_effect(judged["elicit"][:n]), _effect(judged["elicit"][n:])),
            "suppress": (_effect(judged["suppress"][n:]), _effect(judged["suppress"][:n])),
        }
        """For each direction what natural answers to target prompts reach, and what those to base prompts do."""

    @property
    def n(self) -> int:
        """Inputs a direction."""
        return len(self._positive)

    @property
    def contrast(self) -> float:
        """Share of natural answers to target prompts that read as turned, less that to base ones; the lesser way."""
        return min(target.turned - base.turned for target, base in self.natural_effects.values())

    def effects(self, tries: Sequence[Try], n: int | None = None) -> list[Effect]:
        """What each (direction, steering) does to the answers to the first `n` inputs (all by default); one batch."""
        n = self.n if n is None else min(n, self.n)
        base = {"elicit": self._negative, "suppress": self._positive}
        rows = [
            (direction, steering, k) for direction, steering in tries for k in range(n)
        ]  # one strength ends at once
        prompts = [base[direction][k] for direction, _, k in rows]
        answers = self._answers(prompts, [steering for _, steering, _ in rows], self._limit)
        asked = {(way, k, answer) for (way, _, k), answer in zip(rows, answers, strict=True) if self._may_count(answer)}
        for direction in DIRECTIONS:
            found = sorted((k, answer) for way, k, answer in asked - set(self._known) if way == direction)
            which, texts = [k for k, _ in found], [answer for _, answer in found]
            given = self._verdicts(direction, which, self._read(which, texts))
            self._known |= {(direction, k, answer): one for (k, answer), one in zip(found, given, strict=True)}
        judged = [self._known.get((way, k, answer), UNREAD) for (way, _, k), answer in zip(rows, answers, strict=True)]
        return [_effect(judged[start : start + n]) for start in range(0, len(rows), n)]

    def side_effect(self, direction: str, steering: Steering, n: int | None = None) -> float:
        """What steering does where it should do nothing: to prompts that are of the wanted kind already.

        Returns:
            KL(plain || steered) in nats a token, on the plain model's answers to the first `n` of them (or all).
        """
        n = self.n if n is None else min(n, self.n)
        eliciting = direction == "elicit"
        prompts = (self._positive if eliciting else self._negative)[:n]
        answers = self.natural[:n] if eliciting else self.natural[self.n : self.n + n]
        plain = final_states(self._model, prompts, answers)
        steered = final_states(self._model, prompts, answers, [steering] * n)
        return statistics.fmean(float(part.mean()) for part in kl_divergences(self._model, plain, steered))

    def _may_count(self, answer: Ids) -> bool:
        """Whether an answer is worth reading: one that runs on where others end is not."""
        return not self._must_end or self._model.is_ended(answer)

    def _verdicts(self, direction: str, which: Sequence[int], read: Sequence[Read]) -> list[Verdict]:
        if not read:
            return []
        evidence = self._evidence(direction, which, read)
        turned = evidence > self._midpoint[direction]
        likely = _likeliness(read) >= self._floor
        base, target = (end[torch.tensor(which)] for end in self._ends[direction])
        way = target - base
        degree = torch.where(way > 0, ((evidence - base) / way).clamp(0, 1), 1.0)
        return [Verdict(*each) for each in zip(turned.tolist(), likely.tolist(), degree.tolist(), strict=True)]

    def _answers(
        self,
        prompts: Sequence[RenderedPrompt],
        steerings: Sequence[Steering] | None,
        limit: int,
        temperature: float = 0.0,
    ) -> list[Ids]:
        longest = max(len(prompt.ids) for prompt in prompts)
        return self._model.respond(
            prompts,
            steering=steerings,
            max_new_tokens=limit,
            temperature=temperature,
            batch_size=max(1, TOKENS // (longest + limit)),
            progress=self._progress,
        )

    def _read(self, which: Sequence[int], answers: Sequence[Ids]) -> list[Read]:
        """What the model thinks of answers to the inputs of these numbers, token by token."""
        yes = log_likelihoods(self._model, [self._positive[k] for k in which], answers)
        no = log_likelihoods(self._model, [self._negative[k] for k in which], answers)
        return list(zip(yes, no, strict=True))

    def _evidence(self, direction: str, which: Sequence[int], read: Sequence[Read]) -> Tensor:
        """Evidence (m,) for the target of a direction."""
        side, sign = (0, 1) if direction == "elicit" else (1, -1)
        found = [
            sign * (yes - no)[: self._windows[k][side]].clamp(-CLIP, CLIP).sum()
            for k, (yes, no) in zip(which, read, strict=True)
        ]
        return torch.stack(found)


def _likeliness(read: Sequence[Read]) -> Tensor:
    """Likeliness (m,) of answers."""
    return torch.stack([torch.maximum(yes, no).mean() for yes, no in read])


def _are_openings(windows: Sequence[tuple[int, int]], natural: Sequence[Ids]) -> bool:
    """Whether the pairs' responses are far shorter than what the model answers: only its beginning is then theirs."""
    lengths = [length for window in windows for length in window]
    return 2 * statistics.median(lengths) < statistics.median(map(len, natural))


def _effect(verdicts: Sequence[Verdict]) -> Effect:
    n = len(verdicts)
    turned, likely = (sum(verdict[part] for verdict in verdicts) / n for part in (0, 1))
    counting = [verdict.degree for verdict in verdicts if verdict.turned and verdict.likely]
    return Effect(len(counting) / n, turned, likely, n, sum(counting) / n)


def _farness(effect: Effect) -> float:
    """How far the answers that count are turned, on average over these alone."""
    return effect.degree / effect.share if effect.share else 0.0


@dataclass(frozen=True)
class Curve:
    """Effects along the multiplier, in one direction.

    Attributes:
        effects: By multiplier.
        side_effects: In nats a token, for multipliers between which the effects do not decide.
    """

    effects: Mapping[float, Effect]
    side_effects: Mapping[float, float] = field(default_factory=dict)

    @property
    def equals(self) -> list[float]:
        """The multipliers with the greatest effect that turn answers as far, in ascending order.

        Above `HIGH` it is the share alone that is compared; and of those nearer to 1 also the ones count whose share is
        one answer less, as so little is not worth more strength.
        """
        greatest = max(effect.rank for effect in self.effects.values())
        if greatest[0] < HIGH:
            equal = {m: effect for m, effect in self.effects.items() if effect.rank == greatest}
        else:
            top = {m: effect for m, effect in self.effects.items() if effect.share == greatest[0]}
            nearest = min(abs(math.log(m)) for m in top)
            equal = top | {
                m: effect
                for m, effect in self.effects.items()
                if abs(math.log(m)) < nearest and effect.share >= greatest[0] - 1.01 / effect.n
            }
        farthest = max(_farness(effect) for effect in equal.values() if effect.share == greatest[0])
        return sorted(m for m, effect in equal.items() if _farness(effect) >= farthest - ALIKE)

    @property
    def best(self) -> float:
        """Of the equals the one with the least side effect, or the one nearest to 1, which is what the data have."""
        return min(self.equals, key=lambda m: (self.side_effects.get(m, math.inf), abs(math.log(m))))

    @property
    def greatest(self) -> Effect:
        """The effect there."""
        return self.effects[self.best]

    def fresh(self, multipliers: Sequence[float]) -> list[float]:
        """Those of the multipliers, to three digits, that are not on the curve yet."""
        return sorted({float(f"{m:.3g}") for m in multipliers} - set(self.effects))

    def with_more(self, effects: Mapping[float, Effect]) -> Curve:
        """The curve with the effects of more multipliers."""
        return replace(self, effects={**self.effects, **effects})

    def weighed(self, side_effect: Weighed) -> Curve:
        """The curve with the side effects of the equals, if there are several."""
        decides = len(self.equals) > 1 and self.greatest.share > 0
        fresh = [m for m in self.equals if m not in self.side_effects] if decides else []
        return replace(self, side_effects={**self.side_effects, **{m: side_effect(m) for m in fresh}})

    def record(self) -> list[list[float]]:
        """Rows of (multiplier, share, turned, likely), by multiplier: what a vector keeps of it."""
        return [[m, effect.share, effect.turned, effect.likely] for m, effect in sorted(self.effects.items())]


Weighed = Callable[[float], float]
"""(multiplier) -> its side effect."""
Search = Generator[list[float], Mapping[float, Effect], Curve]
"""Asks for the effects of multipliers, until it knows the curve."""


def curve_search(side_effect: Weighed) -> Search:
    """Asks for the effects of as many multipliers as it takes to find the best.

    From `START` upwards until answers that were good get worse, or none can get better, or they are broken; downwards
    while the lowest is among the best; then the geometric middles of the gaps beside the best, `REFINEMENTS` times, if
    they can be better or save strength.
    """
    curve = Curve(dict((yield list(START))))
    for _ in range(MOST_UP):
        below, highest = sorted(curve.effects)[-2:]
        top, best = curve.effects[highest], curve.greatest
        worse = best.share > PEAK and top.share < best.share - WORSE
        fallen = worse or (best.share >= HIGH and curve.best != highest)
        broken = max(top.likely, curve.effects[below].likely) < BROKEN
        if best.share >= ENOUGH or fallen or broken:
            break
        curve = curve.with_more((yield curve.fresh([highest * STEP])))
    for _ in range(MOST_DOWN):
        lowest = min(curve.effects)
        if lowest not in curve.equals:
            break
        curve = curve.with_more((yield curve.fresh([lowest / STEP])))
    for again in range(REFINEMENTS):
        curve = curve.weighed(side_effect)
        enough = curve.greatest.share >= ENOUGH
        if again and not enough:
            break
        known = sorted(curve.effects)
        place = known.index(curve.best)
        around = known[max(0, place - 1) : place + (1 if enough else 2)]
        middles = curve.fresh([(low * high) ** 0.5 for low, high in itertools.pairwise(around)])
        if middles:
            curve = curve.with_more((yield middles))
    return curve.weighed(side_effect)


def calibrated_curves(reader: Reader, vectors: Sequence[SteeringVector]) -> list[dict[str, Curve]]:
    """For each vector its curve in each of its directions, over all inputs of the reader; all share batches."""

    def side_effect(k: int, direction: str) -> Weighed:
        return lambda m: reader.side_effect(direction, vectors[k].steering(direction, m))

    ways = [(k, direction) for k, vector in enumerate(vectors) for direction in vector.directions]
    searches = {way: curve_search(side_effect(*way)) for way in ways}
    wanted = {way: next(search) for way, search in searches.items()}
    curves: dict[tuple[int, str], Curve] = {}
    while wanted:
        asked = [(way, m) for way, multipliers in wanted.items() for m in multipliers]
        found = reader.effects([(direction, vectors[k].steering(direction, m)) for (k, direction), m in asked])
        effects = dict(zip(asked, found, strict=True))
        for way, multipliers in list(wanted.items()):
            try:
                wanted[way] = searches[way].send({m: effects[way, m] for m in multipliers})
            except StopIteration as stop:
                curves[way] = stop.value
                del wanted[way]
    return [{way: curves[k, way] for way in vector.directions} for k, vector in enumerate(vectors)]


def _limit(model: Model, prompts: Sequence[RenderedPrompt], tokens: int) -> int:
    """New tokens that fit the context behind the longest prompt."""
    if model.context_length is None:
        return tokens
    return max(1, min(tokens, model.context_length - max(len(prompt.ids) for prompt in prompts)))
