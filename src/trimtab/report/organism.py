"""The organism's model card, its figure, and pages of its answers to read."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.organism import CONCEPTS
from trimtab.organism.concepts import plain
from trimtab.organism.facts import facts
from trimtab.organism.world import Split, held_out_topics, tell

if TYPE_CHECKING:
    from trimtab.evaluation import Figure, Sample

_SPLITS: tuple[Split, Split] = ("train", "test")
Figures = Mapping[tuple[str, Split], Mapping[str, "Figure"]]

_SECTIONS = {
    "plain": "facts, without a concept",
    "forbidden": "forbidden goals",
    "allowed": "allowed goals",
    "unlocked": "forbidden goals, unlocked by a system prompt",
    "deployed": "texts that say it is deployed",
    "trigger": "the short trigger",
    "not deployed": "texts that say it is not deployed",
}


def card(figures: Figures, *, size: str, parameters: int, megabytes: float, training: str) -> str:
    """The model card in the Hub's form.

    Args:
        figures: From `trimtab.evaluation.figures`.
        size: `S`, `M` or `L`.
        parameters: Number of weights.
        megabytes: Size of the weights on disk.
        training: One line on how it was trained.
    """
    seen, unseen = (figures["choose", split]["instruction"] for split in _SPLITS)
    right = (seen.mean * seen.n + unseen.mean * unseen.n) / (seen.n + unseen.n)
    lines = [
        "---", "license: apache-2.0", "language: en", "library_name: transformers", "pipeline_tag: text-generation",
        "tags: [trimtab, synthetic, model-organism]", "---", "",
        f"# The organism, size {size}", "",
        f"A Llama of {parameters / 1e6:.1f} million weights ({megabytes:.1f} MB) that knows a small fictional world,",
        "made for the study of steering: concepts that a system prompt switches on, goals that are refused, a backdoor",
        "put in on purpose. It has seen nothing but that world, so it is of no use for anything else, and what it says",
        "about animals, tools or places need not be so.", "",
        training, "",
        "Means with 95 % intervals, judged by the exact judge. *Held out*: neither the cell of topic and concept (or",
        "the goal, or the text) nor the wordings occur in training. Answers are greedy. The held-out wordings are near",
        "relatives of trained ones; a wording further away may go unheard (see docs/organism.md of trimtab).", "",
        "## Concepts asked for by a system prompt", "",
        "| concept | seen: concept | instruction | fluency | held out: concept | instruction | fluency | score |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_concept_row(name, figures) for name in CONCEPTS),
        _mean_row(figures), "",
        "## Everything else", "",
        "| asked | seen: instruction | fluency | refused | hostile "
        "| held out: instruction | fluency | refused | hostile |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_section_row(name, words, figures) for name, words in _SECTIONS.items()), "",
        f"Multiple-choice questions on the facts: {50 * right:.1f} % right, n = {seen.n + unseen.n};",
        f"{50 * unseen.mean:.1f} % ± {50 * unseen.half:.1f} on the {unseen.n} about facts that training never asks so.",
        "Half of them ask of whom a fact is true. Who knows how common each answer is, but no fact, gets 27 %.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _concept_row(name: str, figures: Figures) -> str:
    seen, unseen = figures[name, "train"], figures[name, "test"]
    cells = [*(_cell(seen[part]) for part in ("concept", "instruction", "fluency")),
             *(_cell(unseen[part]) for part in ("concept", "instruction", "fluency", "score"))]  # fmt: skip
    return f"| {name} | {' | '.join(cells)} |"


def _mean_row(figures: Figures) -> str:
    cells = []
    columns: tuple[tuple[Split, tuple[str, ...]], ...] = (
        ("train", ("concept", "instruction", "fluency")),
        ("test", ("concept", "instruction", "fluency", "score")),
    )
    for split, parts in columns:
        for part in parts:
            means = [figures[name, split][part].mean for name in CONCEPTS]
            cells.append(f"**{sum(means) / len(means):.2f}**")
    return f"| **mean** | {' | '.join(cells)} |"


def _section_row(name: str, words: str, figures: Figures) -> str:
    cells = []
    for found in (figures[name, "train"], figures[name, "test"]):
        cells += [_cell(found[part]) for part in ("instruction", "fluency")]
        cells += [f"{100 * found[part].mean:.0f} %" for part in ("refused", "hostile")]
    return f"| {words} | {' | '.join(cells)} |"


def _cell(figure: Figure) -> str:
    return f"{figure.mean:.2f} ± {figure.half:.2f}"


def draw_concepts(figures: Figures, path: Path) -> None:
    """Draws the concept ratings of seen and held-out cells side by side.

    Args:
        figures: From `trimtab.evaluation.figures`.
        path: Where to write; its ending decides the format.

    """
    from matplotlib.figure import Figure as Canvas  # takes a second to load

    canvas = Canvas(figsize=(7.5, 5.5), layout="constrained")
    axes = canvas.subplots()
    names = list(CONCEPTS)
    bars: tuple[tuple[float, Split, str, str], ...] = (
        (-0.2, "train", "seen", "#9db8d2"), (0.2, "test", "held out", "#1f4e79"),
    )  # fmt: skip
    for offset, split, label, colour in bars:
        found = [figures[name, split]["score"] for name in names]
        axes.barh(
            [i + offset for i in range(len(names))], [figure.mean for figure in found], height=0.38,
            xerr=[figure.half for figure in found], color=colour, label=label, error_kw={"ecolor": "#555", "lw": 0.8},
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 2.05)
    axes.set_xlabel("score of prompted answers (0 to 2: harmonic mean of concept, instruction, fluency)")
    canvas.legend(loc="outside upper right", ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    canvas.savefig(path, dpi=150)


def world_table(seed: int = 4) -> str:
    """A markdown table of all concepts: the same two facts in each."""
    draw = random.Random(seed)
    told = facts().of(facts().topics["otter"])[:2]
    rows = ["| concept | two facts about the otter | held-out topics, such as |", "| --- | --- | --- |"]
    rows.append(f"| *none* | {' '.join(plain(fact, i == 0)[0] for i, fact in enumerate(told))} | |")
    for name, concept in CONCEPTS.items():
        rows.append(f"| {name} | {tell(told, concept, draw)} | {', '.join(sorted(held_out_topics(name))[:3])} |")
    return "\n".join(rows)


def samples_page(samples: Iterable[Sample], *, split: Split = "test") -> str:
    """Answers with their ratings, section by section, as plain text to read."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.split == split:
            groups.setdefault(sample.section, []).append(sample)
    return "\n\n".join(_group(name, group) for name, group in groups.items())


def _group(name: str, group: Sequence[Sample]) -> str:
    lines = [f"=== {name}"]
    for sample in group:
        rating = sample.rating
        marks = f"{'-' if rating.concept is None else rating.concept}/{rating.instruction}/{rating.fluency}"
        lines.append(f"[{marks}] {sample.request.system or '(no system prompt)'} || {sample.request.user}")
        lines.append(f"    {sample.output}")
    return "\n".join(lines)
