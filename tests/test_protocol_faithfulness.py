"""Faithfulness: side effects at every dose, odds, random controls of the same size, stability of directions."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import trimtab as tt
from trimtab.errors import InputError
from trimtab.evaluation import passages
from trimtab.evaluation.contenders import PLAIN, Contender
from trimtab.evaluation.controls import Tokens, edit_size, norm_matched
from trimtab.evaluation.divergences import Behind, moved, plain_states
from trimtab.evaluation.identity import identity_of
from trimtab.evaluation.protocols.faithfulness import FaithfulnessSettings, doses, plan, run_faithfulness
from trimtab.evaluation.protocols.faithfulness_data import (
    FaithfulnessData,
    faithfulness_files,
    organism_faithfulness,
)
from trimtab.evaluation.protocols.faithfulness_summary import summarise
from trimtab.evaluation.records import LOGS, Run, open_run
from trimtab.evaluation.stability import RESAMPLES, SEEDS, Refit, agreement, compared, refits, resample, why_not
from trimtab.fitting.likelihood import log_likelihoods
from trimtab.methods import fit_steerable
from trimtab.models.apply import steer
from trimtab.models.capture import capture
from trimtab.report.page.nodes import Node
from trimtab.report.page.reading import read_summary
from trimtab.steering import Add, Affine, Clamp, Edit, Intervention, Site, SteeringVector

CONCEPT = "past-tense"
LAYER = 3
TEXTS = ("The ship is in the harbour. The harbour is calm.", "A lamp is on the table and the table is old.")
SMALL = FaithfulnessSettings(multipliers=(0.0, 1.0, 3.0), max_new_tokens=12, running_tokens=10, resamples=50)


@pytest.fixture(scope="module")
def organism():
    return tt.load_model("organism", device="cpu")


@pytest.fixture(scope="module")
def added(organism):
    return tt.fit("diffmean", organism, tt.load_pairs(CONCEPT)[:12], layer=LAYER, calibrate=False)


@pytest.fixture(scope="module")
def clamped(organism):
    vector = tt.fit("cdas", organism, tt.load_pairs(CONCEPT)[:12], layer=LAYER, epochs=2, calibrate=False)
    return dataclasses.replace(vector, multipliers={"elicit": 1.5, "suppress": 1.25})


@pytest.fixture(scope="module")
def data():
    found = organism_faithfulness([CONCEPT], 3)
    training = {CONCEPT: found.training[CONCEPT][:12]}
    return dataclasses.replace(found, texts=TEXTS, training=training)


def record(path, model, data, contenders, settings, progress=None):
    with open_run(path, "faithfulness", identity_of(model, contenders, None, settings, data.identity), {}) as run:
        run_faithfulness(model, data, contenders, settings, run, progress=progress)
    return Run.read(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory, organism, data, added, clamped):
    baseline = fit_steerable("prompt", organism, tt.load_pairs(CONCEPT)[:12])
    contenders = [
        Contender("added", CONCEPT, added),
        Contender("clamped", CONCEPT, clamped),
        Contender("prompt", CONCEPT, baseline),
    ]
    return record(tmp_path_factory.mktemp("run") / "run", organism, data, contenders, SMALL)


def rows_of(run, **columns):
    return [
        row for row in run.log("items").rows if all(row.get(name, "no") == value for name, value in columns.items())
    ]


def test_every_contender_is_tried_at_the_grid_and_at_its_own_multiplier(clamped, added):
    tried = doses([Contender("a", CONCEPT, added), Contender("c", CONCEPT, clamped)], SMALL)
    found = {(dose.contender.label, dose.way): [] for dose in tried}
    for dose in tried:
        found[dose.contender.label, dose.way].append((dose.multiplier, dose.is_own))
    assert found["a", "elicit"] == [(0.0, False), (1.0, True), (3.0, False)]
    assert found["c", "suppress"] == [(0.0, False), (1.0, False), (1.25, True), (3.0, False)]
    assert len(tried) == 14


def test_an_edit_of_nothing_moves_nothing_at_all(run):
    for kind in ("answers", "running text"):
        plain = {row["item"]: row["metrics"]["nll"] for row in rows_of(run, kind=kind, label=PLAIN)}
        for way in ("elicit", "suppress"):
            rows = rows_of(run, kind=kind, label="added", way=way, multiplier=0.0)
            assert len(rows) == len(plain) > 1
            for row in rows:
                assert row["metrics"]["kl"] == 0.0
                assert row["metrics"]["js"] == pytest.approx(0, abs=1e-7)  # logaddexp rounds
                assert row["metrics"]["nll"] == plain[row["item"]]


def test_divergence_grows_with_the_dose(run):
    for way in ("elicit", "suppress"):
        kls = []
        for multiplier in (0.0, 1.0, 3.0):
            rows = rows_of(run, kind="answers", label="added", way=way, multiplier=multiplier)
            kls.append(sum(row["metrics"]["kl"] for row in rows))
        assert 0 == kls[0] < kls[1] < kls[2]


def test_readings_are_those_of_one_contender_at_a_time(run, organism, data, clamped):
    generations = [row for row in run.log("generations").rows if row["way"] is None]
    generations.sort(key=lambda row: row["prompt"])
    behind = Behind([row["messages"] for row in generations], [row["ids"] for row in generations])
    contender = Contender("clamped", CONCEPT, clamped)
    wanted = moved(organism, contender, "suppress", 3.0, behind, plain_states(organism, behind))
    found = rows_of(run, kind="answers", label="clamped", way="suppress", multiplier=3.0)
    for one, row in zip(wanted, found, strict=True):
        assert row["metrics"]["kl"] == pytest.approx(one.kl, rel=1e-3)
        assert row["metrics"]["js"] == pytest.approx(one.js, rel=1e-3)
        assert row["metrics"]["nll"] == pytest.approx(one.nll, rel=1e-4)
        assert row["n"] == one.n


def test_a_baseline_answers_but_reads_no_text_that_nothing_can_stand_in_front_of(run):
    assert rows_of(run, kind="answers", label="prompt", way="elicit")
    assert not rows_of(run, kind="running text", label="prompt")
    assert any(row["metrics"]["kl"] > 0 for row in rows_of(run, kind="answers", label="prompt"))
    assert "prompt edits no hidden state, so it has no random control." in summarise(run)["notes"]


def test_odds_are_those_of_both_answers_behind_the_direction_s_input(run, organism, data, added):
    pair = data.pairs[CONCEPT][1]
    prompt = organism.chat.render(pair.negative_input)
    losses = {}
    for side in ("positive", "negative"):
        behind = organism.chat.render(getattr(pair, f"{side}_input"))
        ids = organism.chat.response_ids(behind, getattr(pair, f"{side}_output"))
        (found,) = log_likelihoods(organism, [prompt], [ids], [added.elicit(3.0)])
        losses[side] = -float(found.mean())
    for side, wanted in losses.items():
        kind = f"{side} output, negative input"
        (row,) = rows_of(run, kind=kind, label="added", way="elicit", multiplier=3.0, item=1)
        assert row["metrics"]["nll"] == pytest.approx(wanted, rel=1e-4)


def test_the_gain_is_towards_the_wanted_answer_in_both_directions(run):
    def preference(way, label, multiplier):
        side = {"elicit": "negative", "suppress": "positive"}[way]
        of = {"label": label, "multiplier": multiplier}
        means = [
            [row["metrics"]["nll"] for row in rows_of(run, kind=f"{answer} output, {side} input", **of)]
            for answer in ("negative", "positive")
        ]
        return sum(means[0]) / len(means[0]) - sum(means[1]) / len(means[1])

    table = summarise(run)["tables"][0]
    rows = {row["label"]: row["values"] for row in table["rows"]}
    for way, sign in (("elicit", 1), ("suppress", -1)):
        wanted = sign * (preference(way, "added", 1.0) - preference(way, PLAIN, None))
        assert rows[f"added {way}"]["gain"]["value"] == pytest.approx(wanted, abs=1e-9)


def test_the_summary_is_of_the_schema_and_needs_the_records_alone(run):
    summary = summarise(Run.read(run.path))
    assert summary == summarise(run)
    text = json.dumps(summary, allow_nan=False)
    page = read_summary(Node(json.loads(text), Path("summary.json")), name="run", hash_="", identity={}, info={})
    assert [table.id for table in page.tables] == ["faithfulness"]  # too few multipliers for a curve of odds
    ids = [block["id"] for kind in ("tables", "curves", "scatters") for block in summary[kind]]
    assert len(set(ids)) == len(ids)
    labels = [row["label"] for row in summary["tables"][0]["rows"]]
    assert labels == [
        PLAIN,
        *(
            f"{who} {way}"
            for label in ("added", "clamped")
            for way in ("elicit", "suppress")
            for who in (label, f"random ({label})")
        ),
        "prompt elicit",
        "prompt suppress",
    ]
    columns = {column["key"] for column in summary["tables"][0]["columns"]}
    for row in summary["tables"][0]["rows"]:
        assert row["values"].keys() <= columns
    assert {point["label"] for point in summary["scatters"][0]["points"]} == {*labels} - {PLAIN}


def test_curves_put_suppressing_to_the_left_and_the_plain_model_at_0(run):
    curves = {curve["id"]: curve for curve in summarise(run)["curves"]}
    kl = {line["label"]: line for line in curves["dose-kl"]["series"]}
    assert kl["clamped"]["x"] == [-3.0, -1.25, -1.0, 0.0, 1.0, 1.5, 3.0]
    assert kl["clamped"]["y"][3] == 0
    rows = rows_of(run, kind="answers", label="clamped", way="suppress", multiplier=1.25)
    assert kl["clamped"]["y"][1] == pytest.approx(sum(row["metrics"]["kl"] for row in rows) / len(rows))
    assert kl["random (clamped)"]["x"] == kl["clamped"]["x"]
    length = {line["label"]: line for line in curves["dose-length"]["series"]}
    assert length["random (clamped)"]["x"] == [-1.25, -1.0, 0.0, 1.0, 1.5]  # it writes at 1 and at the own multiplier
    assert length["clamped"]["y"][3] == 1
    assert curves["elicit-kl"]["series"][1]["x"] == [0.0, 1.0, 3.0]


def test_six_multipliers_make_a_fitted_curve(tmp_path, organism, data, added):
    settings = dataclasses.replace(SMALL, multipliers=(0.5, 1, 2, 3, 4), ways=("elicit",), controls=False)
    contenders = [Contender("added", CONCEPT, added)]
    summary = summarise(record(tmp_path / "run", organism, data, contenders, settings))
    (table,) = [table for table in summary["tables"] if table["id"] == "decay"]
    values = table["rows"][0]["values"]
    assert 0 < values["preference r2"]["value"] <= 1
    (curve,) = [curve for curve in summary["curves"] if curve["id"] == "elicit-preference"]
    measured, fitted = curve["series"]
    assert (measured["label"], fitted["label"]) == ("added", "added, fitted")
    assert measured["x"] == [0.0, 0.5, 1.0, 2.0, 3.0, 4.0]
    a, c, m0, width, power = (
        values[f"preference {key}"]["value"] for key in ("slope", "offset", "centre", "width", "power")
    )
    assert fitted["x"][24] == 2.0
    assert fitted["y"][24] == pytest.approx(a * 2 * (1 + (2 - m0) ** 2 / width) ** -power + c)


class StopError(Exception):
    pass


def test_an_interrupted_run_writes_the_same_bytes(tmp_path, monkeypatch, organism, data, added):
    monkeypatch.setattr(passages, "CHUNK", 16)
    settings = dataclasses.replace(SMALL, multipliers=(3.0,), max_new_tokens=6, stability=1)
    contenders = [Contender("added", CONCEPT, added)]
    record(tmp_path / "whole", organism, data, contenders, settings)
    stages, stops, finished = set(), 0, False
    while not finished and stops < 50:
        left = [1 + stops % 3]

        def told(found, left=left):
            if found.stage == "controls":  # these are made anew each time
                return
            stages.add(found.stage)
            left[0] -= 1
            if left[0] < 0:
                raise StopError

        try:
            record(tmp_path / "broken", organism, data, contenders, settings, told)
            finished = True
        except StopError:
            stops += 1
    assert finished
    assert stops >= 4
    assert {"generate", "perplexity", "read", "fit again"} == stages
    for name in LOGS:
        whole, broken = (tmp_path / folder / f"{name}.jsonl" for folder in ("whole", "broken"))
        assert whole.exists() == broken.exists()
        if whole.exists():
            assert whole.read_bytes() == broken.read_bytes()
    assert summarise(Run.read(tmp_path / "whole")) == summarise(Run.read(tmp_path / "broken"))


def test_a_finished_run_is_left_as_it_is(tmp_path, organism, data, added):
    settings = dataclasses.replace(SMALL, multipliers=(), controls=False)
    contenders = [Contender("added", CONCEPT, added)]
    first = record(tmp_path / "run", organism, data, contenders, settings)
    before = [(first.path / f"{name}.jsonl").read_bytes() for name in ("generations", "items", "measures")]
    record(tmp_path / "run", organism, data, contenders, settings)
    assert before == [(first.path / f"{name}.jsonl").read_bytes() for name in ("generations", "items", "measures")]


@pytest.fixture(scope="module")
def read_tokens(organism, data):
    prompts = [organism.chat.render(prompt) for prompt in data.prompts["instructions"]]
    answers = [organism.chat.response_ids(prompt, "Take the lamp and put it away.") for prompt in prompts]
    return prompts, answers


@pytest.mark.parametrize("multiplier", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("way", ["elicit", "suppress"])
def test_a_random_control_moves_the_states_as_far(organism, added, clamped, read_tokens, way, multiplier):
    prompts, answers = read_tokens
    rows = [(*prompt.ids, *ids) for prompt, ids in zip(prompts, answers, strict=True)]
    site = Site(LAYER)
    plain = capture(organism.hf, rows, [site])

    def measured(steering):
        """The mean norm of what the model's own hooks add, over all tokens behind the prefix."""
        with steer(organism.hf, steering):
            steered = capture(organism.hf, rows, [site])
        norms = [
            (after[site] - before[site]).norm(dim=1)[prompt.prefix_length :]
            for before, after, prompt in zip(plain, steered, prompts, strict=True)
        ]
        return float(torch.cat(norms).mean())

    for vector in (added, clamped):
        tokens = Tokens.of(organism, prompts, answers, [site])
        control = norm_matched(vector, way, multiplier, "gap", tokens, seed=5)
        wanted = measured(vector.steering(way, multiplier))
        assert measured(control.steering(way)) == pytest.approx(wanted, rel=0.01)
        assert edit_size(vector, way, multiplier, "gap", tokens) == pytest.approx(wanted, rel=1e-3)
        assert edit_size(control, way, 1.0, "gap", tokens) == pytest.approx(wanted, rel=0.01)
        assert type(control.edits[0].intervention.transform) is type(vector.edits[0].intervention.transform)
        assert agreement(vector, control) == pytest.approx(0, abs=0.5)


def test_a_control_goes_opposite_ways_and_is_drawn_by_its_seed(organism, added, read_tokens):
    prompts, answers = read_tokens
    tokens = Tokens.of(organism, prompts, answers, [Site(LAYER)])

    def step(way, seed):
        (edit,) = norm_matched(added, way, 1.0, "gap", tokens, seed).steering(way).interventions
        assert isinstance(edit.transform, Add)
        return edit.strength * edit.transform.vector

    assert torch.allclose(step("elicit", 1), -step("suppress", 1))
    assert torch.equal(step("elicit", 1), step("elicit", 1))
    assert abs(float(torch.cosine_similarity(step("elicit", 1), step("elicit", 2), dim=0))) < 0.5


def test_what_is_neither_added_nor_clamped_gets_an_addition_as_large(organism, added, read_tokens):
    width = organism.hidden_size
    transform = Affine(torch.full((width,), 1.5), torch.zeros(width))
    vector = SteeringVector(
        "scale", added.model, (Edit(Intervention(Site(LAYER), transform), scales="strength"),), {"elicit": (0,)}
    )
    prompts, answers = read_tokens
    tokens = Tokens.of(organism, prompts, answers, [Site(LAYER)])
    states = torch.cat([tokens.prompt[Site(LAYER)], tokens.response[Site(LAYER)]])
    control = norm_matched(vector, "elicit", 2.0, "gap", tokens, seed=0)
    (edit,) = control.elicit().interventions
    assert isinstance(edit.transform, Add)
    moved_by = float((edit.strength * edit.transform.vector).norm())
    assert moved_by == pytest.approx(float(states.norm(dim=1).mean()), rel=1e-3)  # 2 x (1.5 - 1) of each state


def test_a_fit_of_the_same_is_the_same_direction(organism, data, added, clamped):
    pairs = data.training[CONCEPT]
    again = tt.fit("cdas", organism, pairs, layer=LAYER, epochs=2, calibrate=False)
    assert agreement(clamped, again) == pytest.approx(1, abs=1e-5)
    found = refits(organism, added, pairs, 2, seed=0)
    assert [(each.how, each.number) for each in found] == [(SEEDS, 0), (SEEDS, 1), (RESAMPLES, 0), (RESAMPLES, 1)]
    rows = compared(added, found)
    cosines = {(row["how"], row["number"], row["other"]): row["cosine"] for row in rows}
    assert len(rows) == len(cosines) == 6
    for key in ((SEEDS, 0, None), (SEEDS, 1, None), (SEEDS, 0, 1)):  # the difference in means draws nothing
        assert cosines[key] == pytest.approx(1, abs=1e-6)
    assert cosines[RESAMPLES, 0, None] < 1 - 1e-4
    assert cosines[RESAMPLES, 0, None] > 0.5
    drawn = tt.fit("diffmean", organism, resample(pairs, 0, 1), layer=LAYER, calibrate=False)
    assert cosines[RESAMPLES, 1, None] == pytest.approx(agreement(added, drawn), abs=1e-5)


def test_a_trained_direction_depends_on_its_seed(organism, data, clamped):
    found = refits(organism, clamped, data.training[CONCEPT], 1, seed=0)
    assert [each.how for each in found] == [SEEDS, RESAMPLES]
    for row in compared(clamped, found):
        assert -1 <= row["cosine"] < 0.9999


def vector_of(rows, positive, layer=0):
    """A clamp in a model of width 4, with the positive class at `positive` and the other at 0."""
    from trimtab.steering import Factors, FactorStats, ModelCard

    rank = len(rows)
    sides = [FactorStats((value,) * rank, (0.0,) * rank, 1) for value in (positive, 0.0)]
    factors, clamp = Factors(*sides), Clamp(torch.tensor(rows), torch.zeros(rank))
    return SteeringVector("none of ours", ModelCard("m", 4, 2), (Edit(Intervention(Site(layer), clamp), factors),))


def test_directions_are_compared_by_their_angle():
    right, up = [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]
    between = [0.6, 0.8, 0.0, 0.0]
    assert agreement(vector_of([right], 1.0), vector_of([between], 2.0)) == pytest.approx(0.6)
    assert agreement(vector_of([right], 1.0), vector_of([between], -2.0)) == pytest.approx(-0.6)
    left = [-1.0, 0.0, 0.0, 0.0]
    assert agreement(vector_of([right], 1.0), vector_of([left], -1.0)) == pytest.approx(1)
    assert agreement(vector_of([right], 1.0), vector_of([right], 1.0, layer=1)) is None
    # the planes share one axis; their other axes, up and (0, 0.6, 0.8, 0), are at a cosine of 0.6
    tilted = [[1.0, 0.0, 0.0, 0.0], [1.0, 0.6, 0.8, 0.0]]
    assert agreement(vector_of([right, up], 1.0), vector_of(tilted, 1.0)) == pytest.approx(0.6)
    assert compared(vector_of([right], 1.0), [Refit(SEEDS, 0, None)])[0]["cosine"] is None


def test_what_cannot_be_fitted_again_says_why(tmp_path, organism, data, added):
    foreign = dataclasses.replace(added, method="elsewhere")
    assert "elsewhere" in str(why_not(foreign))
    assert "unknown setting" in str(why_not(dataclasses.replace(added, settings={"strength": 3, "layer": 3})))
    assert why_not(added) is None
    settings = dataclasses.replace(SMALL, multipliers=(), controls=False, stability=1)
    contenders = [Contender("added", CONCEPT, added), Contender("foreign", CONCEPT, foreign)]
    summary = summarise(record(tmp_path / "run", organism, data, contenders, settings))
    assert any(note.startswith("foreign (past-tense) was not fitted again") for note in summary["notes"])
    (table,) = [table for table in summary["tables"] if table["id"] == "stability"]
    (row,) = table["rows"]
    assert row["label"] == "added"
    assert row["values"][SEEDS]["value"] == pytest.approx(1, abs=1e-6)
    assert row["values"][f"{SEEDS} pairs"] is None  # there is but one
    headline = {row["label"]: row["values"] for row in summary["tables"][0]["rows"]}
    both = (row["values"][SEEDS]["value"] + row["values"][RESAMPLES]["value"]) / 2
    assert headline["added elicit"]["stability"]["value"] == pytest.approx(both)
    assert headline["foreign elicit"]["stability"] is None


def test_concepts_without_pairs_have_no_odds(tmp_path, organism, data, added):
    settings = dataclasses.replace(SMALL, multipliers=(), controls=False, stability=1)
    bare = FaithfulnessData(data.prompts)
    summary = summarise(record(tmp_path / "run", organism, bare, [Contender("added", CONCEPT, added)], settings))
    assert "There are no contrast pairs of past-tense, so no odds." in summary["notes"]
    assert any("there are no pairs to fit it on again" in note for note in summary["notes"])
    assert not summary["scatters"]
    assert "gain" not in {column["key"] for column in summary["tables"][0]["columns"]}


def test_concepts_are_measured_on_prompts_of_another_kind():
    found = organism_faithfulness(["sea", "refusal"], 4, seed=1)
    assert found.kind("sea") == "instructions"
    assert found.kind("refusal") == "questions"
    assert {len(prompts) for prompts in found.prompts.values()} <= {3, 4}
    assert found.identity != organism_faithfulness(["sea", "refusal"], 4, seed=2).identity
    assert found.identity == organism_faithfulness(["sea", "refusal"], 4, seed=1).identity
    with pytest.raises(InputError, match="no concept 'tea'"):
        organism_faithfulness(["tea"], 4)
    with pytest.raises(InputError, match="no prompts are of the kind"):
        FaithfulnessData({"a": ("x",)}, kinds={"sea": "b"})
    with pytest.raises(InputError, match="no unrelated prompts"):
        FaithfulnessData({})


def test_data_come_from_files(tmp_path):
    prompts, texts = tmp_path / "prompts.csv", tmp_path / "texts.json"
    prompts.write_text("id,instruction\n1,Name a fish.\n2,Name a bird.\n")
    texts.write_text(json.dumps(["One day.", "Two days."]))
    pairs = {CONCEPT: tt.load_pairs(CONCEPT)[:3]}
    found = faithfulness_files(prompts, texts, pairs, n=1)
    assert found.prompts == {"unrelated": ("Name a fish.",)}
    assert found.texts == ("One day.",)
    assert len(found.pairs[CONCEPT]) == 1
    assert found.kind("whatever") == "unrelated"
    with pytest.raises(InputError, match="name its column one of"):
        faithfulness_files(prompts, prompts)


def test_the_stories_of_the_real_file_are_read(shared):
    path = shared / "data" / "tinystories" / "tinystories_100.json"
    found = faithfulness_files(path, path, n=5)
    assert len(found.texts) == len(found.prompts["unrelated"]) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"ways": ()},
        {"ways": ("up",)},
        {"multipliers": (-1.0,)},
        {"multipliers": (1.0, 1.0)},
        {"stability": -1},
        {"temperature": -0.5},
        {"running_tokens": 0},
        {"resamples": 0},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(InputError):
        FaithfulnessSettings(**wrong)


def test_every_text_of_the_plan_has_a_name_of_its_own(data, added, clamped):
    tried = doses([Contender("a", CONCEPT, added), Contender("c", CONCEPT, clamped)], SMALL)
    jobs = plan(data, tried, SMALL)
    assert len({job.id for job in jobs}) == len(jobs) == 3 * (1 + 14)
    seeds = {}
    for job in jobs:
        seeds.setdefault(job.number, set()).add(job.seed)
    assert all(len(found) == 1 for found in seeds.values())  # contenders are compared on the same draws
