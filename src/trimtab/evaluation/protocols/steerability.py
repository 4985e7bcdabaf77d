"""Steerability: does steering bring a text where it was asked to go, and does it move anything else?

Source: "A Course Correction in Steerability" (tchang1997/steerability).

A text is a point in a space of goals, each scaled to 0 to 1 (`evaluation/goal_space.py`). A probe takes a source at z0
and asks for a target z*, which differs in one to three goals. Contenders of one label, each made for a goal, reach for
it together: a goal that is to rise is elicited, one that is to fall suppressed, at the multiplier gain * |move|, and
the edits add up. The plain model that is asked for the same in words is the row beside them, the plain model that is
asked for nothing the floor.

Deviations: sources are taken as they come, not reweighted towards an even spread; whether a rewritten text still says
the same is not judged; formality is by estimated parts of speech.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.errors import InputError
from trimtab.evaluation.contenders import PLAIN, Contender, labels_of, with_plain
from trimtab.evaluation.generating import GREEDY, Writing, generate
from trimtab.evaluation.goal_sources import GoalSources
from trimtab.evaluation.goal_space import LEAST_MOVE, MOST_ACTIVE, MOST_MOVE, Point, Probe, draw_probe
from trimtab.evaluation.jobs import Job, seed_of
from trimtab.evaluation.records import Log, Run
from trimtab.methods.steerable import Baseline, Use
from trimtab.models import Model
from trimtab.models.messages import as_messages, with_system
from trimtab.progress import ProgressCallback
from trimtab.steering.factors import check_multiplier

SOURCE, PROBE, WISH = "source", "probe", "wish"
"""Conditions: the plain model on a source's prompt, a contender on it, the plain model with the wish in words."""
REACH = "reach"
"""The direction of a text for which goals are moved together, up or down as the probe asks."""
PROMPTED, UNTOUCHED = "prompted", "untouched"
"""Rows: the plain model that is asked in words, and source texts as they stand."""


@dataclass(frozen=True)
class SteerabilitySettings:
    """Settings of the protocol.

    Args:
        gains: Multiplier a unit of a goal's scale, each tried by every label that has factors.
        probes: Probes a source.
        most_active: Goals that a probe moves at most.
        least_move: Smallest move of a goal, on its scale of 0 to 1.
        most_move: Largest.
        prompted: Whether the plain model is asked in words as well.
        max_new_tokens: Of a text.
        temperature: Of the sampling; 0 = greedy.
        resamples: Of the bootstrap.
        seed: Of probes, samples and bootstrap.

    Raises:
        InputError: A value that cannot be.
    """

    gains: tuple[float, ...] = (1.0,)
    probes: int = 1
    most_active: int = MOST_ACTIVE
    least_move: float = LEAST_MOVE
    most_move: float = MOST_MOVE
    prompted: bool = True
    max_new_tokens: int = 128
    temperature: float = GREEDY
    resamples: int = 2000
    seed: int = 42

    def __post_init__(self) -> None:
        for gain in self.gains:
            check_multiplier(gain)
        if not self.gains or min(self.gains) <= 0 or len(set(self.gains)) < len(self.gains):
            raise InputError(f"gains are {list(self.gains)}; give one or more, each once, all above 0")
        if self.probes < 1 or self.resamples < 1:
            raise InputError(f"{self.probes} probes a source, {self.resamples} resamples; give at least one of each")
        self.draw((0.5,), random.Random(0))  # refuses moves that cannot be before a model is asked anything

    def draw(self, source: Sequence[float], draw: random.Random) -> Probe:
        """A probe from a source."""
        return draw_probe(source, draw, most=self.most_active, least_move=self.least_move, most_move=self.most_move)


@dataclass(frozen=True)
class Asked:
    """A probe of a run.

    Attributes:
        number: Of the probe.
        source: Number of its source.
        start: z0, all goals.
        target: z*, all goals.
        moves: By active goal, target minus start.
    """

    number: int
    source: int
    start: Point
    target: Point
    moves: Mapping[str, float]


def draw_probes(data: GoalSources, starts: Sequence[Point], settings: SteerabilitySettings) -> list[Asked]:
    """The probes of every source, over the goals that may be asked for; the others are to stay.

    Args:
        data: The sources.
        starts: Where each stands, all goals.
        settings: See there.
    """
    places = [data.goals.index(name) for name in data.asked]
    found: list[Asked] = []
    for source, start in enumerate(starts):
        for k in range(settings.probes):
            draw = random.Random(seed_of(settings.seed, PROBE, source, k))
            probe = settings.draw([start[place] for place in places], draw)
            target = list(start)
            for place, wanted in zip(places, probe.target, strict=True):
                target[place] = wanted
            moves = {data.asked[goal]: probe.target[goal] - probe.source[goal] for goal in probe.active}
            found.append(Asked(len(found), source, start, tuple(target), moves))
    return found


@dataclass(frozen=True)
class ContenderSet:
    """Contenders of one label, that reach for targets together.

    Attributes:
        label: Theirs.
        members: By goal.
    """

    label: str
    members: Mapping[str, Contender]

    def gains(self, settings: SteerabilitySettings) -> tuple[float, ...]:
        """Those that it is tried at: all, or 1 where no multiplier changes what it does."""
        has_factor = any(each.has_factor(way) for each in self.members.values() for way in each.ways)
        return settings.gains if has_factor else (1.0,)

    def uses(self, moves: Mapping[str, float], gain: float) -> tuple[Use, ...] | None:
        """What is at work for a probe; None where it lacks a goal or direction, or needs two baselines at once."""
        found = []
        for name, move in moves.items():
            member, way = self.members.get(name), "elicit" if move > 0 else "suppress"
            if member is None or member.steerable is None or way not in member.ways:
                return None
            multiplier = gain * abs(move) if member.has_factor(way) else 1.0
            scale = None if member.vector is None else member.scale
            found.append(Use(member.steerable, way, multiplier, scale))
        return tuple(found) if sum(isinstance(use.steerable, Baseline) for use in found) < 2 else None


def contender_sets(data: GoalSources, contenders: Sequence[Contender]) -> list[ContenderSet]:
    """The contenders by label.

    Raises:
        InputError: A label of the protocol's own rows, a contender for something that is not asked for, or two for one
            goal.
    """
    given = [each for each in with_plain(contenders) if each.steerable is not None]
    for each in given:
        if each.label in (PROMPTED, UNTOUCHED):
            raise InputError(f"{each.label!r} is what a row of the protocol is called; choose another label")
        if each.concept not in data.asked:
            raise InputError(
                f"{each.label} was made for {each.concept!r}, which is not asked for; goals are {', '.join(data.asked)}"
            )
    found = []
    for label in labels_of(given):
        members = [each for each in given if each.label == label]
        by_goal = {str(each.concept): each for each in members}
        if len(by_goal) < len(members):
            raise InputError(f"{label} has two contenders for one goal; tell them apart: LABEL=DIR")
        found.append(ContenderSet(label, {name: by_goal[name] for name in data.asked if name in by_goal}))
    return found


def source_plan(data: GoalSources, settings: SteerabilitySettings) -> list[Job]:
    """The plain model on every source's prompt."""
    (plain,) = with_plain(())
    return [
        Job(plain, prompt, number, SOURCE, None, None, None, seed_of(settings.seed, SOURCE, number))
        for number, prompt in enumerate(data.prompts)
    ]


def plan(
    data: GoalSources, probes: Sequence[Asked], contenders: Sequence[Contender], settings: SteerabilitySettings
) -> list[Job]:
    """The texts for every probe: the plain model's, asked in words, and each label's at every gain.

    Raises:
        InputError: As `contender_sets`.
    """
    sets, (plain,) = contender_sets(data, contenders), with_plain(())
    jobs: list[Job] = []
    for asked in probes if settings.prompted else ():
        prompt, seed = data.prompts[asked.source], seed_of(settings.seed, WISH, asked.number)
        wish = with_system(as_messages(prompt), data.wish(asked.moves))
        jobs.append(Job(plain, wish, asked.number, WISH, None, None, None, seed))
    for each in sets:
        contender = Contender(each.label, None, None)
        for gain in each.gains(settings):
            for asked in probes:
                uses = each.uses(asked.moves, gain)
                if uses is not None:
                    seed = seed_of(settings.seed, PROBE, asked.number, gain)
                    prompt = data.prompts[asked.source]
                    jobs.append(Job(contender, prompt, asked.number, PROBE, REACH, gain, None, seed, uses=uses))
    return jobs


def run_steerability(
    model: Model,
    data: GoalSources,
    contenders: Sequence[Contender],
    settings: SteerabilitySettings,
    run: Run,
    *,
    batch_size: int = 32,
    progress: ProgressCallback | None = None,
) -> None:
    """Put everything on record that is not there yet: texts in `generations`, where they stand in `items`.

    Args:
        model: The model, plain.
        data: The sources and their goals.
        contenders: Who is compared; each for one of the goals that may be asked for.
        settings: See there.
        run: Where it goes.
        batch_size: Rows a forward.
        progress: Told of every stage.

    Raises:
        InputError: As `contender_sets`, or a contender for another model; vectors of one label that cannot be at work
            together.
    """
    contender_sets(data, contenders)  # refuses before the model is asked anything
    for each in contenders:
        each.require_fit(model)
    generations = run.log("generations")
    writing = Writing(settings.max_new_tokens, settings.temperature, batch_size)
    sources = source_plan(data, settings)
    generate(model, sources, generations, writing, progress)
    texts = {row["id"]: row["text"] for row in generations.rows}
    answers = [texts[job.id] for job in sources]
    starts = [data.space.place(text) for text in (answers if data.texts is None else data.texts)]
    probes = draw_probes(data, starts, settings)
    jobs = plan(data, probes, contenders, settings)
    generate(model, jobs, generations, writing, progress)
    wanted = [(PLAIN, sources[asked.source], asked) for asked in probes]
    wanted += [(PROMPTED if job.condition == WISH else job.contender.label, job, probes[job.number]) for job in jobs]
    _put_places(data, wanted, generations, run.log("items"))


def _put_places(data: GoalSources, wanted: Sequence[tuple[str, Job, Asked]], generations: Log, log: Log) -> None:
    """Put on record where each text stands, and where it was asked to."""
    done = log.keys("label", "multiplier", "probe")
    texts = {row["id"]: row["text"] for row in generations.rows}
    rows: list[dict[str, Any]] = []
    for label, job, asked in wanted:
        if (label, job.multiplier, asked.number) in done:
            continue
        rows.append(
            {
                "id": job.id,
                "label": label,
                "multiplier": job.multiplier,
                "probe": asked.number,
                "prompt": asked.source,
                "source": list(asked.start),
                "target": list(asked.target),
                "reached": list(data.space.place(texts[job.id])),
            }
        )
    log.append(rows)
