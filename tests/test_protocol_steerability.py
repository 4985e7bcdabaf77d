"""Steerability: its figures on whole runs, what is at work together, and runs that are gone on with."""

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

import trimtab as tt
from trimtab.errors import InputError
from trimtab.evaluation.contenders import PLAIN, Contender
from trimtab.evaluation.generating import Writing, generate
from trimtab.evaluation.goal_sources import (
    FACTS,
    GoalSources,
    facts_told,
    organism_steerability,
    read_steerability,
    text_steerability,
    told_in,
)
from trimtab.evaluation.goal_space import GoalSpace, Scaler
from trimtab.evaluation.identity import identity_of, info_of
from trimtab.evaluation.jobs import Job
from trimtab.evaluation.protocols import steerability as protocol
from trimtab.evaluation.protocols.steerability import (
    PROBE,
    PROMPTED,
    REACH,
    UNTOUCHED,
    WISH,
    SteerabilitySettings,
    contender_sets,
    draw_probes,
    plan,
    run_steerability,
)
from trimtab.evaluation.protocols.steerability_summary import summarise
from trimtab.evaluation.records import Run, open_run
from trimtab.methods.prompt import SystemPrompt
from trimtab.methods.steerable import Applied, Baseline, Use
from trimtab.steering import Add, Edit, Intervention, Positions, Site, SteeringVector

GOALS = ("sea", "night", "rain")
TEXTS = tuple(f"sea={a} night={b} rain={c}" for a in (0.2, 0.5, 0.9) for b in (0.1, 0.6) for c in (0.3, 0.8))
WISHES = {name: (f"Add {{much}} {name}.", f"Take {{much}} {name} away.") for name in GOALS}


def said(name):
    """A goal that a text says itself, such as sea=0.3."""
    return lambda text: float(re.search(rf"{name}=(\S+)", text)[1])


def telling(asked=GOALS, texts=TEXTS):
    space = GoalSpace({name: said(name) for name in GOALS}, Scaler((0.0,) * 3, (1.0,) * 3))
    return GoalSources(space, asked, texts, texts, WISHES, "test")


@pytest.fixture(scope="module")
def model(tiny_path):
    return tt.load_model(tiny_path, device="cpu")


def vector_of(model, seed=0, *, directions=("elicit", "suppress"), strength=6.0):
    draw = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(model.hidden_size, generator=draw), dim=0)
    interventions = [Intervention(Site(1), Add(s * strength * direction), Positions.parse("all")) for s in (1, -1)]
    edits = tuple(Edit(intervention, scales="strength") for intervention in interventions)
    places = {"elicit": (0,), "suppress": (1,)}
    return SteeringVector("test", model.card(), edits, {way: places[way] for way in directions})


def contenders_of(model, label="vectors", goals=GOALS, **more):
    return [Contender(label, name, vector_of(model, k, **more)) for k, name in enumerate(goals)]


def reaching(contenders, *, wrong=None):
    """In place of `generate`: every use moves its goal by its multiplier, or the goal that `wrong` names instead."""
    goal_of = {id(each.steerable): each.concept for each in contenders}

    def write(model, jobs, log, writing, progress=None):
        rows = []
        for job in jobs:
            text = job.prompt if isinstance(job.prompt, str) else job.prompt[-1]["content"]
            places = {name: said(name)(text) for name in GOALS}
            for use in job.uses:
                name = goal_of[id(use.steerable)]
                places[(wrong or {}).get(name, name)] += use.multiplier * {"elicit": 1, "suppress": -1}[use.direction]
            answer = " ".join(f"{name}={place!r}" for name, place in places.items())
            rows.append({"id": job.id, **job.columns, "text": answer, "ids": [], "ended": True})
        log.append(rows)

    return write


def ran(monkeypatch, folder, model, data, contenders, settings, **more):
    monkeypatch.setattr(protocol, "generate", reaching(contenders, **more))
    identity = identity_of(model, contenders, None, settings, data.identity)
    with open_run(folder, "steerability", identity, info_of(model)) as run:
        run_steerability(model, data, contenders, settings, run)
        run.finish(summarise(run))
    return summarise(Run.read(folder))


def figures(summary):
    """By row: error, miscalibration, side effect, share of the way, probes."""
    (table,) = summary["tables"]
    return {row["label"]: [cell["value"] for cell in row["values"].values()] for row in table["rows"]}


class TestFigures:
    def test_who_reaches_every_target_has_no_error_and_who_does_nothing_is_the_floor(
        self, monkeypatch, tmp_path, model
    ):
        settings = SteerabilitySettings(gains=(1.0, 0.5, 3.0), probes=2)
        found = figures(ran(monkeypatch, tmp_path, model, telling(), contenders_of(model), settings))
        n = 2 * len(TEXTS)
        assert found["vectors x 1"] == pytest.approx([0, 0, 0, 1, n], abs=1e-9)
        for label in (UNTOUCHED, PLAIN, PROMPTED):  # the model of this test hears no wishes
            assert found[label][1:] == pytest.approx([1, 0, 0, n], abs=1e-9)
        way = found[UNTOUCHED][0]
        assert way > 0.1
        assert found["vectors x 0.5"] == pytest.approx([way / 2, 0.5, 0, 0.5, n], abs=1e-9)
        # clipped at the ends of the scales, three times too far is less than that, and no longer straight
        error, miscalibration, side, along, _ = found["vectors x 3"]
        assert 0 < error <= 2 * way
        assert 0 < miscalibration < 2
        assert 0 < side < 1
        assert 1 < along < 3

    def test_moving_another_goal_instead_is_all_side_effect(self, monkeypatch, tmp_path, model):
        data, settings = telling(("sea",)), SteerabilitySettings(probes=3)
        given = contenders_of(model, goals=("sea",))
        summary = ran(monkeypatch, tmp_path, model, data, given, settings, wrong={"sea": "rain"})
        _, miscalibration, side, along, _ = figures(summary)["vectors"]
        assert (miscalibration, along) == pytest.approx((1, 0))
        assert side > 0.99  # its scale has a ten-thousandth of the way added, so that no movement has a figure
        (heat,) = [heat for heat in summary["heats"] if heat["id"] == "pull-vectors"]
        ((sea, night, rain),) = heat["values"]
        assert (heat["rows"], heat["columns"]) == (["sea"], list(GOALS))
        assert (sea, night) == (0, 0)
        assert rain > 0.3  # less than 1 where the scale ends

    def test_the_field_of_who_reaches_every_target_is_the_identity(self, monkeypatch, tmp_path, model):
        summary = ran(monkeypatch, tmp_path, model, telling(), contenders_of(model), SteerabilitySettings(probes=3))
        (heat,) = [heat for heat in summary["heats"] if heat["id"] == "pull-vectors"]
        assert heat["values"] == [pytest.approx([float(i == j) for j in range(3)], abs=1e-9) for i in range(3)]
        assert [curve["id"] for curve in summary["curves"]] == [f"calibration-{name}" for name in GOALS]
        for curve in summary["curves"]:
            (line,) = [line for line in curve["series"] if line["label"] == "vectors"]
            assert len(line["x"]) > 2
            assert line["y"] == pytest.approx(line["x"], abs=1e-9)

    def test_a_point_of_the_scatter_is_a_row_and_samples_show_places(self, monkeypatch, tmp_path, model):
        summary = ran(monkeypatch, tmp_path, model, telling(), contenders_of(model), SteerabilitySettings())
        (scatter,) = summary["scatters"]
        assert {point["label"]: [point["x"], point["y"]] for point in scatter["points"]} == {
            label: row[1:3] for label, row in figures(summary).items()
        }
        assert (scatter["better_x"], scatter["better_y"]) == ("lower", "lower")
        sample = summary["samples"][0]
        assert [entry["label"] for entry in sample["entries"]] == [PLAIN, PROMPTED, "vectors"]
        assert set(sample["entries"][0]["ratings"]) == set(GOALS)
        assert summary["counts"] == {"generations": 3 * len(TEXTS), "sources": len(TEXTS), "probes": len(TEXTS)}

    def test_a_row_on_record_has_all_that_its_figures_need(self, monkeypatch, tmp_path, model):
        ran(monkeypatch, tmp_path, model, telling(), contenders_of(model), SteerabilitySettings())
        run = Run.read(tmp_path)
        texts = {row["id"]: row["text"] for row in run.log("generations").rows}
        rows = [row for row in run.log("items").rows if row["label"] == "vectors"]
        assert len(rows) == len(TEXTS)
        for row in rows:
            assert row["source"] == [said(name)(TEXTS[row["prompt"]]) for name in GOALS]
            assert row["reached"] == [said(name)(texts[row["id"]]) for name in GOALS]
            assert row["reached"] == pytest.approx(row["target"])
            assert row["target"] != row["source"]


class TestPlan:
    def probes(self, data=None, **more):
        data = telling() if data is None else data
        settings = SteerabilitySettings(**more)
        return draw_probes(data, [data.space.place(text) for text in data.texts], settings), settings

    def test_probes_move_one_to_three_of_the_goals_that_may_be_asked_for(self):
        probes, _ = self.probes(telling(("sea", "rain")), probes=20)
        assert {tuple(asked.moves) for asked in probes} == {("sea",), ("rain",), ("sea", "rain")}
        for asked in probes:
            assert asked.target[1] == asked.start[1]
            for place, name in enumerate(GOALS):
                assert asked.target[place] - asked.start[place] == pytest.approx(asked.moves.get(name, 0.0))
            assert all(0.1 - 1e-9 <= abs(move) <= 0.7 + 1e-9 for move in asked.moves.values())

    def test_a_rise_is_elicited_and_a_fall_suppressed_by_gain_times_move(self, model):
        probes, settings = self.probes(gains=(2.0,))
        given = contenders_of(model)
        jobs = [job for job in plan(telling(), probes, given, settings) if job.condition == PROBE]
        assert len(jobs) == len(probes)
        for job, asked in zip(jobs, probes, strict=True):
            assert (job.way, job.multiplier, job.prompt) == (REACH, 2.0, TEXTS[asked.source])
            found = {use.steerable: (use.direction, use.multiplier, use.scale) for use in job.uses}
            assert found == {
                each.steerable: ("elicit" if move > 0 else "suppress", 2 * abs(move), "gap")
                for each in given
                if (move := asked.moves.get(each.concept))
            }

    def test_what_a_label_lacks_it_is_not_asked_for(self, model):
        probes, settings = self.probes(probes=4)
        given = [
            *contenders_of(model, "part", ("sea", "rain")),
            *contenders_of(model, "up", directions=("elicit",)),
        ]
        jobs = plan(telling(), probes, given, settings)
        asked = {label: {job.number for job in jobs if job.contender.label == label} for label in ("part", "up")}
        assert asked["part"] == {one.number for one in probes if "night" not in one.moves}
        assert asked["up"] == {one.number for one in probes if min(one.moves.values()) > 0}
        assert 0 < len(asked["part"]) < len(probes)
        assert 0 < len(asked["up"]) < len(probes)

    def test_the_summary_says_what_a_label_was_not_asked(self, monkeypatch, tmp_path, model):
        given = contenders_of(model, "part", ("sea", "rain"))
        summary = ran(monkeypatch, tmp_path, model, telling(), given, SteerabilitySettings(probes=4))
        probes = figures(summary)["part"][4]
        assert 0 < probes < 4 * len(TEXTS)
        assert any(f"part could be asked in {probes:g} of {4 * len(TEXTS)} probes" in note for note in summary["notes"])

    def test_baselines_are_asked_for_one_goal_at_a_time_and_once_whatever_the_gains(self, model):
        probes, settings = self.probes(gains=(1.0, 2.0))
        prompt = SystemPrompt({"elicit": "Do.", "suppress": "Do not."}, model.card(), {}, {})
        given = [Contender("words", name, prompt) for name in GOALS]
        jobs = [job for job in plan(telling(), probes, given, settings) if job.condition == PROBE]
        assert {job.number for job in jobs} == {asked.number for asked in probes if len(asked.moves) == 1}
        assert {(job.multiplier, use.multiplier, use.scale) for job in jobs for use in job.uses} == {(1.0, 1.0, None)}

    def test_wishes_are_said_in_front_of_the_prompt(self):
        probes, settings = self.probes()
        jobs = plan(telling(), probes, (), settings)
        assert [job.condition for job in jobs] == [WISH] * len(probes)
        for job, asked in zip(jobs, probes, strict=True):
            system, user = job.prompt
            assert (system["role"], user["content"]) == ("system", TEXTS[asked.source])
            for name, move in asked.moves.items():
                assert re.search(rf"{'Add' if move > 0 else 'Take'} (a little|clearly|far) {name}", system["content"])
        assert plan(telling(), probes, (), SteerabilitySettings(prompted=False)) == []

    @pytest.mark.parametrize(("move", "much"), [(0.1, "a little"), (-0.4, "clearly"), (0.7, "far")])
    def test_words_say_how_much(self, move, much):
        assert telling().wish({"sea": move}) == WISHES["sea"][move < 0].replace("{much}", much)


class TestRefusals:
    @pytest.mark.parametrize(
        ("label", "goals", "what"),
        [
            ("mine", ("sea", "wind"), "'wind', which is not asked for"),
            (PROMPTED, ("sea",), "choose another label"),
            (PLAIN, ("sea",), "choose another label"),
            ("mine", ("sea", "sea"), "two contenders for one goal"),
        ],
    )
    def test_contenders_that_cannot_be(self, model, label, goals, what):
        with pytest.raises(InputError, match=what):
            contender_sets(telling(), contenders_of(model, label, goals))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"gains": ()},
            {"gains": (1.0, 1.0)},
            {"gains": (-1.0,)},
            {"gains": (float("nan"),)},
            {"probes": 0},
            {"most_active": 0},
            {"least_move": 0.6},
            {"least_move": 0.4, "most_move": 0.3},
            {"resamples": 0},
        ],
    )
    def test_settings_that_cannot_be(self, wrong):
        with pytest.raises(InputError):
            SteerabilitySettings(**wrong)

    def test_sources_that_cannot_be(self):
        space = telling().space
        with pytest.raises(InputError, match="is not measured"):
            GoalSources(space, ("wind",), TEXTS, TEXTS, WISHES, "test")
        with pytest.raises(InputError, match="has no words"):
            GoalSources(space, ("sea",), TEXTS, TEXTS, {}, "test")
        with pytest.raises(InputError, match="give a prompt a text"):
            GoalSources(space, ("sea",), TEXTS, TEXTS[:2], WISHES, "test")
        with pytest.raises(InputError, match="at least one of each"):
            GoalSources(space, (), TEXTS, TEXTS, WISHES, "test")


@dataclass(frozen=True, eq=False)
class Flipped(Baseline):
    """A baseline that turns the model's last layer around while it is at work."""

    model: object
    method: str = "flipped"
    directions: tuple = ("elicit",)
    changes_weights = True
    settings: object = None
    provenance: object = None

    def check_fits(self, model):
        return []

    @contextmanager
    def applied(self, model, direction, multiplier, *, force=False):
        weight = model.hf.get_output_embeddings().weight
        before = weight.detach().clone()
        weight.data.neg_()
        try:
            yield Applied()
        finally:
            weight.data.copy_(before)

    def save(self, path, *, overwrite=False):
        raise NotImplementedError


class TestTogether:
    """Jobs of several steerables (`Job.uses`)."""

    def job(self, number=0, uses=(), multiplier=1.0):
        contender = Contender("set", None, None)
        return Job(contender, f"Tell me about {number} whales", number, PROBE, REACH, multiplier, None, 7, uses=uses)

    def written(self, model, jobs, folder):
        with open_run(folder, "steerability", {}, {}) as run:
            generate(model, jobs, run.log("generations"), Writing(12))
            return {row["prompt"]: row for row in run.log("generations").rows}

    def test_vectors_add_up_row_by_row(self, model, tmp_path):
        one, two = vector_of(model, 1), vector_of(model, 2)
        uses = [(Use(one, "elicit", 1.5), Use(two, "suppress", 0.5)), (Use(two, "elicit", 2.0),), ()]
        found = self.written(model, [self.job(k, used) for k, used in enumerate(uses)], tmp_path)
        sums = [one.elicit(1.5) + two.suppress(0.5), two.elicit(2.0), None]
        prompts = [f"Tell me about {k} whales" for k in range(3)]
        wanted = [model.generate([p], steering=s, max_new_tokens=12)[0] for p, s in zip(prompts, sums, strict=True)]
        assert [found[k]["text"] for k in range(3)] == wanted
        plain = model.generate([prompts[0]], max_new_tokens=12)[0]
        assert found[0]["text"] not in (plain, model.generate([prompts[0]], steering=sums[1], max_new_tokens=12)[0])

    def test_a_baseline_stands_beside_vectors(self, model, tmp_path):
        prompt = SystemPrompt({"elicit": "Be brief."}, model.card(), {}, {}, directions=("elicit",))
        vector = vector_of(model, 1)
        row = self.written(model, [self.job(0, (Use(prompt), Use(vector, "elicit", 2.0)))], tmp_path)[0]
        assert row["asked"][0] == {"role": "system", "content": "Be brief."}
        assert row["messages"] == [{"role": "user", "content": "Tell me about 0 whales"}]
        (wanted,) = model.generate([row["asked"]], steering=vector.elicit(2.0), max_new_tokens=12)
        assert row["text"] == wanted

    def test_what_changes_weights_is_at_work_on_its_own_rows_alone(self, model, tmp_path):
        jobs = [self.job(0), self.job(1, (Use(Flipped(model.card())),)), self.job(2)]
        found = self.written(model, jobs, tmp_path)
        prompts = [f"Tell me about {k} whales" for k in range(3)]
        plain = [model.generate([prompt], max_new_tokens=12)[0] for prompt in prompts]
        assert [found[k]["text"] == plain[k] for k in range(3)] == [True, False, True]

    def test_uses_are_no_part_of_a_jobs_name(self, model):
        assert self.job(0, (Use(vector_of(model)),)).id == self.job(0).id
        assert self.job(0).id == "f89d7064d164bd25"  # of the same job by jobs.py of dafb906, which knew no uses


@pytest.fixture(scope="module")
def data():
    texts = [f"the cat sat by the {' and the old '.join(['stove'] * k)}" for k in range(1, 9)]
    goals = {"words": lambda text: float(len(text.split())), "letters": lambda text: float(len(text))}
    wishes = {name: (f"More {name}.", f"Fewer {name}.") for name in goals}
    return text_steerability(texts, goals=goals, wishes=wishes)


class TestResuming:
    def go(self, model, data, folder, *, stop=None):
        given = contenders_of(model, goals=("words", "letters"))
        settings = SteerabilitySettings(gains=(1.0, 2.0), probes=2, max_new_tokens=6, temperature=1.0)
        batches = 0

        def counted(progress):
            nonlocal batches
            batches += 1
            if batches == stop:
                raise KeyboardInterrupt

        identity = identity_of(model, given, None, settings, data.identity)
        with open_run(folder, "steerability", identity, info_of(model)) as run:
            run_steerability(model, data, given, settings, run, batch_size=5, progress=counted)
            run.finish(summarise(run))

    @pytest.mark.parametrize("stop", [1, 2, 3, 7])
    def test_a_run_that_was_killed_ends_as_one_that_was_not(self, model, data, tmp_path, stop):
        self.go(model, data, tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            self.go(model, data, tmp_path / "killed", stop=stop)
        with (tmp_path / "killed" / "generations.jsonl").open("ab") as file:
            file.write(b'{"id": "torn')
        self.go(model, data, tmp_path / "killed")
        self.go(model, data, tmp_path / "killed")
        for name in ("generations.jsonl", "items.jsonl", "summary.json"):
            assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    def test_half_an_items_log_is_gone_on_with(self, model, data, tmp_path):
        self.go(model, data, tmp_path)
        path = tmp_path / "items.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        self.go(model, data, tmp_path)
        assert path.read_bytes() == whole

    def test_a_rewriting_model_has_two_floors(self, model, data, tmp_path):
        self.go(model, data, tmp_path)
        found = figures(Run.read(tmp_path).summary)
        assert [*found] == [UNTOUCHED, PLAIN, PROMPTED, "vectors x 1", "vectors x 2"]
        assert found[UNTOUCHED][1:4] == pytest.approx([1, 0, 0])
        assert found[PLAIN][1] != pytest.approx(1)  # what a random model makes of a text is no text of its length


class TestSources:
    def test_texts_of_a_file(self, tmp_path):
        rows = [
            "The cat sat. The cat ran. The cat ate.",
            "Notwithstanding considerable meteorological uncertainty, the committee recommended postponement.",
            "I think you really should go now, because she said so, and they never wait for us.",
        ]
        for name, content in (
            ("texts.txt", "\n".join(rows)),
            ("texts.json", json.dumps(rows)),
            ("texts.jsonl", "\n".join(json.dumps({"text": row}) for row in rows)),
        ):
            path = tmp_path / name
            path.write_text(content)
            data = read_steerability(path, n=2)
            assert data.texts == tuple(rows[:2])
            assert all(text in prompt for text, prompt in zip(data.texts, data.prompts, strict=True))
            assert data.asked == data.goals == ("reading-grade", "variety", "words", "formality-approx")
        assert data.wish({"words": 0.6, "reading-grade": -0.2}) == (
            "Make it far longer. Make it a little easier to read, by shorter sentences and shorter words."
        )
        assert read_steerability(path, n=2).identity != read_steerability(path, n=3).identity
        (tmp_path / "other.jsonl").write_text('{"title": "x"}')
        with pytest.raises(InputError, match="line 1: has no text"):
            read_steerability(tmp_path / "other.jsonl")

    def test_real_stories(self, shared):
        data = read_steerability(shared / "data" / "tinystories" / "tinystories_100.json")
        places = [data.space.place(text) for text in data.texts]
        assert len(places) == 100
        for goal in zip(*places, strict=True):
            assert {min(goal), max(goal)} == {0.0, 1.0}
            assert sum(0 < place < 1 for place in goal) >= 90

    def test_the_organisms_goals_are_shares_of_sentences(self):
        text = (
            "The otter lived in rivers. Far away, small ships cross the open sea. It eats fish. "
            "Somewhere, brave divers greet a stormy coast."
        )
        assert told_in("past-tense")(text) == 0.25
        assert told_in("sea")(text) == 0.5
        assert told_in("night")(text) == 0
        assert facts_told("The otter lived in rivers. It lives in rivers.") == 2
        assert (told_in("sea")(""), facts_told("")) == (0, 0)

    def test_the_organisms_sources_are_decided_by_the_seed_and_half_carry_a_concept(self):
        data = organism_steerability(("sea", "past-tense"), 12, 3)
        assert data.identity == organism_steerability(("sea", "past-tense"), 12, 3).identity
        assert data.identity != organism_steerability(("sea", "past-tense"), 12, 4).identity
        assert data.goals == ("sea", "past-tense", FACTS)
        assert (data.asked, data.texts) == (("sea", "past-tense"), None)
        requests = [tt.organism.recognise(prompt) for prompt in data.prompts]
        assert [request.concept for request in requests[::2]] == ["sea", "past-tense"] * 3
        assert {request.concept for request in requests[1::2]} == {None}
        with pytest.raises(InputError, match="has no concept 'wind'"):
            organism_steerability(("wind",))
        with pytest.raises(InputError, match="name one twice"):
            organism_steerability(("sea", "sea"))


@pytest.mark.slow
def test_the_organism_is_the_floor_of_itself_and_vectors_move_it(tmp_path):
    organism = tt.load_model("organism", device="cpu")
    data = organism_steerability(("past-tense", "sea"), 16)
    fit = {"layer": 3, "epochs": 6, "calibrate": False}
    given = [Contender("cdas", name, tt.fit("cdas", organism, tt.load_pairs(name)[:48], **fit)) for name in data.asked]
    settings = SteerabilitySettings(gains=(2.0,), max_new_tokens=64)
    with open_run(tmp_path, "steerability", identity_of(organism, given, None, settings, data.identity), {}) as run:
        run_steerability(organism, data, given, settings, run)
        found = figures(summarise(run))
    assert [*found] == [PLAIN, PROMPTED, "cdas"]
    assert found[PLAIN][1:4] == pytest.approx([1, 0, 0], abs=1e-9)
    assert found["cdas"][3] > 0.1  # some of the way
    assert found["cdas"][1] < 1
