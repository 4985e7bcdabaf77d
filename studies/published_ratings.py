"""Published ratings through our own aggregation, against the figures that were published with them.

    python -m studies.published_ratings axbench PATH     # a checkout (or bare git directory) of stanfordnlp/axbench
    python -m studies.published_ratings sae PATH         # of technion-cs-nlp/saes-are-good-for-steering

Nothing of either is kept here: files are read out of the checkout's history, at the commits below, and figures printed.

`axbench`: the branch `qinan` holds runs with a rating and the judge's reply for every text, the means that AxBench's
own code made of them, scores of texts for concept detection, and its AUROCs. `sae`: fluency and instruction ratings at
one multiplier a feature, with their means; its concept ratings are a file of over 4 MiB, which a snapshot may lack.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from trimtab.evaluation import statistics
from trimtab.evaluation.judges.parsing import parse_rating

AXBENCH = "f9a6a59986a846a41966a0e4a24fb2520d457016"
SAE = "8f11a99997f56978b9933e49768b674ede07eb7c"
ASPECTS = {"concept": "relevance_concept", "instruction": "relevance_instruction", "fluency": "fluency"}
JUDGED = "LMJudgeEvaluator"
SAME = 1e-9
FULL: Mapping[str, Any] = defaultdict(lambda: {"scores": [2] * 5, "mean_score": 2.0})
"""The most that the concept ratings of a feature's five texts can be."""
DETECTED = 5e-4
"""AUROCs that differ by less agree: published scores are rounded to four figures."""


@dataclass(frozen=True)
class Checkout:
    """Files of a repository at one commit.

    Attributes:
        path: A work tree or a bare git directory.
        commit: Its hash.
    """

    path: Path
    commit: str

    def names(self) -> list[str]:
        """All files."""
        return self._git("ls-tree", "-r", "--name-only", self.commit).decode().splitlines()

    def read(self, name: str) -> bytes | None:
        """A file's bytes, None where the checkout lacks them (large files may be left out of a snapshot)."""
        try:
            return self._git("cat-file", "blob", f"{self.commit}:{name}")
        except subprocess.CalledProcessError:
            return None

    def _git(self, *command: str) -> bytes:
        return subprocess.run(["git", "-C", self.path, *command], check=True, capture_output=True).stdout


def rows_of(data: bytes) -> list[dict[str, Any]]:
    """A parquet file's rows."""
    return parquet.read_table(io.BytesIO(data)).to_pylist()


def check_steering(rows: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """One run: what was compared and what differs, counted.

    A run that suppresses scores 2 - C, how little of the concept there is. Some of these runs turn C round when it is
    aggregated, others already where it is kept.

    Args:
        rows: A text each, with its ratings and the judge's replies.
        published: A concept each, with means by multiplier.
    """
    column = _ending(rows[0], f"_{JUDGED}")
    theirs = [row[column] for row in rows]
    parts = {aspect: [row[f"{column}_{name}_ratings"] for row in rows] for aspect, name in ASPECTS.items()}
    replies = {aspect: [row[f"{column}_{name}_completions"] for row in rows] for aspect, name in ASPECTS.items()}
    found = Counter[str]()
    for aspect, given in parts.items():
        read = [parse_rating(reply, aspect) for reply in replies[aspect]]
        pairs = [(one, other) for one, other in zip(read, given, strict=True) if one is not None]
        turned = aspect == "concept" and all(one == 2 - other for one, other in pairs)
        found["runs that keep 2 - C"] += turned
        found["replies"] += len(read)
        found["replies unreadable"] += read.count(None)
        found["replies read otherwise"] += sum(one != (2 - other if turned else other) for one, other in pairs)
    scores = [statistics.harmonic(text) for text in zip(*parts.values(), strict=True)]
    if _differ(scores, theirs):
        parts["concept"] = [2 - rating for rating in parts["concept"]]
        scores = [statistics.harmonic(text) for text in zip(*parts.values(), strict=True)]
        found["runs that score 2 - C"] += 1
    found["texts"], found["texts differ"] = len(rows), _differ(scores, theirs)
    at: dict[tuple[int, float], list[float | None]] = {}
    for score, row in zip(scores, rows, strict=True):
        at.setdefault((row["concept_id"], row["factor"]), []).append(score)
    for concept in published:
        (told,) = concept["results"][JUDGED].values()
        ours = [statistics.mean(at[concept["concept_id"], factor]) for factor in told["factor"]]
        found["means"] += len(ours)
        found["means differ"] += _differ(ours, told["lm_judge_rating"])
    return found


def halves(rows: Sequence[Mapping[str, Any]], scores: Sequence[float | None]) -> list[statistics.Selected]:
    """Each concept's multiplier, chosen on the first half of its prompts and scored on the second."""
    split = statistics.split_half(row["input_id"] for row in rows)
    table: dict[int, dict[float, dict[int, float | None]]] = {}
    for row, score in zip(rows, scores, strict=True):
        table.setdefault(row["concept_id"], {}).setdefault(row["factor"], {})[row["input_id"]] = score
    found = [statistics.select(by_factor, split) for by_factor in table.values()]
    return [selected for selected in found if selected is not None]


def check_detection(rows: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """AUROC, threshold and hard-negative accuracy of every concept, against the published ones."""
    found = Counter[str]()
    for concept in published:
        results = concept["results"]
        if "AUCROCEvaluator" not in results:
            continue
        (theirs,), (near,) = (results[name].values() for name in ("AUCROCEvaluator", "HardNegativeEvaluator"))
        mine = [row for row in rows if row["concept_id"] == concept["concept_id"]]
        scaled = statistics.min_max([row[_ending(row, "_max_act")] for row in mine])
        kinds: dict[str, list[float]] = {"positive": [], "negative": [], "hard negative": []}
        for row, score in zip(mine, scaled, strict=True):
            kinds[row["category"]].append(score)
        positive, negative, hard = kinds.values()
        found["aurocs"] += 1
        found["aurocs differ"] += abs(statistics.auroc(positive, negative) - theirs["roc_auc"]) >= DETECTED
        threshold = statistics.youden(positive, negative)
        other = theirs["optimal_threshold"]
        moved = abs(threshold - other) >= DETECTED
        found["thresholds"] += 1
        found["thresholds differ"] += moved
        # In whole texts: their shares are floats, in which equal gains may come out unequal.
        found["of these, equally good"] += moved and _gain(positive, negative, threshold) == _gain(
            positive, negative, other
        )
        if near:
            ours = statistics.hard_negative_accuracy(positive, negative, hard)
            found["hard negatives"] += 1
            found["hard negatives differ"] += abs(ours - near["macro_avg_accuracy"]) >= DETECTED
    return found


def axbench(path: Path) -> str:
    """All runs of the branch, as a table, and the sums."""
    checkout = Checkout(path, AXBENCH)
    names = checkout.names()
    lines = ["| run | texts | chosen on half | other half | best there | all texts |", "|---|---|---|---|---|---|"]
    total: Counter[str] = Counter()
    for name in names:
        if not name.endswith("/evaluate/steering_data.parquet"):
            continue
        data, told = checkout.read(name), checkout.read(name.replace("steering_data.parquet", "steering.jsonl"))
        if data is None or told is None:
            total["runs without their ratings or their figures"] += 1
            continue
        rows, published = rows_of(data), [json.loads(line) for line in told.splitlines()]
        found = check_steering(rows, published)
        total.update(found)
        total["runs"] += 1
        lines.append(_line(name.removesuffix("/evaluate/steering_data.parquet"), rows))
    for name in names:
        told = checkout.read(name) if name.endswith("/evaluate/latent.jsonl") else None
        data = checkout.read(name.replace("evaluate/latent.jsonl", "inference/latent_data.parquet")) if told else None
        if told and data:
            total["detection runs"] += 1
            total.update(check_detection(rows_of(data), [json.loads(line) for line in told.splitlines()]))
    return "\n".join([*lines, "", *(f"{name}: {number}" for name, number in total.items())])


def sae(path: Path) -> str:
    """What the published ratings of SAE features allow to be checked."""
    checkout = Checkout(path, SAE)
    folder = "data/axbench_llm_scores/gemma2_9b_it_131_llm_{}_score_cache.json"
    chosen = json.loads(checkout.read("data/steering_factors/gemma2_9b_it_131_best_steering_factors.json") or b"{}")
    found, lines = Counter[str](), list[str]()
    tables: dict[str, dict[str, Any]] = {}
    for aspect, name in (("concept", "concept"), ("instruction", "instruct"), ("fluency", "fluency")):
        data = checkout.read(folder.format(name))
        if data is None:
            lines.append(f"{aspect} ratings: not in this checkout")
            continue
        tables[aspect] = json.loads(data)
        for key, entry in tables[aspect].items():
            read = [parse_rating(reply, aspect) for reply in entry["responses"]]
            found["means"] += 1
            found["means differ"] += _differ([statistics.mean(entry["scores"])], [entry["mean_score"]])
            found["multipliers differ"] += entry["best_steering_factor"] != chosen[key]
            found["replies"] += len(read)
            found["replies read otherwise"] += sum(
                one != other for one, other in zip(read, entry["scores"], strict=True)
            )
    lines += [f"{name}: {number}" for name, number in found.items()]
    return "\n".join([*lines, *(_layer(tables, layer) for layer in ("20", "31"))])


def _layer(tables: Mapping[str, Mapping[str, Any]], layer: str) -> str:
    """The mean score of a layer's features; without concept ratings, the most that any could have made of it."""
    keys = [key for key in tables["fluency"] if key.startswith(f"{layer}_")]
    whole = list(tables.values()) if "concept" in tables else [FULL, *tables.values()]
    texts, means = list[float | None](), list[float | None]()
    for key in keys:
        parts = [table[key] for table in whole]
        texts.append(statistics.mean(statistics.harmonic(t) for t in zip(*(p["scores"] for p in parts), strict=True)))
        means.append(statistics.harmonic([part["mean_score"] for part in parts]))
    what = "is" if "concept" in tables else "is at most"
    return (
        f"layer {layer}, {len(keys)} features: the mean of texts' harmonic means {what} {statistics.mean(texts):.4f}, "
        f"that of harmonic means of a feature's mean ratings {statistics.mean(means):.4f}"
    )


def _line(run: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A run in the table: its score as AxBench would report it, with an interval over concepts."""
    scores = [row[_ending(row, f"_{JUDGED}")] for row in rows]
    found = halves(rows, scores)
    held_out = [one.test_score for one in found if one.test_score is not None]
    shown = statistics.bootstrap(held_out, seed=0)
    assert shown is not None
    return (
        f"| {run.removeprefix('axbench/')} | {len(rows)} "
        f"| {statistics.mean([one.selection_score for one in found]):.3f} "
        f"| {shown.value:.3f} ({shown.low:.3f} to {shown.high:.3f}) "
        f"| {statistics.mean([one.oracle_score for one in found]):.3f} | {statistics.mean(scores):.3f} |"
    )


def _ending(row: Mapping[str, Any], ending: str) -> str:
    """The one column of that ending; a run's files don't always name its method alike."""
    (column,) = [name for name in row if name.endswith(ending)]
    return column


def _differ(ours: Sequence[float | None], theirs: Sequence[float | None]) -> int:
    """How many pairs of numbers are not the same."""
    return sum(
        one != other and (one is None or other is None or abs(one - other) >= SAME)
        for one, other in zip(ours, theirs, strict=True)
    )


def _gain(positive: Sequence[float], negative: Sequence[float], threshold: float) -> int:
    """True minus false positives, each times the number of the other side's texts."""
    hits, alarms = (sum(score >= threshold for score in side) for side in (positive, negative))
    return hits * len(negative) - alarms * len(positive)


def main() -> None:
    """Prints the comparison that is named."""
    studies = {"axbench": axbench, "sae": sae}
    if len(sys.argv) != 3 or sys.argv[1] not in studies:
        raise SystemExit(__doc__)
    sys.stdout.write(studies[sys.argv[1]](Path(sys.argv[2])) + "\n")


if __name__ == "__main__":
    main()
