"""AxBench: every figure of its tables by hand, what is planned, and that neither batch nor order moves it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pyarrow import parquet

import trimtab as tt
from tests.planted import LAYER, NOISE, WITH, WITHOUT, planted
from trimtab.errors import InputError
from trimtab.evaluation.concept_sources import load_concepts
from trimtab.evaluation.concepts import HARD, NEGATIVE, POSITIVE, Concept, LabelledText, organism_concepts
from trimtab.evaluation.contenders import Contender
from trimtab.evaluation.detection import can_be_read, probe_of, read
from trimtab.evaluation.evaluate import evaluate
from trimtab.evaluation.judges import RATED, Judge, Verdict
from trimtab.evaluation.judges.exact import ExactJudge
from trimtab.evaluation.judges.local import LocalJudge
from trimtab.evaluation.protocols.axbench import GRIDS, AxbenchSettings, plan
from trimtab.evaluation.protocols.axbench_summary import summarise
from trimtab.evaluation.protocols.protocol import Asked
from trimtab.evaluation.records import Run, open_run
from trimtab.models.capture import capture
from trimtab.models.tiny import make_tiny_model
from trimtab.report.page.page import make_page
from trimtab.report.page.reading import read_report
from trimtab.steering import (
    Add,
    Clamp,
    Edit,
    Factors,
    FactorStats,
    Intervention,
    Positions,
    Site,
    SteeringVector,
)

# Ratings by hand: (label, direction, multiplier, concept) -> of prompts 0 to 3 the ratings of concept, instruction and
# fluency; "-" could not be read, "..." was never asked. Prompts 0 and 1 choose, 2 and 3 report. Scores that occur:
#   222 -> 2     111 -> 1     one 0 -> 0     211 -> 3 / (1/2 + 1 + 1) = 1.2     122, 221 -> 3 / (1 + 1/2 + 1/2) = 1.5
# and, suppressing, with 2 - C in the place of C: 022 -> 2, 122 -> 1.5, 222 -> 0, 002 -> 0.
ELICIT = {
    # m@1 on a: the choosing means of 1 and 2 tie at (2 + 1) / 2 = 1.5, so the smaller is taken
    ("m@1", 1.0, "a"): "222 111 222 111",
    ("m@1", 2.0, "a"): "111 222 211 211",
    ("m@1", 1.0, "b"): "022 022 222 222",  # chooses 0
    ("m@1", 2.0, "b"): "222 022 022 111",  # chooses 1, and is taken
    ("m@1", 1.0, "c"): "--- --- --- ---",  # nobody could read c
    ("m@1", 2.0, "c"): "--- --- --- ---",
    ("m@3", 1.0, "a"): "022 022 222 222",  # chooses 0
    ("m@3", 2.0, "a"): "111 111 -22 111",  # chooses 1, and is taken
    ("m@3", 1.0, "b"): "111 111 111 111",  # chooses 1
    ("m@3", 2.0, "b"): "222 222 222 211",  # chooses 2, and is taken
    ("prompt", 1.0, "a"): "222 222 221 222",  # generated once
    ("prompt", 1.0, "b"): "222 222 222 022",
}
SUPPRESS = {
    ("m@1", 1.0, "a"): "022 022 122 222",  # chooses 2, and is taken
    ("m@1", 2.0, "a"): "002 022 022 022",  # chooses 1
    ("m@1", 1.0, "b"): "... 222 022 022",  # chooses 0
    ("m@1", 2.0, "b"): "122 222 111 222",  # chooses 0.75, and is taken
}
PLAIN = {
    ("free", "a"): "022 022 022 122",
    ("free", "b"): "022 022 022 022",
    ("free", "c"): "222 222 222 222",
    ("carrying", "a"): "222 222 222 122",
    ("carrying", "b"): "222 222 222 222",
    ("carrying", "c"): "022 022 022 022",
}
NLL = {
    ("unsteered", "a"): [9.0, 9.0, 0.5, 0.5],
    ("m@1", "a"): [9.0, 9.0, 1.0, 2.0],
    ("m@1", "b"): [9.0, 9.0, 3.0, 0.0],
}
ITEMS = {
    ("m@1", "a"): {POSITIVE: [3.0, 2.0], NEGATIVE: [1.0, 2.0], HARD: [2.5]},
    ("m@1", "b"): {POSITIVE: [1.0], NEGATIVE: [0.0]},
    ("m@3", "a"): {POSITIVE: [1.0]},  # without a negative text there is nothing to tell
}
CONTENDERS = [
    {"label": "m@1", "concept": "a", "method": "m", "layers": [1]},
    {"label": "m@1", "concept": "b", "method": "m", "layers": [1]},
    {"label": "m@1", "concept": "c", "method": "m", "layers": [1]},
    {"label": "m@3", "concept": "a", "method": "m", "layers": [3]},
    {"label": "m@3", "concept": "b", "method": "m", "layers": [3]},
    {"label": "prompt", "concept": "a", "method": "prompt", "layers": []},
    {"label": "prompt", "concept": "b", "method": "prompt", "layers": []},
]


def hand_made(path, **settings):
    """A run's directory with these ratings, written as a run writes them; returns its summary."""
    given = [(("unsteered", None, None, concept), condition, text) for (condition, concept), text in PLAIN.items()]
    given += [((of, "elicit", m, concept), "free", text) for (of, m, concept), text in ELICIT.items()]
    given += [((of, "suppress", m, concept), "carrying", text) for (of, m, concept), text in SUPPRESS.items()]
    identity = {
        "settings": json.loads(json.dumps(vars(AxbenchSettings(multipliers=(1.0, 2.0), **settings)))),
        "model": {"id": "hand"},
        "contenders": CONTENDERS,
    }
    with open_run(path, "axbench", identity, {}) as run:
        for (label, way, multiplier, concept), condition, text in given:
            for prompt, ratings in enumerate(text.split()):
                name = f"{label} {way} {multiplier} {concept} {condition} {prompt}"
                row = {"id": name, "label": label, "concept": concept, "way": way, "multiplier": multiplier}
                row |= {"condition": condition, "prompt": prompt, "instruction": f"Say {prompt}.", "text": name}
                run.log("generations").append([row])
                run.log("ratings").append(
                    {"id": name, "aspect": aspect, "rating": None if one == "-" else float(one), "attempts": 1}
                    for aspect, one in zip(RATED, ratings, strict=True)
                    if one != "."
                )
                if (label, concept) in NLL:
                    value = NLL[label, concept][prompt]
                    run.log("measures").append([{"id": name, "name": "nll", "value": value, "n": 3}])
        for (label, concept), texts in ITEMS.items():
            for category, values in texts.items():
                for value in values:
                    row = {"label": label, "concept": concept, "category": category, "value": value}
                    row |= {"tokens": ["x"], "values": [value], "negative": None, "positive": None}
                    run.log("items").append([row])
        run.finish(summarise(run))
    return Run.read(path).summary


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    return hand_made(tmp_path_factory.mktemp("hand") / "run")


def table(summary, name):
    (found,) = [one for one in summary["tables"] if one["id"] == name]
    return {row["label"]: row["values"] for row in found["rows"]}


def block(summary, kind, name):
    (found,) = [one for one in summary[kind] if one["id"] == name]
    return found


def means(row, *keys):
    return [row[key]["value"] for key in keys]


PARTS = ("score", "concept", "instruction", "fluency")


class TestSummary:
    def test_the_plain_model_is_scored_on_the_reporting_prompts_of_every_concept(self, summary):
        rows = table(summary, "elicit")
        # a: (0 + 1.5) / 2 = 0.75, b: 0, c: 2; concept (0 + 1) / 2, 0, 2
        assert means(rows["unsteered"], *PARTS) == pytest.approx([2.75 / 3, 2.5 / 3, 2, 2])
        # where the prompt asks: a: (2 + 1.5) / 2 = 1.75, b: 2, c: 0; concept (2 + 1) / 2, 2, 0
        assert means(rows["prompted"], *PARTS) == pytest.approx([3.75 / 3, 3.5 / 3, 2, 2])
        # suppressing counts 2 - C: a: (0 + 1.5) / 2, b: 0, c: 2; concept as it is: 1.5, 2, 0
        suppressed = table(summary, "suppress")
        assert means(suppressed["unsteered"], *PARTS) == pytest.approx([2.75 / 3, 3.5 / 3, 2, 2])
        assert list(suppressed) == ["unsteered", "m@1"]

    def test_intervals_are_over_concepts(self, summary):
        rows = table(summary, "elicit")
        # three concepts at 0.75, 0 and 2: all three draws are the lowest in 1 of 27 samples, more than 2.5 %
        assert rows["unsteered"]["score"] == pytest.approx({"value": 2.75 / 3, "low": 0, "high": 2, "n": 3})
        # two concepts: both draws are the lower one in a quarter of the samples
        assert rows["m@1"]["score"] == pytest.approx({"value": 1.0, "low": 0.5, "high": 1.5, "n": 2})
        assert rows["prompt"]["score"] == pytest.approx({"value": 1.375, "low": 1.0, "high": 1.75, "n": 2})

    def test_a_contender_is_scored_at_the_multiplier_that_the_other_half_chose(self, summary):
        rows = table(summary, "elicit")
        # a at 1: scores 2, 1, concept 2, 1; b at 2: scores 0, 1, concept 0, 1, instruction and fluency 2, 1
        assert means(rows["m@1"], *PARTS) == pytest.approx([(1.5 + 0.5) / 2, (1.5 + 0.5) / 2, 1.5, 1.5])
        # a at 2: one text unreadable, the other 1; instruction of both 2, 1; b at 2: 2, 1.2, concept 2, 2
        assert means(rows["m@3"], *PARTS) == pytest.approx([(1 + 1.6) / 2, (1 + 2) / 2, 1.5, 1.5])
        # a: 1.5, 2 with fluency 1, 2; b: 2, 0 with concept 2, 0
        assert means(rows["prompt"], *PARTS) == pytest.approx([(1.75 + 1) / 2, (2 + 1) / 2, 2, (1.5 + 2) / 2])

    def test_to_suppress(self, summary):
        rows = table(summary, "suppress")
        # a at 1: 122 -> 1.5 and 222 -> 0, concept 1.5; b at 2: 111 -> 1 and 222 -> 0, concept 1.5, instruction 1.5
        assert means(rows["m@1"], *PARTS) == pytest.approx([(0.75 + 0.5) / 2, 1.5, 1.75, 1.75])
        # in hindsight a at 2 and b at 1 would have had 2
        assert means(rows["m@1"], "oracle", "multiplier") == [2.0, 1.0]
        assert "wins" not in rows["m@1"]  # the reference does not suppress

    def test_hindsight_is_the_best_on_the_reporting_half(self, summary):
        rows = table(summary, "elicit")
        assert means(rows["m@1"], "oracle") == [(1.5 + 2) / 2]  # a at 1, b at 1
        assert means(rows["m@3"], "oracle") == [(2 + 1.6) / 2]  # a at 1 or 2, whose readable texts have 2 and 1; b at 2
        assert means(rows["prompt"], "oracle") == [1.375]
        assert "oracle" not in rows["unsteered"]

    def test_the_median_of_the_chosen_multipliers_is_shown_the_lower_of_two(self, summary):
        rows = table(summary, "elicit")
        assert rows["m@1"]["multiplier"] == {"value": 1.0, "low": None, "high": None, "n": 2}  # 1 and 2
        assert rows["m@3"]["multiplier"]["value"] == 2.0  # 2 and 2
        assert rows["prompt"]["multiplier"]["value"] == 1.0

    def test_wins_ties_and_losses_against_the_reference(self, summary):
        rows = table(summary, "elicit")
        # a: 2 against 1.5, 1 against 2; b: 0 against 2, 1 against 0
        assert rows["m@1"]["wins"] == "2/0/2"
        # a: unreadable, 1 against 2; b: 2 against 2, 1.2 against 0
        assert rows["m@3"]["wins"] == "1/1/1"
        assert rows["prompt"]["wins"] is None
        assert "wins" not in rows["unsteered"]

    def test_perplexity_is_of_the_same_texts_and_averaged_in_nats(self, summary):
        rows = table(summary, "elicit")
        # a: (1 + 2) / 2, b: (3 + 0) / 2, both 1.5
        assert rows["m@1"]["perplexity"] == pytest.approx(
            {"value": math.exp(1.5), "low": math.exp(1.5), "high": math.exp(1.5), "n": 2}
        )
        assert means(rows["unsteered"], "perplexity") == pytest.approx([math.exp(0.5)])
        assert rows["prompt"]["perplexity"] is None  # not measured
        points = {point["label"]: point for point in block(summary, "scatters", "elicit-effect")["points"]}
        assert points.keys() == {"unsteered", "m@1"}
        assert (points["m@1"]["x"], points["m@1"]["y"]) == pytest.approx((math.exp(1.5), 1.0))

    def test_doses_are_over_all_prompts(self, summary):
        lines = {line["label"]: line for line in block(summary, "curves", "elicit-score")["series"]}
        # m@1 at 1: a (2 + 1 + 2 + 1) / 4, b (0 + 0 + 2 + 2) / 4; at 2: a (1 + 2 + 1.2 + 1.2) / 4, b (2 + 0 + 0 + 1) / 4
        assert (lines["m@1"]["x"], lines["m@1"]["y"]) == ([1.0, 2.0], pytest.approx([1.25, (1.35 + 0.75) / 2]))
        # at 2: a (1 + 1 + 1) / 3, b (2 + 2 + 2 + 1.2) / 4
        assert lines["m@3"]["y"] == pytest.approx([(1 + 1) / 2, (1 + 1.8) / 2])
        # a (2 + 2 + 1.5 + 2) / 4, b (2 + 2 + 2 + 0) / 4
        assert (lines["prompt"]["x"], lines["prompt"]["y"]) == ([1.0], pytest.approx([(1.875 + 1.5) / 2]))
        concept = {line["label"]: line["y"] for line in block(summary, "curves", "elicit-concept")["series"]}
        # at 1: a (2 + 1 + 2 + 1) / 4, b (0 + 0 + 2 + 2) / 4; at 2: a (1 + 2 + 2 + 2) / 4, b (2 + 0 + 0 + 1) / 4
        assert concept["m@1"] == pytest.approx([1.25, (1.75 + 0.75) / 2])

    def test_fields_by_layer_and_by_concept(self, summary):
        layers = block(summary, "heats", "elicit-m-layers")
        assert (layers["rows"], layers["columns"]) == (["1", "3"], ["1", "2"])
        assert layers["values"] == [pytest.approx([1.25, 1.05]), pytest.approx([1.0, 1.4])]
        concepts = block(summary, "heats", "elicit-m@1")
        assert (concepts["rows"], concepts["columns"]) == (["a", "b", "c"], ["1", "2"])
        assert concepts["values"] == [pytest.approx([1.5, 1.35]), pytest.approx([1.0, 0.75]), [None, None]]
        assert {one["id"] for one in summary["heats"]} == {
            *("elicit-m-layers", "elicit-m@1", "elicit-m@3", "suppress-m@1"),
        }

    def test_detection(self, summary):
        rows = table(summary, "detection")
        assert list(rows) == ["m@1"]
        # a: 3 > 1, 3 > 2, 2 > 1, 2 = 2: 3.5 of 4; b: 1
        assert means(rows["m@1"], "auroc") == [(0.875 + 1) / 2]
        # a from 2 on: 2 right, 1 false: 2 * 2 / (2 + 1 + 2); b: 1
        assert means(rows["m@1"], "f1") == [(0.8 + 1) / 2]
        # a: 3 and 2 separate the easy ones equally well, 3 is the higher: half of the positives, all hard negatives
        assert rows["m@1"]["hard"] == {"value": 0.75, "low": None, "high": None, "n": 1}
        assert means(rows["m@1"], "hard_auroc") == [0.5]  # 3 > 2.5 > 2

    def test_what_could_not_be_read_is_counted_and_said(self, summary):
        texts = len(" ".join([*ELICIT.values(), *SUPPRESS.values(), *PLAIN.values()]).split())
        ratings, unreadable = 3 * texts - 3, 24 + 1
        assert summary["counts"] == {
            "generations": texts,
            "ratings": ratings,
            "unreadable": unreadable,
            "asked again": 0,
        }
        assert f"25 of {ratings} ratings could not be read; they are left out of every mean." in summary["notes"]
        assert any("No multiplier could be chosen for m@1 (elicit, c)" in note for note in summary["notes"])

    def test_as_published_what_could_not_be_read_is_0(self, tmp_path):
        summary = hand_made(tmp_path / "run", unreadable="zero")
        rows = table(summary, "elicit")
        # m@1: a 1.5, b 0.5, c 0 at the smaller multiplier; m@3: a (0 + 1) / 2, b 1.6
        assert means(rows["m@1"], "score", "multiplier") == pytest.approx([2 / 3, 1.0])
        assert means(rows["m@3"], "score") == pytest.approx([(0.5 + 1.6) / 2])
        assert rows["m@3"]["wins"] == "1/1/2"  # unreadable against 1.5 is a loss
        assert any("counted as 0" in note for note in summary["notes"])
        assert not any("No multiplier" in note for note in summary["notes"])

    def test_samples_stand_side_by_side_at_the_chosen_multipliers(self, summary):
        (sample,) = [
            one
            for one in summary["samples"]
            if (one["concept"], one["way"], one["instruction"]) == ("a", "elicit", "Say 2.")
        ]
        found = [(one["label"], one["multiplier"], one["ratings"]["concept"]) for one in sample["entries"]]
        assert found == [("unsteered", None, 0.0), ("m@1", 1.0, 2.0), ("m@3", 2.0, None), ("prompt", 1.0, 2.0)]

    def test_a_share_that_chooses(self, tmp_path):
        rows = table(hand_made(tmp_path / "run", selection=0.25), "elicit")
        # prompt 0 alone chooses: a 1 (2 against 1), b 2; prompts 1 to 3 report: a (1 + 2 + 1) / 3, b (0 + 0 + 1) / 3
        assert means(rows["m@1"], "score") == pytest.approx([(4 / 3 + 1 / 3) / 2])

    def test_two_contenders_of_a_method_on_one_layer_make_no_field_of_layers(self, tmp_path, monkeypatch):
        monkeypatch.setattr(
            "tests.test_protocol_axbench.CONTENDERS",
            [{**each, "layers": each["layers"] and [1]} for each in CONTENDERS],
        )
        assert "elicit-m-layers" not in {one["id"] for one in hand_made(tmp_path / "run")["heats"]}


@pytest.fixture(scope="module")
def organism():
    return tt.load_model("organism", device="cpu")


@pytest.fixture(scope="module")
def contenders(organism):
    found = []
    for concept in ("sea", "past-tense"):
        pairs = tt.load_pairs(concept)[:24]
        vector = tt.fit("diffmean", organism, pairs, layer=3, calibrate=False)
        prompt = tt.fit_steerable("prompt", organism, pairs)
        found += [Contender("diffmean", concept, vector), Contender("prompt", concept, prompt)]
    return found


SMALL = AxbenchSettings(multipliers=(1.0, 2.0), max_new_tokens=24, resamples=200)


class TestPlan:
    def test_every_text_once(self, contenders):
        concepts = organism_concepts(["sea", "past-tense"], prompts=4)
        jobs = plan(concepts, contenders, SMALL)
        times = {}
        for job in jobs:
            key = (job.contender.label, job.concept, job.way, job.condition, job.multiplier)
            times[key] = times.get(key, 0) + 1
        assert set(times.values()) == {4}
        places = {"elicit": "free", "suppress": "carrying"}
        assert times.keys() == {
            *(
                ("unsteered", concept, None, place, None)
                for concept in ("sea", "past-tense")
                for place in places.values()
            ),
            *(
                ("diffmean", concept, way, place, multiplier)
                for concept in ("sea", "past-tense")
                for way, place in places.items()
                for multiplier in (1.0, 2.0)
            ),
            *(
                ("prompt", concept, way, place, 1.0)
                for concept in ("sea", "past-tense")
                for way, place in places.items()
            ),
        }
        assert len({job.id for job in jobs}) == len(jobs)

    def test_seeds_are_common_to_contenders_and_differ_otherwise(self, contenders):
        jobs = plan(organism_concepts(["sea", "past-tense"], prompts=4), contenders, SMALL)
        by_place = {}
        for job in jobs:
            by_place.setdefault((job.concept, job.condition, job.number, job.multiplier), set()).add(job.seed)
        assert all(len(seeds) == 1 for seeds in by_place.values())
        assert len({seed for seeds in by_place.values() for seed in seeds}) == len(by_place)
        again = plan(organism_concepts(["sea"], prompts=4), contenders[:1], replace(SMALL, seed=43))
        assert not {job.seed for job in again} & {job.seed for job in jobs}

    def test_one_direction_alone(self, contenders):
        jobs = plan(organism_concepts(["sea"], prompts=2), contenders[:1], replace(SMALL, ways=("suppress",)))
        assert {(job.way, job.condition) for job in jobs} == {(None, "carrying"), ("suppress", "carrying")}

    def test_a_contender_for_another_concept_is_refused(self, contenders):
        with pytest.raises(InputError, match="which is not judged"):
            plan(organism_concepts(["sea"], prompts=2), contenders, SMALL)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"ways": ("up",)},
            {"ways": ()},
            {"multipliers": ()},
            {"multipliers": (1.0, 1.0)},
            {"multipliers": (math.nan,)},
            {"selection": 0.0},
            {"selection": 1.0},
            {"unreadable": "maybe"},
            {"resamples": 0},
        ],
    )
    def test_settings_that_cannot_be(self, wrong):
        with pytest.raises(InputError):
            AxbenchSettings(**wrong)

    def test_grids_are_the_published_ones(self):
        sizes = {name: len(grid) for name, grid in GRIDS.items()}
        assert sizes == dict(zip(GRIDS, (8, 14, 14, 14, 16, 11, 1), strict=True))
        assert list(GRIDS) == ["gap", "axbench", "sae", "reps", "cdas-2b", "cdas-9b", "unit"]
        assert all(list(grid) == sorted(set(grid)) for grid in GRIDS.values())


def by_name(summary):
    """A summary without the order of its contenders."""
    found = json.loads(json.dumps(summary))
    for kind, entries, name in (
        ("tables", "rows", "label"),
        ("curves", "series", "label"),
        ("scatters", "points", "label"),
    ):
        for one in found[kind]:
            one[entries].sort(key=lambda entry: entry[name])
    for sample in found["samples"]:
        sample["entries"].sort(key=lambda entry: entry["label"])
    for kind in ("heats", "tokens", "samples"):
        found[kind].sort(key=json.dumps)
    return found


def asked(model, data, given, judge, settings=SMALL, batch_size=5):
    return Asked(model, data, given, judge, settings, batch_size)


@pytest.fixture(scope="module")
def exact():
    return ExactJudge()


@pytest.fixture(scope="module")
def run(organism, contenders, exact, tmp_path_factory):
    """Its directory, made in batches of 5."""
    path = tmp_path_factory.mktemp("axbench") / "run"
    data = load_concepts("organism", names=["sea", "past-tense"], prompts=4)
    evaluate("axbench", asked(organism, data, contenders, exact), path)
    return path


class TestOnTheOrganism:
    def test_neither_batch_size_nor_the_order_of_contenders_moves_a_figure(
        self, organism, contenders, exact, run, tmp_path
    ):
        data = load_concepts("organism", names=["sea", "past-tense"], prompts=4)
        small = Run.read(run).summary
        large = evaluate("axbench", asked(organism, data, contenders, exact, batch_size=64), tmp_path / "64")
        assert large == small
        turned = evaluate("axbench", asked(organism, data, contenders[::-1], exact), tmp_path / "turned")
        assert by_name(turned) == by_name(small)
        rows = [row["label"] for row in turned["tables"][0]["rows"]]
        assert rows == ["unsteered", "prompted", "prompt", "diffmean"]  # as they were given

    def test_figures_are_those_of_the_records(self, run):
        summary, records = Run.read(run).summary, Run.read(run)
        ratings = {}
        for row in records.log("ratings").rows:
            ratings.setdefault(row["id"], {})[row["aspect"]] = row["rating"]
        rows = records.log("generations").rows
        assert ratings.keys() == {row["id"] for row in rows}
        assert all(set(found) == set(RATED) for found in ratings.values())
        by_concept = [
            np.mean(
                [
                    ratings[row["id"]]["concept"]
                    for row in rows
                    if (row["label"], row["condition"], row["concept"]) == ("unsteered", "carrying", concept)
                    and row["prompt"] >= 2
                ]
            )
            for concept in ("sea", "past-tense")
        ]
        prompted = table(summary, "elicit")["prompted"]["concept"]["value"]
        assert prompted == pytest.approx(np.mean(by_concept))
        assert prompted > 1.5  # the organism does what a system prompt asks for

    def test_perplexity_is_that_of_a_plain_forward(self, organism, run):
        records = Run.read(run)
        values = {row["id"]: row["value"] for row in records.log("measures").rows if row["name"] == "nll"}
        assert len(values) == len(records.log("generations").rows)
        for row in records.log("generations").rows[::9]:
            prompt = organism.chat.render(row["messages"]).ids
            with torch.no_grad():
                logits = organism.hf(torch.tensor([[*prompt, *row["ids"]]])).logits[0].double()
            of_answer = logits[len(prompt) - 1 : -1].log_softmax(-1)
            wanted = -of_answer[range(len(row["ids"])), row["ids"]].mean()
            assert values[row["id"]] == pytest.approx(float(wanted), abs=1e-4)

    def test_a_finished_run_asks_neither_model_nor_judge(self, organism, contenders, exact, run, monkeypatch):
        before = {path.name: path.read_bytes() for path in run.iterdir()}

        def never(*_, **__):
            raise AssertionError("was asked")

        monkeypatch.setattr(type(organism), "respond", never)
        monkeypatch.setattr(type(exact), "rate", never)
        data = load_concepts("organism", names=["sea", "past-tense"], prompts=4)
        evaluate("axbench", asked(organism, data, contenders, exact), run)
        assert {path.name: path.read_bytes() for path in run.iterdir()} == before

    def test_without_contenders_the_plain_model_is_shown(self, organism, exact, tmp_path):
        data = load_concepts("organism", names=["sea"], prompts=2)
        summary = evaluate("axbench", asked(organism, data, [], exact), tmp_path / "plain")
        assert list(table(summary, "elicit")) == ["unsteered", "prompted"]
        assert list(table(summary, "suppress")) == ["unsteered"]
        assert summary["curves"] == []

    def test_what_is_refused_leaves_nothing_and_overwrites_nothing(self, organism, contenders, exact, run, tmp_path):
        data = load_concepts("organism", names=["sea"], prompts=4)
        for given, settings, batch_size in (
            (contenders, SMALL, 5),  # some are for a concept that is not judged
            (contenders[:2], SMALL, 0),
            (contenders[:2], SMALL, -1),
            (contenders[:2], replace(SMALL, max_new_tokens=0), 5),
            (contenders[:2], replace(SMALL, seed=-1), 5),
            (contenders[:2], replace(SMALL, temperature=-1.0), 5),
        ):
            with pytest.raises(InputError):
                evaluate("axbench", asked(organism, data, given, exact, settings, batch_size), tmp_path / "a" / "b")
            with pytest.raises(InputError):
                evaluate("axbench", asked(organism, data, given, exact, settings, batch_size), run, overwrite=True)
        assert not (tmp_path / "a").exists()
        assert (run / "summary.json").exists()


class TestDetection:
    """Reads the model of `tests.planted`, in which one direction is known to carry the concept."""

    def texts(self):
        """Signs with the concept, signs without it, and noise alone."""
        draw = np.random.default_rng(0)

        def some(signs, n):
            return "".join(draw.choice(list(signs), n))

        return [
            *(LabelledText(POSITIVE, some(WITH, 1) + some(NOISE, 5), "ab") for _ in range(12)),
            *(LabelledText(NEGATIVE, some(WITHOUT, 1) + some(NOISE, 5), "ab") for _ in range(12)),
            *(LabelledText(HARD, some(NOISE, 6), "ab") for _ in range(4)),
        ]

    def contender(self, direction, label="planted", **more):
        of = planted()
        add = Edit(Intervention(Site(LAYER), Add(direction), Positions.parse("all")), scales="strength")
        return Contender(label, "signs", SteeringVector("test", of.model.card(), (add,), {"elicit": (0,)}, **more))

    def test_the_planted_direction_tells_all_texts_and_the_opposite_none(self, tmp_path):
        class Always(Judge):
            name, aspects, identity = "always", frozenset(RATED), {"kind": "always"}

            def rate(self, questions, progress=None):
                return [Verdict(1.0)] * len(questions)

        of = planted()
        concept = Concept("signs", 0, "text", ("a", "b"), ("a!", "b!"), ("a", "b"), tuple(self.texts()))
        given = [
            self.contender(3 * of.u),
            self.contender(-of.u, "turned"),
            self.contender(of.noise, "noise"),
        ]

        class Data:
            concepts, identity, source = (concept,), {"of": "a test"}, "a test"

        settings = AxbenchSettings(multipliers=(1.0,), max_new_tokens=2, resamples=20)
        summary = evaluate("axbench", asked(of.model, Data, given, Always(), settings), tmp_path / "run")
        rows = table(summary, "detection")
        assert means(rows["planted"], "auroc", "f1", "hard", "hard_auroc") == [1, 1, 1, 1]
        assert means(rows["turned"], "auroc")[0] < 0.2
        assert 0.2 < means(rows["noise"], "auroc")[0] < 0.8
        tokens = {entry["label"]: entry for entry in summary["tokens"]}
        assert tokens.keys() == {"planted", "turned", "noise"}
        assert [one["category"] for one in tokens["planted"]["texts"]] == [
            *[POSITIVE] * 2,
            *[NEGATIVE] * 2,
            *[HARD] * 2,
        ]

    def test_values_are_coordinates_of_the_plain_models_states_behind_the_prefix(self):
        of, texts = planted(), self.texts()[:3]
        probe = probe_of(of.model, self.contender(3 * of.u))
        assert torch.allclose(probe.direction, of.u)
        for text, latents in zip(texts, read(of.model, [probe], texts)[0], strict=True):
            prompt = of.model.chat.render(text.prompt)
            ids = (*prompt.ids, *of.model.chat.response_ids(prompt, text.response))
            states = capture(of.model.hf, [ids], [Site(LAYER)])[0][Site(LAYER)]
            assert latents.values == pytest.approx((states @ of.u)[prompt.prefix_length :].tolist(), abs=1e-5)
            assert len(latents.tokens) == len(latents.values) == len(ids) - prompt.prefix_length

    def test_a_clamp_is_read_towards_its_positive_class(self):
        of = planted()
        low, high = FactorStats((-0.5,), (0.1,), 3), FactorStats((1.5,), (0.1,), 3)
        for factors, sign in ((Factors(high, low), 1), (Factors(low, high), -1)):
            clamp = Clamp(of.u[None], torch.tensor([factors.positive.mean[0]]))
            edit = Edit(Intervention(Site(LAYER), clamp, Positions.parse("all")), factors=factors, scales="factor")
            vector = SteeringVector("test", of.model.card(), (edit,), {"elicit": (0,)})
            probe = probe_of(of.model, Contender("clamp", "signs", vector))
            assert torch.allclose(probe.direction, sign * of.u)
            assert (probe.negative, probe.positive) == pytest.approx(
                (sign * factors.negative.mean[0], sign * factors.positive.mean[0])
            )
            assert probe.positive > probe.negative

    def test_what_has_no_direction_is_not_read(self, contenders):
        assert [can_be_read(each) for each in contenders] == [True, False, True, False]
        assert not can_be_read(Contender("unsteered", None, None))
        with pytest.raises(InputError, match="no direction to read"):
            probe_of(planted().model, contenders[1])


# pandas.DataFrame({"i": range(20)}).sample(10, random_state=k)["i"].tolist(), pandas 3.1.1
DRAWN = {
    0: [18, 1, 19, 8, 10, 17, 6, 13, 4, 2],
    3: [14, 2, 1, 17, 4, 16, 6, 7, 15, 12],
    417: [2, 16, 10, 0, 18, 3, 5, 6, 4, 15],
}


class TestInstructions:
    @pytest.fixture
    def files(self, tmp_path):
        (tmp_path / "asked.txt").write_text("".join(f"Say {k}.\n" for k in range(20)))
        rows = [{"concept": f"concept {k}", "concept_id": k} for k in DRAWN]
        (tmp_path / "concepts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return str(tmp_path / "concepts.jsonl"), str(tmp_path / "asked.txt")

    def test_each_concept_gets_those_that_its_number_draws(self, files):
        for seed in (0, 7):  # of no account
            found = load_concepts(files[0], instructions=files[1], prompts=10, seed=seed)
            drawn = {one.number: [int(text[4:-1]) for text in one.instructions] for one in found.concepts}
            assert drawn == DRAWN

    @pytest.mark.parametrize("n", [2, 10, 20])
    def test_they_are_those_that_pandas_draws(self, files, n):
        pandas = pytest.importorskip("pandas")
        table = pandas.DataFrame({"i": [f"Say {k}." for k in range(20)]})
        for concept in load_concepts(files[0], instructions=files[1], prompts=n).concepts:
            assert list(concept.instructions) == table.sample(n, random_state=concept.number)["i"].tolist()

    def test_carrying_prompts_ask_for_the_concept_and_for_the_same(self, files):
        for place in ("system", "user"):
            (first, *_) = load_concepts(files[0], instructions=files[1], place=place).concepts
            assert first.free == first.instructions
            for plain, carrying in zip(first.instructions, first.carrying, strict=True):
                turns = [{"role": "user", "content": carrying}] if isinstance(carrying, str) else carrying
                assert plain in turns[-1]["content"]
                assert any(first.name in turn["content"] for turn in turns)
                assert (turns[0]["role"] == "system") is (place == "system")

    def test_too_few(self, files):
        with pytest.raises(InputError, match="20 instructions for 21"):
            load_concepts(files[0], instructions=files[1], prompts=21)
        with pytest.raises(InputError, match="at least 2"):
            load_concepts(files[0], instructions=files[1], prompts=1)

    def test_a_number_that_nothing_can_be_drawn_by(self, files, tmp_path):
        (tmp_path / "large.jsonl").write_text(json.dumps({"concept": "x", "concept_id": 2**32}))
        with pytest.raises(InputError, match="too large"):
            load_concepts(str(tmp_path / "large.jsonl"), instructions=files[1], prompts=2)


class TestPublishedLayout:
    """The real piece of AxBench's data, answered by a tiny random model and rated by another."""

    def test_it_runs_from_end_to_end(self, shared, tmp_path):
        model = tt.load_model(make_tiny_model(tmp_path / "model", context_length=1024), device="cpu")
        (tmp_path / "asked.txt").write_text("".join(f"Tell me about thing {k}.\n" for k in range(12)))
        data = load_concepts(
            str(shared / "data/axbench-concept10"),
            names=["0", "3"],
            prompts=2,
            instructions=str(tmp_path / "asked.txt"),
        )
        assert [len(one.texts) for one in data.concepts] == [36 + 36 + k for k in hard_negatives(shared, (0, 3))]
        draw = torch.Generator().manual_seed(0)
        given = []
        for name in data.names:
            direction = torch.nn.functional.normalize(torch.randn(model.hidden_size, generator=draw), dim=0)
            edits = tuple(
                Edit(Intervention(Site(1), Add(sign * direction), Positions.parse("all")), scales="strength")
                for sign in (1, -1)
            )
            vector = SteeringVector("random", model.card(), edits, {"elicit": (0,), "suppress": (1,)})
            given.append(Contender("random", name, vector))
        judge = LocalJudge(model, max_tokens=4, attempts=2)
        settings = AxbenchSettings(multipliers=(1.0,), max_new_tokens=6, resamples=50)
        summary = evaluate("axbench", asked(model, data, given, judge, settings, 8), tmp_path / "run")
        assert summary["counts"]["generations"] == 2 * 2 * (2 + 2)
        assert summary["counts"]["ratings"] == 3 * summary["counts"]["generations"]
        detection = table(summary, "detection")["random"]
        assert 0 < detection["auroc"]["value"] < 1
        assert detection["auroc"]["n"] == 2
        rows = Run.read(tmp_path / "run").log("items").rows
        assert len(rows) == sum(len(one.texts) for one in data.concepts)
        assert data.names[0] in make_page([read_report(tmp_path / "run", "run")]).html


def hard_negatives(shared, numbers):
    rows = parquet.read_table(shared / "data/axbench-concept10/latent_eval_data.parquet").to_pylist()
    return [sum(row["concept_id"] == k and row["category"] == HARD for row in rows) for k in numbers]
