"""Tasks of lm-evaluation-harness on steered models: its own numbers where nothing steers, ours where something does."""

import functools
import math
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import trimtab as tt
from tests.harness_data import CHOICE, DOCS, NEXT, TEXT, write_task
from trimtab.errors import InputError, MissingExtraError
from trimtab.evaluation import harness_tasks
from trimtab.evaluation.harness import HarnessSettings, harness_model, run_part, run_task, run_tasks
from trimtab.evaluation.harness_tasks import PRESETS, load_tasks, task_names
from trimtab.methods.prompt import SystemPrompt
from trimtab.methods.steerable import Applied
from trimtab.models.tiny import make_tiny_model
from trimtab.steering import Add, Clamp, Edit, Intervention, Positions, PromptGate, Site, SteeringVector

lm_eval = pytest.importorskip("lm_eval")

SHOTS = HarnessSettings(num_fewshot=2)
CHAT = HarnessSettings(num_fewshot=2, chat_template=True)


@pytest.fixture(scope="module")
def model(tiny_path):
    return tt.load_model(tiny_path, device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    bodies = {"local_choice": CHOICE, "local_text": TEXT, "local_next": NEXT}
    return {name: write_task(folder, name, body) for name, body in bodies.items()}


def direction(width, seed=0):
    return torch.nn.functional.normalize(torch.randn(width, generator=torch.Generator().manual_seed(seed)), dim=0)


def vector_of(model, transform=None, *, positions="all", scales="strength", **more):
    transform = Add(6 * direction(model.hidden_size)) if transform is None else transform
    edit = Edit(Intervention(Site(1), transform, Positions.parse(positions), **more), scales=scales)
    return SteeringVector("test", model.card(), (edit,))


def prompt_of(model, text="Answer like a pirate who hates numbers."):
    return SystemPrompt({"elicit": text, "suppress": "Do not."}, model.card(), {}, {})


def own_samples(source, files, settings, **more):
    """What `simple_evaluate` of the harness finds for a model that it loads itself; a task at a time, as ours are run.

    The harness scores all tasks of a call in common batches, and other batches move the last digits.
    """
    found = [
        lm_eval.simple_evaluate(
            model="hf",
            model_args=f"pretrained={source},dtype=float32",
            device="cpu",
            batch_size=8,
            tasks=[file],
            task_manager=bare_manager(),
            num_fewshot=settings.num_fewshot,
            apply_chat_template=settings.chat_template,
            random_seed=settings.seed,
            numpy_random_seed=settings.seed,
            torch_random_seed=settings.seed,
            fewshot_random_seed=settings.seed,
            bootstrap_iters=0,
            **more,
        )
        for file in files.values()
    ]
    return {key: {name: part for each in found for name, part in each[key].items()} for key in ("samples", "results")}


def same_as_own(items, own):
    """Compares every record with the harness's own, exactly; how many there were."""
    count = 0
    for name in own["samples"]:
        ours = [item for item in items if item["subtask"] == name]
        assert len(ours) == len(own["samples"][name])
        for item, sample in zip(ours, own["samples"][name], strict=True):
            assert (item["item"], item["filter"]) == (sample["doc_id"], sample["filter"])
            assert item["metrics"] == {metric: sample[metric] for metric in sample["metrics"]}
            if item["scores"] is None:
                assert item["response"] == sample["filtered_resps"][0]
            else:
                assert item["scores"] == [reply[0] for reply in sample["filtered_resps"]]
            count += 1
        for key, value in own["results"][name].items():
            metric, _, kind = key.partition(",")
            if kind and "_stderr" not in metric:
                values = [item["metrics"][metric] for item in ours if item["filter"] == kind]
                assert math.fsum(values) / len(values) == pytest.approx(value, abs=1e-12)
    return count


@pytest.mark.parametrize("settings", [SHOTS, CHAT], ids=["plain", "chat"])
def test_the_plain_model_scores_what_the_harness_scores(model, tiny_path, files, settings):
    items = run_tasks(model, list(files.values()), settings=settings, batch_size=8)
    assert same_as_own(items, own_samples(tiny_path, files, settings)) == len(DOCS) * 4
    assert {item["metrics"]["acc"] for item in items if item["subtask"] == "local_choice"} == {0.0, 1.0}


@pytest.mark.parametrize("settings", [SHOTS, CHAT], ids=["plain", "chat"])
def test_batches_decide_nothing(model, files, settings):
    vector = vector_of(model, positions="response")
    for steerable in (None, vector):
        one, eight = (
            run_tasks(model, list(files.values()), steerable, settings=settings, batch_size=n) for n in (1, 8)
        )
        for a, b in zip(one, eight, strict=True):
            assert {**a, "scores": None} == {**b, "scores": None}
            if a["scores"] is not None:
                assert a["scores"] == pytest.approx(b["scores"], abs=1e-4)


def test_no_strength_is_no_steering_bit_for_bit_and_a_clamp_is(model, files):
    tasks = list(files.values())
    plain = run_tasks(model, tasks, settings=SHOTS)
    assert run_tasks(model, tasks, vector_of(model), "elicit", 0.0, settings=SHOTS) == plain
    clamp = vector_of(model, Clamp(direction(model.hidden_size), torch.tensor(9.0)), scales="nothing")
    steered = run_tasks(model, tasks, clamp, settings=SHOTS)
    pairs = list(zip(plain, steered, strict=True))
    assert all(a["doc"] == b["doc"] and a["target"] == b["target"] for a, b in pairs)
    assert all(a["scores"] != b["scores"] for a, b in pairs if a["scores"] is not None)
    assert any(a["response"] != b["response"] for a, b in pairs if a["scores"] is None)
    assert run_tasks(model, tasks, settings=SHOTS) == plain


def test_nothing_is_left_behind(model, files, capsys):
    weights = {name: value.clone() for name, value in model.hf.state_dict().items()}
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m)), m.training) for m in model.hf.modules()
    ]
    tokenizer = (model.tokenizer.padding_side, model.tokenizer.pad_token, len(model.tokenizer))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.random(), torch.rand(1)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    run_tasks(model, list(files.values()), vector_of(model, positions="last"), settings=CHAT)
    assert (random.random(), np.random.random(), torch.rand(1)) == expected
    assert all(torch.equal(weights[name], value) for name, value in model.hf.state_dict().items())
    assert hooks == [
        (len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m)), m.training) for m in model.hf.modules()
    ]
    assert tokenizer == (model.tokenizer.padding_side, model.tokenizer.pad_token, len(model.tokenizer))
    assert capsys.readouterr() == ("", "")


def test_modes_of_training_survive(tiny_path, files):
    model = tt.load_model(tiny_path, device="cpu")
    model.hf.train()
    run_tasks(model, [files["local_choice"]], settings=SHOTS)
    assert all(module.training for module in model.hf.modules())


def own_scores(model, item, edited):
    """Log-likelihoods of an item's choices by a forward of our own a choice, one hook on block 1.

    `edited(context)` says which of the tokens get the vector, as a slice.
    """
    vector, found = 6 * direction(model.hidden_size), []
    for choice in item["choices"]:
        context = f"{item['question']}\nAnswer:"
        ids = model.tokenizer(context)["input_ids"]
        whole = model.tokenizer(f"{context} {choice}")["input_ids"]
        assert whole[: len(ids)] == ids

        n = len(ids)
        place = edited(n)

        def hook(_, __, output, place=place):
            state = (output[0] if isinstance(output, tuple) else output).clone()
            state[:, place] += vector
            return (state, *output[1:]) if isinstance(output, tuple) else state

        handle = model.layout.blocks[1].register_forward_hook(hook)
        with torch.no_grad():
            logs = model.hf(torch.tensor([whole])).logits[0].log_softmax(-1)
        handle.remove()
        found.append(sum(float(logs[k - 1, whole[k]]) for k in range(n, len(whole))))
    return found


@pytest.mark.parametrize(
    ("positions", "edited"),
    [
        ("all", lambda n: slice(1, None)),
        ("prompt", lambda n: slice(1, n)),
        ("response", lambda n: slice(n, None)),
        ("last", lambda n: slice(n - 1, n)),
        ("f2", lambda n: slice(1, 3)),
        ("l3", lambda n: slice(n - 3, n)),
    ],
)
def test_positions_mean_context_and_continuation(model, files, positions, edited):
    """BOS is the prefix that a plain text shares with the template, and is not edited."""
    items = run_tasks(model, [files["local_choice"]], vector_of(model, positions=positions), batch_size=5)
    for item, doc in zip(items, DOCS, strict=True):
        assert item["scores"] == pytest.approx(own_scores(model, doc, edited), abs=2e-4)


def test_a_condition_reads_the_context(model, files):
    """A threshold in the middle of the questions' own similarities lets half of them through."""
    axis, seen = direction(model.hidden_size, 3), []
    for doc in DOCS:
        ids = model.tokenizer(f"{doc['question']}\nAnswer:")["input_ids"]
        with torch.no_grad():
            states = model.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0, 1:]
        mean = states.mean(dim=0)
        seen.append(float(mean @ axis / mean.norm()))
    middle = sum(sorted(seen)[5:7]) / 2
    steerable = vector_of(model, gate=PromptGate(axis, 0, middle))
    plain, steered = (run_tasks(model, [files["local_choice"]], each) for each in (None, steerable))
    moved = [a["scores"] != pytest.approx(b["scores"], abs=1e-3) for a, b in zip(plain, steered, strict=True)]
    assert moved == [value > middle for value in seen]
    assert sum(moved) == 6


class TestBos:
    def heads(self, model, monkeypatch):
        """The first two real tokens of every row that enters the model while a sequence begins."""
        seen = []

        def look(_, args, kwargs):
            ids = args[0] if args else kwargs["input_ids"]
            mask = kwargs.get("attention_mask")
            for k, row in enumerate(ids if ids.shape[1] > 1 else []):
                real = row if mask is None else row[mask[k, -len(row) :].bool()]
                seen.append(tuple(real[:2].tolist()))

        return seen, model.hf.register_forward_pre_hook(look, with_kwargs=True)

    @pytest.mark.parametrize("settings", [SHOTS, CHAT], ids=["plain", "chat"])
    def test_it_comes_once(self, model, files, settings, monkeypatch):
        seen, handle = self.heads(model, monkeypatch)
        run_tasks(model, list(files.values()), vector_of(model), settings=settings)
        handle.remove()
        bos = model.tokenizer.bos_token_id
        assert len(seen) > len(DOCS)
        assert all(first == bos and second != bos for first, second in seen)

    def test_a_prompt_has_the_ids_that_trimtab_gives_it(self, model):
        turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "What is a map?"}]
        lm = harness_model(model)
        text = lm.apply_chat_template(turns)
        assert tuple(lm.tok_encode(text)) == model.chat.render(turns).ids
        assert tuple(lm.tok_batch_encode([text])[0][0].tolist()) == model.chat.render(turns).ids

    def test_the_organisms_too(self):
        organism = tt.load_model("organism", device="cpu")
        turns = [{"role": "user", "content": "What does the baker eat?"}]
        lm = harness_model(organism)
        assert tuple(lm.tok_encode(lm.apply_chat_template(turns))) == organism.chat.render(turns).ids

    @pytest.mark.parametrize("name", ["local_choice", "local_text"])
    def test_twice_is_refused(self, tiny_path, files, name):
        """The harness looks for BOS at the very beginning of a text, where this template has a line break."""
        model = tt.load_model(tiny_path, device="cpu")
        model.tokenizer.chat_template = "\n" + model.tokenizer.chat_template.replace("{{- bos", "{{ bos", 1)
        model = tt.Model(model.hf, model.tokenizer)
        with pytest.raises(InputError, match="BOS twice"):
            run_tasks(model, [files[name]], settings=CHAT)


class TestPromptBaseline:
    @pytest.mark.slow
    def test_it_is_the_harnesss_system_instruction(self, model, tiny_path, files):
        text = "Answer like a pirate who hates numbers."
        own = own_samples(tiny_path, files, CHAT, system_instruction=text)
        ours = run_tasks(model, list(files.values()), prompt_of(model, text), settings=CHAT)
        assert same_as_own(ours, own) == len(DOCS) * 4
        plain = run_tasks(model, list(files.values()), settings=CHAT)
        assert all(a["scores"] != b["scores"] for a, b in zip(ours, plain, strict=True) if a["scores"])

    def test_it_needs_the_chat_template(self, model, files):
        with pytest.raises(InputError, match="set chat_template"):
            run_tasks(model, [files["local_choice"]], prompt_of(model), settings=SHOTS)

    def test_a_template_without_a_system_role_has_it_in_the_user_turn(self, tiny_path, files):
        """The harness by itself would leave it out, with a warning."""
        model = tt.load_model(tiny_path, device="cpu")
        model.tokenizer.chat_template = (
            "{{ bos_token }}{% for turn in messages %}"
            "{% if turn.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
            "<|{{ turn.role }}|>{{ turn.content }}<|end|>{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}"
        )
        model = tt.Model(model.hf, model.tokenizer)
        lm = harness_model(model, Applied(prompt=lambda prompt: [{"role": "system", "content": "Be kind."}, *prompt]))
        turns = [{"role": "user", "content": "Hello"}]
        assert "<|user|>Be kind.\n\nHello" in lm.apply_chat_template(turns)
        with pytest.raises(InputError, match="begins the model's answer"):
            lm.apply_chat_template([*turns, {"role": "assistant", "content": "Well"}], add_generation_prompt=False)

    def test_a_base_model_has_no_chat_template(self, tmp_path, files):
        make_tiny_model(tmp_path / "base", family="llama", seed=0, chat=False)
        base = tt.load_model(tmp_path / "base", device="cpu")
        with pytest.raises(InputError, match="no chat template"):
            run_tasks(base, [files["local_choice"]], settings=CHAT)


def test_an_adapter_scores_what_peft_scores(tiny_path, files, tmp_path):
    """Our adapter's directory is PEFT's, so the harness can load it with the model."""
    pytest.importorskip("peft")
    model = tt.load_model(tiny_path, device="cpu")
    lora = tt.fit_steerable("lora", model, tt.load_pairs("refusal")[:4], epochs=3, batch_size=4, lr=0.02, layers="1")
    lora.save(tmp_path / "lora")
    ours = run_tasks(model, [files["local_choice"]], lora, settings=SHOTS)
    found = own_samples(f"{tiny_path},peft={tmp_path / 'lora'}", {"": files["local_choice"]}, SHOTS)
    plain = run_tasks(model, [files["local_choice"]], settings=SHOTS)
    for item, other, before in zip(ours, found["samples"]["local_choice"], plain, strict=True):
        assert item["scores"] == pytest.approx([reply[0] for reply in other["filtered_resps"]], abs=1e-4)
        assert item["scores"] != pytest.approx(before["scores"], abs=1e-2)


def test_a_vector_of_another_model_is_refused(model, files):
    other = tt.load_model("organism", device="cpu")
    with pytest.raises(InputError, match="does not fit"):
        run_tasks(model, [files["local_choice"]], vector_of(other))


class TestTasks:
    def test_a_group_is_one_task_of_several_parts(self, model, tmp_path):
        for k in range(2):
            write_task(tmp_path, f"half_{k}", CHOICE, [doc for doc in DOCS if doc["topic"] == k])
        (tmp_path / "both.yaml").write_text("group: both_halves\ntask: [half_0, half_1]\n")
        task = harness_tasks._load(bare_manager(tmp_path), "both_halves")
        found = run_task(model, task, Applied(), HarnessSettings(limit=4))
        assert [(i["task"], i["subtask"], i["item"]) for i in found.items] == [
            ("both_halves", part, k) for part in ("half_0", "half_1") for k in range(4)
        ]
        assert [(i["subtask"], i["item"], i["filter"]) for i in found.items] == task.keys(4)
        parts = [run_part(model, task, part, Applied(), HarnessSettings(limit=4)) for part in ("half_1", "half_0")]
        assert [*parts[1].items, *parts[0].items] == found.items  # to the bit, in whichever order
        assert {**parts[1].figures, **parts[0].figures} == found.figures
        assert parts[0].figures.keys() == {"half_1"}

    def test_a_group_scores_what_the_harness_scores_with_all_of_it_in_common_batches(self, model, tiny_path, tmp_path):
        for k in range(2):
            write_task(tmp_path, f"half_{k}", CHOICE, [doc for doc in DOCS if doc["topic"] == k])
        (tmp_path / "both.yaml").write_text("group: both_halves\ntask: [half_0, half_1]\n")
        own = lm_eval.simple_evaluate(
            model="hf",
            model_args=f"pretrained={tiny_path},dtype=float32",
            device="cpu",
            batch_size=8,
            tasks=["both_halves"],
            task_manager=bare_manager(tmp_path),
            num_fewshot=2,
            fewshot_random_seed=SHOTS.seed,
            bootstrap_iters=0,
        )
        task = harness_tasks._load(bare_manager(tmp_path), "both_halves")
        found = run_task(model, task, Applied(), SHOTS)
        samples = [sample for part in ("half_0", "half_1") for sample in own["samples"][part]]
        assert len(found.items) == len(samples) == len(DOCS)
        for item, sample in zip(found.items, samples, strict=True):
            assert item["metrics"] == {metric: sample[metric] for metric in sample["metrics"]}
            assert item["scores"] == pytest.approx([reply[0] for reply in sample["filtered_resps"]], abs=1e-4)
        for part, figures in found.figures.items():
            assert figures == {name: pytest.approx(own["results"][part][name]) for name in figures}

    def test_its_records_can_be_told_beforehand_and_it_can_be_run_again(self, model, files):
        (task,) = load_tasks([files["local_text"]])
        first, other, again = (run_task(model, task, Applied(), each) for each in (SHOTS, HarnessSettings(), SHOTS))
        assert [(i["subtask"], i["item"], i["filter"]) for i in first.items] == task.keys(None)
        assert {i["filter"] for i in first.items} == {"whole", "number"}
        assert first == again
        assert [i["response"] for i in other.items] != [i["response"] for i in first.items]

    def test_its_identity_is_its_text_and_its_data_wherever_they_lie(self, tmp_path):
        for name in "abc":
            (tmp_path / name).mkdir()
        files = [write_task(tmp_path / name, "same", CHOICE, DOCS[: 3 if name == "c" else 4]) for name in "abc"]
        a, b, c = (load_tasks([file])[0].identity for file in files)
        assert a == b
        assert a != c
        other = write_task(tmp_path / "a", "same", CHOICE, DOCS[:4], doc_to_text="{{question}}")
        assert load_tasks([other])[0].identity != a

    def test_a_seed_chooses_the_examples(self, model, files):
        one, other = (
            run_tasks(model, [files["local_choice"]], settings=HarnessSettings(num_fewshot=2, seed=seed))
            for seed in (1, 2)
        )
        assert [i["scores"] for i in one] != [i["scores"] for i in other]

    def test_what_does_not_fit_the_context_is_counted(self, model, tmp_path, caplog):
        docs = [{**doc, "question": "the boy " * 400 if k == 0 else doc["question"]} for k, doc in enumerate(DOCS)]
        file = write_task(tmp_path, "long_choice", CHOICE, docs)
        (task,) = load_tasks([file])
        found = run_task(model, task, Applied(vector_of(model, positions="last")), HarnessSettings())
        assert found.truncated == 4
        assert "lost their beginning" in caplog.text

    def test_what_cannot_be_compared_is_refused(self, model, tmp_path):
        rolling = {"output_type": "loglikelihood_rolling", "doc_to_target": "{{question}}", "doc_to_text": ""}
        with pytest.raises(InputError, match="loglikelihood_rolling"):
            load_tasks([write_task(tmp_path, "texts", rolling, metric_list=[{"metric": "word_perplexity"}])])
        docs = [{**doc, "choices": ["yes", "no"], "gold": k % 2} for k, doc in enumerate(DOCS)]
        f1 = write_task(tmp_path, "only_f1", CHOICE, docs, metric_list=[{"metric": "f1"}])
        with pytest.raises(InputError, match="no number an item"):
            run_tasks(model, [f1])
        with pytest.raises(InputError, match="runs code"):
            load_tasks([write_task(tmp_path, "code", TEXT, unsafe_code=True)])

    def test_what_is_not_there_is_named(self, tmp_path):
        with pytest.raises(InputError, match="no file"):
            load_tasks([str(tmp_path / "none.yaml")])
        with pytest.raises(InputError, match="no folder"):
            load_tasks([write_task(tmp_path, "here", CHOICE)], tmp_path / "none")
        gone = write_task(tmp_path, "gone", CHOICE)
        (tmp_path / "gone.jsonl").unlink()
        with pytest.raises(InputError, match="gone"):
            load_tasks([gone])
        (tmp_path / "broken.yaml").write_text("task: broken\noutput_type: no_such_type\n")
        with pytest.raises(InputError, match="cannot be loaded"):
            load_tasks([str(tmp_path / "broken.yaml")])
        (tmp_path / "helper.py").write_text(
            "import a_package_that_nobody_has\n\ndef docs(dataset):\n    return dataset\n"
        )
        lacking = write_task(tmp_path, "lacking", CHOICE)
        text = Path(lacking).read_text() + "process_docs: !function helper.docs\n"
        Path(lacking).write_text(text)
        with pytest.raises(InputError, match="a_package_that_nobody_has"):
            load_tasks([lacking])

    def test_presets_are_spelled_out(self):
        assert task_names(["tiny", "own"]) == (*PRESETS["tiny"], "own")
        with pytest.raises(InputError, match="named twice"):
            task_names(["mmlu", "standard"])
        with pytest.raises(InputError, match="no tasks"):
            task_names([])

    def test_without_the_package_the_extra_is_named(self, model, monkeypatch, files):
        monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
        with pytest.raises(MissingExtraError, match="harness"):
            load_tasks([files["local_choice"]])
        monkeypatch.delitem(sys.modules, "trimtab.evaluation.harness_model", raising=False)
        monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)
        with pytest.raises(MissingExtraError, match="harness"):
            harness_model(model)

    @pytest.mark.parametrize("bad", [{"limit": 0}, {"num_fewshot": -1}, {"seed": -1}, {"limit": 1.5}])
    def test_settings_that_cannot_be(self, bad):
        with pytest.raises(InputError):
            HarnessSettings(**bad)


def bare_manager(folder=None):
    """A manager of a folder's tasks without the harness's own, whose files take ten seconds to read."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder and str(folder), include_defaults=False)


@pytest.mark.slow
def test_the_presets_are_tasks_of_the_harness_and_a_wrong_name_has_near_ones():
    from lm_eval.tasks import TaskManager

    known = TaskManager().all_tasks
    assert [name for names in PRESETS.values() for name in names if name not in known] == []
    with pytest.raises(InputError, match="gsm8k"):
        load_tasks(["gsm8kk"])


@pytest.mark.slow
def test_tiny_benchmarks_say_which_package_they_need():
    if "tinyBenchmarks" in sys.modules:
        pytest.skip("tinyBenchmarks is installed")
    with pytest.raises(InputError, match=r"tinyBenchmarks.*pip install"):
        load_tasks(["tinyMMLU"])


@pytest.mark.slow
def test_a_named_task_of_ones_own(model, tmp_path):
    write_task(tmp_path, "mine_choice", CHOICE)
    items = run_tasks(model, ["mine_choice"], include_path=tmp_path, settings=HarnessSettings(limit=3))
    assert [item["task"] for item in items] == ["mine_choice"] * 3
    assert functools.reduce(lambda n, item: n + len(item["scores"]), items, 0) == 12
