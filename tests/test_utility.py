"""The protocol `utility`: records that can be gone on with, and differences on the same items."""

import csv
import itertools
import json
import math

import pytest
import torch

import trimtab as tt
from tests.harness_data import CHOICE, DOCS, TEXT, write_task
from trimtab.errors import InputError
from trimtab.evaluation import harness_tasks
from trimtab.evaluation.choices import run_choices
from trimtab.evaluation.contenders import PLAIN, Contender
from trimtab.evaluation.identity import identity_of
from trimtab.evaluation.protocols.utility import UtilityData, UtilitySettings, load_utility, run_utility, uses
from trimtab.evaluation.protocols.utility_summary import summarise
from trimtab.evaluation.records import Run, open_run
from trimtab.evaluation.traits import choose_right, drawn_choices
from trimtab.methods.prompt import SystemPrompt
from trimtab.organism import rate
from trimtab.organism.world import choice_requests
from trimtab.steering import Add, Clamp, Edit, Intervention, Site, SteeringVector

TaskManager = pytest.importorskip("lm_eval.tasks").TaskManager


@pytest.fixture(scope="module")
def model(tiny_path):
    return tt.load_model(tiny_path, device="cpu")


@pytest.fixture(scope="module")
def organism():
    return tt.load_model("organism", device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    return tuple(write_task(folder, name, body) for name, body in (("local_choice", CHOICE), ("local_text", TEXT)))


def vector_of(model, size=6.0, seed=0, layer=1):
    generator = torch.Generator().manual_seed(seed)
    push = size * torch.nn.functional.normalize(torch.randn(model.hidden_size, generator=generator), dim=0)
    return SteeringVector("test", model.card(), (Edit(Intervention(Site(layer), Add(push)), scales="strength"),))


def clamp_of(model, value, layer=3):
    generator = torch.Generator().manual_seed(1)
    axis = torch.nn.functional.normalize(torch.randn(model.hidden_size, generator=generator), dim=0)
    edit = Edit(Intervention(Site(layer), Clamp(axis, torch.tensor(value))), scales="nothing")
    return SteeringVector("clamp", model.card(), (edit,))


def measured(path, model, contenders, settings, progress=None, data=None):
    """A run of the protocol, begun or gone on with; its summary."""
    data = load_utility(settings) if data is None else data
    with open_run(path, "utility", identity_of(model, contenders, None, settings, data.identity), {}) as run:
        run_utility(model, data, contenders, settings, run, progress=progress)
        run.finish(summarise(run))
        return run.summary


def rows_of(path, name="items"):
    return Run.read(path).log(name).rows


def row(summary, table, label):
    found = next(each for each in summary["tables"] if each["id"] == table)
    return next(each["values"] for each in found["rows"] if each["label"] == label)


class TestOnATinyModel:
    def settings(self, files):
        return UtilitySettings(files, ways=("elicit",), multipliers=(0.0, 1.0), limit=6, seed=3)

    def test_differences_are_of_the_same_items(self, model, files, tmp_path):
        told = []
        contenders = [Contender("push", "a", vector_of(model))]
        summary = measured(tmp_path / "run", model, contenders, self.settings(files), told.append)
        assert (told[-1].done, told[-1].total) == (6, 6)
        items = rows_of(tmp_path / "run")
        assert len(items) == 3 * (6 + 2 * 6)
        values = {
            way: [r["metrics"]["acc"] for r in items if r["task"] == "local_choice" and r["multiplier"] == way]
            for way in (None, 0.0, 1.0)
        }
        assert values[0.0] == values[None]
        for label, multiplier in (("push elicit x0", 0.0), ("push elicit x1", 1.0)):
            found = row(summary, "utility-local_choice-none-acc", label)
            before, after = values[None], values[multiplier]
            assert found["before"]["value"] == pytest.approx(sum(before) / 6)
            assert found["after"]["value"] == pytest.approx(sum(after) / 6)
            assert found["difference"]["value"] == pytest.approx((sum(after) - sum(before)) / 6)
            assert found["difference"]["low"] <= found["difference"]["value"] <= found["difference"]["high"]
            gained = sum(a > b for a, b in zip(after, before, strict=True))
            assert (found["gained"]["value"], found["gained"]["value"] - found["lost"]["value"]) == (
                gained,
                sum(after) - sum(before),
            )
        assert row(summary, "differences", "push elicit x0")["local_choice acc"]["value"] == 0
        assert summary["tables"][0]["id"] == "differences"
        assert summary["counts"] == {"answers": len(items), "tasks": 2, "contenders": 1}
        curve = next(each for each in summary["curves"] if each["title"] == "local_choice acc")
        assert curve["series"][0]["x"] == [0.0, 1.0]
        assert [each for each in summary["tables"] if each["id"] == "harness"] == []  # all are means

    def test_a_run_that_was_cut_anywhere_ends_as_if_it_had_not_been(self, model, files, tmp_path):
        contenders, settings = [Contender("push", "a", vector_of(model))], self.settings(files)
        measured(tmp_path / "whole", model, contenders, settings)
        whole = {name: (tmp_path / "whole" / f"{name}.jsonl").read_bytes() for name in ("items", "measures")}
        for name, share in (("items", 0.1), ("items", 0.5), ("measures", 0.6)):
            cut = tmp_path / f"{name}-{share}"
            measured(cut, model, contenders, settings)
            for each in ("items", "measures"):
                (cut / f"{each}.jsonl").write_bytes(whole[each])
            if name == "items":
                (cut / "items.jsonl").write_bytes(whole["items"][: int(share * len(whole["items"]))])
            else:  # the figures are written first: without some of them their items are missing too
                (cut / "measures.jsonl").write_bytes(whole["measures"][: int(share * len(whole["measures"]))])
                lines = whole["items"].splitlines(keepends=True)
                (cut / "items.jsonl").write_bytes(b"".join(lines[:18]))
            (cut / "summary.json").unlink()
            measured(cut, model, contenders, settings)
            for each in ("items", "summary"):
                suffix = "json" if each == "summary" else "jsonl"
                assert (cut / f"{each}.{suffix}").read_bytes() == (tmp_path / "whole" / f"{each}.{suffix}").read_bytes()
            assert sorted((cut / "measures.jsonl").read_bytes().splitlines()) == sorted(whole["measures"].splitlines())

    def test_what_is_there_is_not_run_again(self, model, files, tmp_path):
        contenders, settings = [Contender("push", "a", vector_of(model))], self.settings(files)
        measured(tmp_path / "run", model, contenders, settings)
        calls = []
        handle = model.hf.register_forward_pre_hook(lambda *_: calls.append(1))
        measured(tmp_path / "run", model, contenders, settings)
        handle.remove()
        assert calls == []

    def test_several_concepts_make_one_row_with_an_interval_over_them(self, model, files, tmp_path):
        contenders = [Contender("push", str(k), vector_of(model, seed=k)) for k in range(3)]
        settings = UtilitySettings(files[:1], ways=("elicit",))
        summary = measured(tmp_path / "run", model, contenders, settings)
        found = row(summary, "utility-local_choice-none-acc", "push elicit x1")
        items = [r for r in rows_of(tmp_path / "run") if r["label"] == "push"]
        means = [math.fsum(r["metrics"]["acc"] for r in items if r["concept"] == str(k)) / len(DOCS) for k in range(3)]
        before = found["before"]["value"]
        assert found["difference"]["value"] == pytest.approx(sum(means) / 3 - before)
        assert found["difference"]["n"] == 3
        assert found["p"] is None

    def test_a_prompt_is_refused_before_anything_is_run(self, model, files, tmp_path):
        prompt = SystemPrompt({"elicit": "Be a pirate.", "suppress": "Do not."}, model.card(), {}, {})
        calls = []
        handle = model.hf.register_forward_pre_hook(lambda *_: calls.append(1))
        with pytest.raises(InputError, match="set chat_template"):
            measured(tmp_path / "run", model, [Contender("prompt", "a", prompt)], UtilitySettings(files))
        handle.remove()
        assert calls == []
        settings = UtilitySettings(files, ways=("elicit",), multipliers=(0.5, 2.0), limit=2, chat_template=True)
        measured(tmp_path / "chat", model, [Contender("prompt", "a", prompt)], settings)
        assert {r["multiplier"] for r in rows_of(tmp_path / "chat") if r["label"] == "prompt"} == {1.0}

    def test_scores_that_are_no_numbers_are_left_out_and_counted(self, model, files, tmp_path):
        path = tmp_path / "run"
        measured(path, model, [Contender("push", "a", vector_of(model))], self.settings(files))
        lines = [json.loads(line) for line in (path / "items.jsonl").read_text().splitlines()]
        lines[0]["metrics"]["acc"] = None
        (path / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        summary = summarise(Run.read(path))
        assert row(summary, "utility-local_choice-none-acc", "push elicit x1")["difference"]["n"] == 5
        assert [note for note in summary["notes"] if note.startswith("local_choice acc: 1 answers")]

    def test_figures_that_are_no_means_have_a_table(self, model, files, tmp_path):
        path = tmp_path / "run"
        measured(path, model, [Contender("push", "a", vector_of(model))], self.settings(files))
        lines = [json.loads(line) for line in (path / "measures.jsonl").read_text().splitlines()]
        first = next(line for line in lines if line["name"] == "acc,none")
        first["value"] = 0.123
        (path / "measures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert row(summarise(Run.read(path)), "harness", PLAIN)["local_choice acc"]["value"] == 0.123


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A group of three parts, of which the second and the third have a question that is longer than the context."""
    folder = tmp_path_factory.mktemp("group")
    for k in range(3):
        docs = [
            {**doc, "question": "the boy " * 400} if k and not n else doc for n, doc in enumerate(DOCS[4 * k :][:4])
        ]
        write_task(folder, f"third_{k}", CHOICE, docs)
    (folder / "thirds.yaml").write_text("group: thirds\ntask: [third_0, third_1, third_2]\n")
    # by name, without the harness's own tasks, whose files take ten seconds to read
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return UtilityData((harness_tasks._load(manager, "thirds"),), ())


class TestAGroup:
    def run(self, path, model, group, progress=None):
        settings = UtilitySettings(("thirds",), ways=("elicit",), seed=3)
        return measured(path, model, [Contender("push", "a", vector_of(model))], settings, progress, group)

    def test_what_a_kill_in_a_part_loses_is_that_part(self, model, group, tmp_path):
        calls, after, limit = 0, [], None

        def forward(*_):
            nonlocal calls
            calls += 1
            if calls == limit:
                raise KeyboardInterrupt

        def told(progress):
            after.append((progress.done, progress.total, calls))

        handle = model.hf.register_forward_pre_hook(forward)
        try:
            self.run(tmp_path / "whole", model, group, told)
            assert [(done, total) for done, total, _ in after] == [(k, 6) for k in range(1, 7)]
            ends = [0, *(each for *_, each in after)]
            assert all(b - a > 1 for a, b in itertools.pairwise(ends))
            parts = [(label, f"third_{k}") for label in (PLAIN, "push") for k in range(3)]
            for n in (1, 2, 4):  # parts that are done when the next one's last forward is cut off
                cut, calls, limit = tmp_path / str(n), 0, ends[n + 1]
                with pytest.raises(KeyboardInterrupt):
                    self.run(cut, model, group)
                done = [(item["label"], item["subtask"]) for item in rows_of(cut)]
                assert done == [part for part in parts[:n] for _ in range(4)]
                calls, limit = 0, None
                self.run(cut, model, group)
                assert calls == ends[-1] - ends[n]
                for name in ("items.jsonl", "measures.jsonl", "summary.json"):
                    assert (cut / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        finally:
            handle.remove()

    def test_its_numbers_are_those_of_all_its_items(self, model, group, tmp_path):
        summary = self.run(tmp_path / "run", model, group)
        items = rows_of(tmp_path / "run")
        plain, push = ([r["metrics"]["acc"] for r in items if r["label"] == label] for label in (PLAIN, "push"))
        found = row(summary, "utility-thirds-none-acc", "push elicit x1")
        assert (found["before"]["n"], found["difference"]["n"]) == (12, 12)
        assert found["before"]["value"] == pytest.approx(sum(plain) / 12)
        assert found["difference"]["value"] == pytest.approx((sum(push) - sum(plain)) / 12)
        figures = {r["subtask"]: r["value"] for r in rows_of(tmp_path / "run", "measures") if r["name"] == "acc,none"}
        assert figures == {f"third_{k}": pytest.approx(sum(push[4 * k :][:4]) / 4) for k in range(3)}

    def test_what_does_not_fit_is_told_of_all_parts_in_one_note(self, model, group, tmp_path):
        summary = self.run(tmp_path / "run", model, group)
        measures = [r for r in rows_of(tmp_path / "run", "measures") if r["name"] == "truncated"]
        assert [r["value"] for r in measures] == [0, 4, 4] * 2  # four choices of one question each
        assert [note for note in summary["notes"] if "beginning" in note] == [
            f"thirds, {side}: 8 requests exceed the context and lost their beginning."
            for side in (PLAIN, "push elicit x1")
        ]


class TestChoices:
    def test_the_organism_answers_them_and_a_hard_clamp_does_not_let_it(self, organism, tmp_path):
        settings = UtilitySettings(choices=40, ways=("elicit",))
        contenders = [
            Contender("weak", "a", clamp_of(organism, 0.0)),
            Contender("hard", "a", clamp_of(organism, 2000.0)),
        ]
        summary = measured(tmp_path / "run", organism, contenders, settings)
        weak, hard = (row(summary, "utility-choices-none-acc", f"{label} elicit x1") for label in ("weak", "hard"))
        assert weak["before"]["value"] > 0.8
        assert abs(weak["difference"]["value"]) < 0.15
        assert hard["difference"]["value"] < -0.5
        assert hard["difference"]["high"] < 0
        assert hard["p"]["value"] < 0.001
        for item in rows_of(tmp_path / "run"):
            request = choice_requests()[item["item"]]
            assert item["target"] == request.right
            assert item["metrics"]["acc"] == (rate(request, item["response"]).instruction == 2)

    def test_they_are_those_of_the_demo(self, organism):
        vector = clamp_of(organism, 4.0)
        rows = {"plain": None, "steered": vector.elicit()}
        right = choose_right(organism, rows, 24, seed=5)
        found = run_choices(organism, drawn_choices(24, 5), rows)
        assert {name: tuple(item["metrics"]["acc"] == 1 for item in items) for name, items in found.items()} == right

    def test_a_prompt_comes_before_them(self, organism, tmp_path):
        text = "Answer in the past tense."
        prompt = SystemPrompt({"elicit": text, "suppress": "Do not."}, organism.card(), {}, {})
        seen = set()

        def look(_, args, kwargs):
            ids, mask = args[0] if args else kwargs["input_ids"], kwargs["attention_mask"]
            if ids.shape[1] > 1:
                seen.update(tuple(row[real.bool()].tolist()) for row, real in zip(ids, mask, strict=True))

        handle = organism.hf.register_forward_pre_hook(look, with_kwargs=True)
        settings = UtilitySettings(choices=12, ways=("elicit",))
        measured(tmp_path / "run", organism, [Contender("prompt", "a", prompt)], settings)
        handle.remove()
        asked = [request.messages for _, request in drawn_choices(12, settings.seed)]
        system = [{"role": "system", "content": text}]
        assert seen == {organism.chat.render([*first, *each]).ids for first in ([], system) for each in asked}
        items = rows_of(tmp_path / "run")
        assert [r["label"] for r in items] == [PLAIN] * 12 + ["prompt"] * 12


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"tasks": "mmlu"},
        {"tasks": ("mmlu", "mmlu")},
        {"choices": -1},
        {"choices": 1, "ways": ()},
        {"choices": 1, "ways": ("up",)},
        {"choices": 1, "multipliers": (1.0, 1.0)},
        {"choices": 1, "resamples": 0},
        {"choices": 1, "limit": 0},
    ],
)
def test_settings_that_cannot_be(bad):
    with pytest.raises(InputError):
        UtilitySettings(**bad)


def test_a_contender_has_its_own_multiplier_unless_others_are_given(model):
    vector = SteeringVector(
        "test",
        model.card(),
        vector_of(model).edits,
        multipliers={"elicit": 1.5},
    )
    plan = uses([Contender("a", "x", vector)], UtilitySettings(choices=1))
    assert [(use.way, use.multiplier) for use in plan] == [(None, None), ("elicit", 1.5), ("suppress", 1.0)]
    plan = uses([Contender("a", "x", clamp_of(model, 1.0))], UtilitySettings(choices=1, multipliers=(2.0, 3.0)))
    assert [use.multiplier for use in plan] == [None, 1.0, 1.0]


def test_truthful_qa_of_a_file_is_measured_offline(model, shared, tmp_path):
    """MC1 as the harness has it (the best answer against the false ones), over the published table."""
    table = shared / "data" / "truthfulqa" / "TruthfulQA.csv"
    with table.open(encoding="utf-8-sig", newline="") as file:
        questions = list(csv.DictReader(file))[:30]
    (tmp_path / "truthful.py").write_text(
        "def docs(dataset):\n"
        "    def choices(doc):\n"
        "        wrong = [part.strip() for part in doc['Incorrect Answers'].split(';') if part.strip()]\n"
        "        return {'choices': [doc['Best Answer'].strip(), *wrong]}\n"
        "    return dataset.map(choices, load_from_cache_file=False)\n"
    )
    (tmp_path / "truthful_mc1.yaml").write_text(
        f"""task: truthful_mc1
dataset_path: csv
dataset_kwargs:
  data_files: {{validation: {table}}}
  cache_dir: {tmp_path / "cache"}
  encoding: utf-8-sig
validation_split: validation
process_docs: !function truthful.docs
output_type: multiple_choice
doc_to_text: "Q: {{{{Question}}}}\\nA:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
    )
    settings = UtilitySettings((str(tmp_path / "truthful_mc1.yaml"),), ways=("elicit",), limit=30)
    summary = measured(tmp_path / "run", model, [Contender("push", "a", vector_of(model, 12.0))], settings)
    items = rows_of(tmp_path / "run")
    wrong = [[part for part in q["Incorrect Answers"].split(";") if part.strip()] for q in questions]
    assert [len(r["scores"]) for r in items[:30]] == [1 + len(each) for each in wrong]
    plain = [r["scores"].index(max(r["scores"])) == 0 for r in items[:30]]
    found = row(summary, "utility-truthful_mc1-none-acc", "push elicit x1")
    assert found["before"]["value"] == pytest.approx(sum(plain) / 30)
    after = [r["scores"].index(max(r["scores"])) == 0 for r in items[30:]]
    assert found["difference"]["value"] == pytest.approx((sum(after) - sum(plain)) / 30)
    assert found["difference"]["low"] < found["difference"]["high"]
