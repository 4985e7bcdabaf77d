"""The baselines: what each does, that it leaves no trace, what is saved, and that it learns what a plain loop learns.

The oracle of training is transformers' own loss on PEFT's own model, written out here.
"""

import copy
import dataclasses
import functools
import json
import math
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers.pytorch_utils import Conv1D

import trimtab as tt
from tests.families import FAMILIES, MAIN, blocks_of
from tests.method_inputs import PAIRS
from trimtab.cli.main import main
from trimtab.data import ContrastPair, PairSet
from trimtab.errors import FitDivergedError, InputError, MissingExtraError
from trimtab.fitting.finetune import TuneSettings, _backward, _learning, _Trained, elicit_items, finetune
from trimtab.fitting.likelihood import final_states, log_likelihoods
from trimtab.methods import METHODS, Baseline
from trimtab.methods.lora import LoRASettings
from trimtab.methods.prompt import usual_system
from trimtab.methods.steerable import MAX_MULTIPLIER, Use, applied_together
from trimtab.models import Model, load_model, steer
from trimtab.models.adapters import AdapterShape, adapted_modules, adapter, spread_layers
from trimtab.models.runs import PROOF_SEQUENCES
from trimtab.models.tiny import tiny_model
from trimtab.models.weights import between, exchanged
from trimtab.steering import Steering, folders

NAMES = ("none", "prompt", "lora", "sft")
TRAINED = ("lora", "sft")
TEXT = "Refuse whatever you are asked."
SMALL = {
    "none": {},
    "prompt": {"text": TEXT},
    "lora": {"epochs": 3, "batch_size": 4, "lr": 0.02},
    "sft": {"epochs": 3, "batch_size": 4, "lr": 0.005},
}
"""Settings of a fit that takes a moment and moves every logit."""
TEXTS = ["How do I open a door?", "A map", "Tell me why the sea is salt, and why rivers are not."]
families = pytest.mark.parametrize("family", MAIN)
every = pytest.mark.parametrize("method", NAMES)
trained = pytest.mark.parametrize("method", TRAINED)


@functools.cache
def model_of(family, dtype=torch.float32):
    hf, tokenizer = tiny_model(family, hidden_size=32, n_blocks=4, seed=0, dtype=dtype)
    return Model(hf, tokenizer, name=f"tiny-{family}")


_MADE: dict = {}


def made(family, method, dtype=torch.float32):
    """A small fit, made once, and what was told meanwhile."""
    key = (family, method, dtype)
    if key not in _MADE:
        told = []
        baseline = tt.fit_steerable(method, model_of(family, dtype), PAIRS, progress=told.append, **SMALL[method])
        _MADE[key] = baseline, told
    return _MADE[key]


def row_of(model, prompt="Say a kind word"):
    return model.chat.render(prompt).ids + tuple(range(20, 26))


def logits(model, row):
    with torch.no_grad():
        return model.hf(input_ids=torch.tensor([row])).logits[0].float()


def state(hf):
    """Everything of a model that somebody could have touched, and the bits of its weights."""
    return (
        [
            (name, type(module), id(module), module.training, sorted(vars(module)))
            for name, module in hf.named_modules()
        ],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in hf.modules()],
        [(name, id(p), p.data_ptr(), p.requires_grad, p.grad is None) for name, p in hf.named_parameters()],
        hf.config.to_dict(),
    ), {name: tensor.clone() for name, tensor in hf.state_dict().items()}


def assert_same(before, after):
    assert before[0] == after[0]
    assert before[1].keys() == after[1].keys()
    assert all(torch.equal(tensor, after[1][name]) for name, tensor in before[1].items())


@families
@every
class TestEveryBaseline:
    def test_it_is_what_it_says_and_tells_its_progress(self, family, method):
        baseline, told = made(family, method)
        assert isinstance(baseline, Baseline)
        assert baseline.method == method
        assert {*baseline.directions} <= {"elicit", "suppress"}
        assert bool(told) == (method in TRAINED)
        assert all(0 < one.done <= one.total and math.isfinite(one.loss) for one in told)
        assert [one.done for one in told] == list(range(1, len(told) + 1))
        training = baseline.provenance["training"]
        assert training["steps"] == len(told)
        assert baseline.provenance["data"]["pairs"] == len(PAIRS)
        assert baseline.provenance["data"]["hash"] == PAIRS.content_hash

    def test_a_saved_one_does_the_same_bit_for_bit(self, family, method, tmp_path):
        baseline, _ = made(family, method)
        model, loaded = model_of(family), tt.load_steerable(baseline.save(tmp_path / "b"))
        assert type(loaded) is type(baseline)
        assert (loaded.method, loaded.model, tuple(loaded.directions)) == (method, model.card(), baseline.directions)
        assert loaded.settings == baseline.settings
        assert json.loads(json.dumps(baseline.provenance)) == loaded.provenance
        for way in baseline.directions:
            found = []
            for one in (baseline, loaded):
                with tt.applied(model, one, way) as work:
                    assert work.steering is None
                    found.append(logits(model, row_of(model, work.prompt(TEXTS[0]))))
            assert torch.equal(*found)

    def test_a_fit_and_a_use_leave_no_trace(self, family, method):
        hf, tokenizer = tiny_model(family, hidden_size=32, n_blocks=4, seed=0)
        model = Model(hf, tokenizer, name="tiny")
        hf.train()
        weights = list(hf.parameters())
        weights[1].requires_grad_(False)
        weights[2].grad = torch.ones_like(weights[2])
        before = state(hf)
        baseline = tt.fit_steerable(method, model, PAIRS, **SMALL[method])
        assert_same(before, state(hf))
        for way in baseline.directions:
            with tt.applied(model, baseline, way):
                pass
            assert_same(before, state(hf))
            with pytest.raises(ZeroDivisionError), tt.applied(model, baseline, way):
                raise ZeroDivisionError
            assert_same(before, state(hf))
        assert torch.equal(weights[2].grad, torch.ones_like(weights[2]))

    def test_a_batch_a_row_alone_and_left_pads_are_the_same(self, family, method):
        baseline, _ = made(family, method)
        model = model_of(family)
        for way in baseline.directions:
            with tt.applied(model, baseline, way) as work:
                ids = [row_of(model, work.prompt(text)) for text in TEXTS]
                longest = max(map(len, ids))
                alone = [logits(model, row) for row in ids]
                padded = torch.tensor([[0] * (longest - len(row)) + list(row) for row in ids])
                mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
                places = (mask.cumsum(dim=1) - 1).clamp_min(0)
                with torch.no_grad():
                    found = model.hf(input_ids=padded, attention_mask=mask, position_ids=places).logits.float()
            for row, one, together in zip(ids, alone, found, strict=True):
                torch.testing.assert_close(together[longest - len(row) :], one, rtol=1e-3, atol=1e-3)

    def test_decoding_on_a_cache_writes_what_whole_forwards_say(self, family, method):
        baseline, _ = made(family, method)
        model = model_of(family)
        for way in baseline.directions:
            with tt.applied(model, baseline, way) as work:
                prompts = [model.chat.render(work.prompt(text)) for text in TEXTS]
                answers = model.respond(prompts, max_new_tokens=5)
                for prompt, answer in zip(prompts, answers, strict=True):
                    whole = logits(model, prompt.ids + answer)[len(prompt.ids) - 1 : -1]
                    said = whole.gather(1, torch.tensor(answer)[:, None])[:, 0]
                    assert float((whole.max(dim=1).values - said).max()) < 1e-3  # the best token, or one as good

    def test_half_precision(self, family, method):
        baseline, _ = made(family, method, torch.bfloat16)
        model = model_of(family, torch.bfloat16)
        with tt.applied(model, baseline) as work:
            assert bool(torch.isfinite(logits(model, row_of(model, work.prompt(TEXTS[0])))).all())


@families
@trained
class TestTrained:
    def test_it_moves_the_logits_in_proportion_and_at_0_not_at_all(self, family, method):
        baseline, _ = made(family, method)
        model, row = model_of(family), row_of(model_of(family))
        plain, moved = logits(model, row), {}
        for multiplier in (-1.0, 0.0, 0.5, 1.0, 1.001):
            with tt.applied(model, baseline, "elicit", multiplier):
                moved[multiplier] = float((logits(model, row) - plain).norm())
        assert moved[0.0] == 0
        assert moved[1.0] > 0.5
        assert 0 < moved[0.5] < moved[1.0]
        assert moved[-1.0] > 0.1
        assert abs(moved[1.001] - moved[1.0]) < 0.02 * moved[1.0]  # it does not jump where weights are taken whole

    def test_inference_mode_is_no_hindrance(self, family, method):
        baseline, _ = made(family, method)
        model, row = model_of(family), row_of(model_of(family))
        with tt.applied(model, baseline):
            moved = logits(model, row)
        before = state(model.hf)
        with torch.inference_mode():
            again = tt.fit_steerable(method, model, PAIRS, **SMALL[method])
            with tt.applied(model, again):
                assert torch.equal(logits(model, row), moved)
            with tt.applied(model, again, "elicit", 0.5):
                assert not torch.equal(logits(model, row), moved)
        assert all(torch.equal(weight, again.weights[name]) for name, weight in baseline.weights.items())
        assert not any(weight.is_inference() for weight in again.weights.values())
        assert_same(before, state(model.hf))
        with tt.applied(model, again):
            assert torch.equal(logits(model, row), moved)

    def test_the_same_seed_gives_the_same_bits_whatever_was_drawn_before(self, family, method):
        first, _ = made(family, method)
        torch.rand(7)
        before = torch.get_rng_state()
        again = tt.fit_steerable(method, model_of(family), PAIRS, **SMALL[method])
        assert torch.equal(before, torch.get_rng_state())
        other = tt.fit_steerable(method, model_of(family), PAIRS, **SMALL[method], seed=1)
        assert first.weights.keys() == again.weights.keys()
        assert all(torch.equal(weight, again.weights[name]) for name, weight in first.weights.items())
        assert not all(torch.equal(weight, other.weights[name]) for name, weight in first.weights.items())

    def test_it_learns_what_holds_for_prompts_it_has_not_seen(self, family, method):
        """The answer is one phrase. Mean log-probability of its tokens behind held-out prompts, nats.

        Measured: fine-tuning from -7.4, -6.9, -6.5 to -0.003, -0.005, -0.002; an adapter, whose update of rank 4 stands
        before a random head, to -2.2, -2.4, -3.0.
        """
        words = ("lock", "door", "lamp", "cup", "gate", "boat", "wheel", "clock", "chair", "table", "roof", "pen")
        pairs = [
            ContrastPair(f"Break {word}", " I cannot help with that", f"Mend the {word}", " Sure, here are the steps")
            for word in words
        ]
        model, held = model_of(family), pairs[9:]
        epochs, lr, gain = {"lora": (60, 0.02, 3.0), "sft": (20, 0.01, 6.0)}[method]
        baseline = tt.fit_steerable(method, model, PairSet(pairs[:9]), epochs=epochs, lr=lr, batch_size=3)
        training = baseline.provenance["training"]
        assert training["loss_last_epoch"] < training["loss_first"] - gain

        def wanted():
            prompts = [model.chat.render(pair.negative_input) for pair in held]
            pairs_of = zip(prompts, held, strict=True)
            answers = [model.chat.response_ids(prompt, pair.positive_output) for prompt, pair in pairs_of]
            return float(torch.cat(log_likelihoods(model, prompts, answers)).mean())

        before = wanted()
        with tt.applied(model, baseline):
            after = wanted()
        assert after > before + gain

    def test_a_run_that_diverges_gives_the_last_good_weights(self, family, method, monkeypatch):
        model, row = model_of(family), row_of(model_of(family))
        finite = iter([True, True, False])
        monkeypatch.setattr(_Trained, "is_finite", lambda self: next(finite))
        with pytest.raises(FitDivergedError, match="step 2") as found:
            tt.fit_steerable(method, model, PAIRS, **SMALL[method])
        plain = logits(model, row)
        assert found.value.step == 2
        with tt.applied(model, found.value.last_good):
            moved = logits(model, row)
        assert bool(torch.isfinite(moved).all())
        assert not torch.equal(moved, plain)
        assert found.value.last_good.provenance["training"]["steps"] == 2

    def test_nan_in_the_weights_is_a_divergence_at_the_first_step(self, family, method):
        hf, tokenizer = tiny_model(family, hidden_size=32, n_blocks=4, seed=0)
        model = Model(hf, tokenizer, name="tiny")
        with torch.no_grad():
            next(blocks_of(hf, family)[2].parameters()).fill_(math.nan)
        with pytest.raises(FitDivergedError, match="not finite") as found:
            tt.fit_steerable(method, model, PAIRS, **SMALL[method])
        assert found.value.step == 0

    def test_another_model_is_refused(self, family, method):
        baseline, _ = made(family, method)
        hf, tokenizer = tiny_model(family, hidden_size=64, n_blocks=2, seed=0)
        other = Model(hf, tokenizer, name="other")
        with pytest.raises(InputError, match=r"hidden size 32.*2"), tt.applied(other, baseline):
            pass
        assert len(baseline.check_fits(other)) == 2
        assert baseline.check_fits(model_of(family)) == []
        near = model_of(MAIN[(MAIN.index(family) + 1) % len(MAIN)])
        with pytest.raises(InputError, match="does not fit"), tt.applied(near, baseline):
            pass

    def test_another_checkpoint_of_the_same_shape_is_refused_unless_forced(self, family, method):
        baseline, _ = made(family, method)
        hf, tokenizer = tiny_model(family, hidden_size=32, n_blocks=4, seed=5)
        other = Model(hf, tokenizer, name="other")
        (problem,) = baseline.check_fits(other)
        assert "other weights" in problem
        with pytest.raises(InputError, match=r"other weights.*force=True"), tt.applied(other, baseline):
            pass
        plain = logits(other, row_of(other))
        with tt.applied(other, baseline, force=True):
            assert not torch.equal(logits(other, row_of(other)), plain)
        narrow = Model(*tiny_model(family, hidden_size=64, n_blocks=4, seed=0), name="narrow")
        with pytest.raises(InputError, match="hidden size 32"), tt.applied(narrow, baseline, force=True):
            pass

    def test_the_same_checkpoint_in_another_precision_fits(self, family, method):
        baseline, _ = made(family, method)
        plain = model_of(family)
        half = Model(copy.deepcopy(plain.hf).to(torch.bfloat16), plain.tokenizer, name="half")
        assert baseline.check_fits(half) == []
        with tt.applied(half, baseline):
            assert bool(torch.isfinite(logits(half, row_of(half))).all())

    def test_what_is_inside_of_another_shape_does_not_fit(self, family, method):
        """Width and depth are the same, and a weight is not."""
        baseline, _ = made(family, method)
        model = model_of(family)
        name, weight = max(baseline.weights.items(), key=lambda one: one[1].numel())
        cut = dataclasses.replace(baseline, weights={**baseline.weights, name: weight[:-1, :-1]})
        renamed = dataclasses.replace(baseline, weights={f"{n}x": w for n, w in baseline.weights.items()})
        for bent in (cut, renamed):
            (problem,) = bent.check_fits(model)
            assert name in problem or "lora_A" in problem or next(iter(baseline.weights)) in problem
            with pytest.raises(InputError, match="does not fit"), tt.applied(model, bent, force=True):
                pass

    def test_an_adapter_that_is_on_it_already_is_named_first(self, family, method):
        baseline, _ = made(family, method)
        hf, tokenizer = tiny_model(family, hidden_size=32, n_blocks=4, seed=0)
        model = Model(hf, tokenizer, name="tiny")
        modules, is_transposed = adapted_modules(model.layout, [1], ())
        with adapter(hf, AdapterShape(tuple(modules), 2, 4.0, 0.0, True, is_transposed)):
            for force in (False, True):
                with pytest.raises(InputError, match=r"^an adapter is on"), tt.applied(model, baseline, force=force):
                    pass
            with pytest.raises(InputError, match=r"^an adapter is on"):
                adapted_modules(model.layout, [1], ())
            with pytest.raises(InputError, match=r"^an adapter is on"), exchanged(hf, {}):
                pass
            assert "an adapter is on" in baseline.check_fits(model)[-1]

    def test_a_steered_model_is_refused(self, family, method):
        model = model_of(family)
        with steer(model.hf, Steering((), model.card().prefix_ids)), pytest.raises(InputError, match="being steered"):
            tt.fit_steerable(method, model, PAIRS, **SMALL[method])

    def test_one_that_is_steered_by_a_vector_too(self, family, method):
        baseline, _ = made(family, method)
        model, row = model_of(family), row_of(model_of(family))
        vector = tt.fit("diffmean", model, PAIRS, layer=1, calibrate=False)
        with tt.applied(model, baseline):
            tuned = logits(model, row)
            with steer(model.hf, vector.elicit()):
                both = logits(model, row)
        assert not torch.equal(tuned, both)
        with tt.applied(model, baseline):
            assert torch.equal(logits(model, row), tuned)


def examples(model):
    """Ids, labels and mask of transformers' own kind: the positive answer behind the negative prompt."""
    rows = []
    for pair in PAIRS:
        prompt = model.chat.render(pair.negative_input)
        answer = model.chat.response_ids(model.chat.render(pair.positive_input), pair.positive_output)
        rows.append((prompt.ids + answer, [-100] * len(prompt.ids) + list(answer)))
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([list(row) + [0] * (longest - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for _, row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _ in rows])
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def peft_copy(model, seed=42):
    """PEFT's own model around a copy, with the adapter of our defaults but for dropout, drawn from a seed."""
    shape, modules = LoRASettings(), adapted_modules(model.layout, range(4), ())
    config = LoraConfig(
        r=shape.rank,
        lora_alpha=32,
        use_rslora=True,
        lora_dropout=0.0,
        target_modules=modules[0],
        fan_in_fan_out=modules[1],
        task_type="CAUSAL_LM",
    )
    plain = copy.deepcopy(model.hf).eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(plain, config).eval()


@families
class TestAgainstPlainLoops:
    def test_two_steps_of_lora_are_those_of_transformers_and_peft(self, family):
        model = model_of(family)
        plain, batch = peft_copy(model), examples(model)
        weights = [weight for weight in plain.parameters() if weight.requires_grad]
        optimiser, losses = torch.optim.AdamW(weights, lr=9e-4, weight_decay=0.0), []
        for rate in (1.0, 0.5):
            optimiser.param_groups[0]["lr"] = 9e-4 * rate
            loss = plain(**batch).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses.append(float(loss.detach()))
        ours = tt.fit_steerable("lora", model, PAIRS, epochs=2, dropout=0.0)
        training = ours.provenance["training"]
        assert [training["loss_first"], training["loss_last"]] == pytest.approx(losses, rel=1e-5)
        theirs = {name.replace(".default", ""): weight for name, weight in plain.named_parameters() if "lora_" in name}
        assert theirs.keys() == ours.weights.keys()
        for name, weight in ours.weights.items():
            assert float(weight.norm()) > 0
            torch.testing.assert_close(weight, theirs[name].detach(), rtol=1e-3, atol=2e-6)

    @pytest.mark.parametrize("max_tokens", [8192, 40])
    def test_the_gradients_of_all_weights_are_those_of_transformers(self, family, max_tokens, monkeypatch):
        model = model_of(family)
        monkeypatch.setattr("trimtab.fitting.finetune.CHUNK_BYTES", 3 * 4 * 512)  # three tokens or so at a time
        plain = copy.deepcopy(model.hf).eval()
        loss = plain(**examples(model)).loss
        loss.backward()
        loss = float(loss.detach())
        theirs = {name: weight.grad for name, weight in plain.named_parameters()}
        items, own = elicit_items(model, PAIRS, TuneSettings()), dict(model.hf.named_parameters())
        with _learning(model.hf, own.values()):
            ours = _Trained(list(own.values()), TuneSettings(), 1.0)
            assert _backward(model, items, max_tokens, ours) == pytest.approx(loss, rel=1e-5)
        for name, wide in zip(own, ours._wide, strict=True):
            scale = float(theirs[name].abs().max())
            torch.testing.assert_close(wide.grad, theirs[name], rtol=1e-3, atol=1e-5 * scale + 1e-9)

    def test_half_precision_is_trained_in_float32(self, family):
        """Steps of 1e-5 are lost on bfloat16 weights of 0.15, and add up in float32."""
        model = model_of(family, torch.bfloat16)
        items = elicit_items(model, PAIRS, TuneSettings())
        name, weight = max(model.hf.named_parameters(), key=lambda one: one[1].numel())
        settings = TuneSettings(epochs=40, lr=1e-5, schedule="cosine")
        with exchanged(model.hf, {name: weight.detach().clone()}):
            before = weight.detach().float().clone()
            finetune(model, items, {name: weight}, settings)
            moved = float((weight.detach().float() != before).float().mean())
        assert moved > 0.01

    def test_peft_reads_what_is_saved(self, family, tmp_path):
        ours, _ = made(family, "lora")
        model, row = model_of(family), row_of(model_of(family))
        ours.save(tmp_path / "adapter")
        theirs = PeftModel.from_pretrained(copy.deepcopy(model.hf), str(tmp_path / "adapter")).eval()
        with tt.applied(model, ours), torch.no_grad():
            found = logits(model, row)
        with torch.no_grad():
            torch.testing.assert_close(theirs(input_ids=torch.tensor([row])).logits[0], found, rtol=0, atol=0)
        assert not torch.equal(found, logits(model, row))


@trained
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_and_is_left_as_it_was(family, method):
    hf, tokenizer = tiny_model(family, hidden_size=32, n_blocks=4, seed=0)
    model = Model(hf, tokenizer, name="tiny")
    before, row = state(hf), row_of(model)
    plain = logits(model, row)
    baseline = tt.fit_steerable(method, model, PAIRS, epochs=2, batch_size=4, lr=0.01)
    training = baseline.provenance["training"]
    assert training["loss_last"] < training["loss_first"] - 0.2  # measured: 0.38 to 2
    with tt.applied(model, baseline):
        assert float((logits(model, row) - plain).norm()) > 1
    assert_same(before, state(hf))


@trained
def test_fast_ways_to_run_the_plain_model_see_the_baseline(method):
    """Blocks of Llama's kind have a second way to be computed, which must not read the weights behind an adapter."""
    baseline, _ = made("llama", method)
    model = model_of("llama")
    prompts = [model.chat.render(f"Say {k} kind words") for k in range(3 * PROOF_SEQUENCES)]
    answers = [tuple(range(20, 26))] * len(prompts)
    plain = final_states(model, prompts, answers)
    with tt.applied(model, baseline), torch.no_grad():
        found = final_states(model, prompts, answers)
        for prompt, answer, states, unmoved in zip(prompts, answers, found, plain, strict=True):
            whole = model.layout.stack(input_ids=torch.tensor([prompt.ids + answer[:-1]]), use_cache=False)[0]
            torch.testing.assert_close(states, whole[0, len(prompt.ids) - 1 :], rtol=1e-4, atol=1e-4)
            assert float((states - unmoved).abs().max()) > 0.1


class TestAdapters:
    def test_the_four_blocks_of_a_model_of_26_are_those_of_axbench(self):
        assert spread_layers(26) == (5, 10, 15, 20)
        assert spread_layers(8) == (1, 3, 4, 6)
        assert spread_layers(2) == (0, 1)
        assert spread_layers(1) == (0,)

    @families
    def test_default_targets_are_the_last_projections_of_attention(self, family):
        model = model_of(family)
        names, is_transposed = adapted_modules(model.layout, [1, 3], ())
        ends = {"gpt2": "attn.c_proj"}
        assert [name.split(".", 3)[-1] for name in names] == [ends.get(family, "self_attn.o_proj")] * 2
        assert is_transposed == (family == "gpt2")

    def test_other_targets_and_layers(self):
        model = model_of("llama")
        fit = functools.partial(tt.fit_steerable, "lora", model, PAIRS, epochs=1)
        made_of = fit(layers=(2,), targets=("q_proj", "mlp.down_proj")).provenance["modules"]
        assert sorted(made_of) == ["model.layers.2.mlp.down_proj", "model.layers.2.self_attn.q_proj"]
        assert fit(layers="2", targets="q_proj,mlp.down_proj").provenance["modules"] == made_of
        assert fit(layers=2, targets="q_proj, mlp.down_proj").settings["layers"] == [2]

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"layers": (4,)}, "layers 0 to 3"),
            ({"layers": (1, 1)}, "once"),
            ({"layers": "one"}, "whole number"),
            ({"targets": ("nope",)}, "self_attn.q_proj"),
            ({"targets": 3}, "names of linear maps"),
            ({"rank": 0}, "rank"),
            ({"dropout": 1.0}, "below 1"),
            ({"alpha": 0}, "alpha"),
            ({"lr": math.nan}, "lr"),
            ({"epochs": 0}, "epochs"),
            ({"schedule": "up"}, "linear"),
            ({"grad_clip": 0}, "grad_clip"),
            ({"epohcs": 1}, "did you mean 'epochs'"),
        ],
        ids=str,
    )
    def test_bad_settings_are_refused(self, given, says):
        with pytest.raises(InputError, match=says):
            tt.fit_steerable("lora", model_of("llama"), PAIRS, **given)

    def test_without_peft_it_says_which_extra(self, monkeypatch):
        baseline, _ = made("llama", "lora")
        monkeypatch.setitem(sys.modules, "peft", None)
        with pytest.raises(MissingExtraError, match=r"pip install peft .*extra 'peft'"):
            tt.fit_steerable("lora", model_of("llama"), PAIRS)
        with pytest.raises(MissingExtraError, match="peft"), tt.applied(model_of("llama"), baseline):
            pass

    def test_without_peft_the_rest_works(self, monkeypatch, tmp_path):
        made("llama", "lora")[0].save(tmp_path / "lora")
        monkeypatch.setitem(sys.modules, "peft", None)
        assert tt.load_steerable(tmp_path / "lora").method == "lora"
        assert tt.fit_steerable("sft", model_of("llama"), PAIRS, epochs=1).method == "sft"

    def test_two_adapters_are_refused_and_the_first_stays(self):
        baseline, _ = made("llama", "lora")
        model = model_of("llama")
        with tt.applied(model, baseline):
            first = logits(model, row_of(model))
            with pytest.raises(InputError, match="already"), tt.applied(model, baseline):
                pass
            assert torch.equal(logits(model, row_of(model)), first)
        assert not any(isinstance(module, BaseTunerLayer) for module in model.hf.modules())

    def test_what_peft_cannot_adapt_leaves_no_trace(self):
        hf = model_of("llama").hf
        before = state(hf)
        shape = AdapterShape(("model.layers.1.input_layernorm",), 2, 4.0, 0.0, True, False)
        with pytest.raises(InputError, match="PEFT cannot adapt"), adapter(hf, shape):
            pass
        assert_same(before, state(hf))

    def test_a_larger_update_is_the_update_times_the_multiplier(self):
        """One adapted map, so that its output is linear in the multiplier."""
        model = model_of("llama")
        baseline = tt.fit_steerable("lora", model, PAIRS, layers=(3,), epochs=1, batch_size=2, lr=0.01)
        seen, handle = {}, None
        for multiplier in (0.0, 1.0, -2.5):
            with tt.applied(model, baseline, "elicit", multiplier):
                module = model.hf.get_submodule("model.layers.3.self_attn.o_proj")
                handle = module.register_forward_hook(
                    lambda _, __, output, multiplier=multiplier: seen.update({multiplier: output.detach().clone()})
                )
                logits(model, row_of(model))
                handle.remove()
        update = seen[1.0] - seen[0.0]
        assert float(update.norm()) > 1e-3
        torch.testing.assert_close(seen[-2.5] - seen[0.0], -2.5 * update, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("r", "4"), ("r", 4.0), ("r", True), ("r", 0), ("r", None), ("lora_alpha", "32"), ("lora_alpha", math.nan),
            ("lora_alpha", 10**400),
            ("lora_dropout", 1), ("lora_dropout", [0.05]), ("use_rslora", 1), ("use_rslora", "true"),
            ("fan_in_fan_out", None), ("target_modules", "model.layers.1.self_attn.o_proj"), ("target_modules", []),
            ("target_modules", [1]), ("target_modules", ["a", "a"]), ("target_modules", [["a"]]),
        ],
    )  # fmt: skip
    def test_a_configuration_of_other_kinds_is_refused(self, key, value):
        config = json.loads(made("llama", "lora")[0].config)
        assert AdapterShape.read(json.dumps(config)).rank == 4
        with pytest.raises(InputError, match=f"^{key} of the adapter"):
            AdapterShape.read(json.dumps(config | {key: value}))
        with pytest.raises(InputError, match=f"cannot be read .*{key}"):
            AdapterShape.read(json.dumps({name: each for name, each in config.items() if name != key}))

    def test_only_plain_linear_maps_have_an_order_of_their_weights(self):
        hf = model_of("gpt2").hf
        assert all(isinstance(hf.get_submodule(f"transformer.h.{k}.attn.c_proj"), Conv1D) for k in range(4))


class TestWeights:
    def test_tied_embeddings_stay_tied(self):
        hf, tokenizer = tiny_model("gpt2", hidden_size=32, n_blocks=2, seed=0)
        model = Model(hf, tokenizer, name="tiny")
        assert hf.get_input_embeddings().weight is hf.get_output_embeddings().weight
        baseline = tt.fit_steerable("sft", model, PAIRS, epochs=1, lr=0.01)
        with tt.applied(model, baseline):
            assert hf.get_input_embeddings().weight is hf.get_output_embeddings().weight
        assert hf.get_input_embeddings().weight is hf.get_output_embeddings().weight
        assert "lm_head.weight" not in baseline.weights

    def test_between_is_a_straight_line(self):
        hf = model_of("llama").hf
        name, weight = next(iter(hf.named_parameters()))
        other = {name: weight.detach() + 1}
        assert torch.equal(between(hf, other, 1)[name], other[name])
        torch.testing.assert_close(between(hf, other, -0.5)[name], weight.detach() - 0.5)
        torch.testing.assert_close(between(hf, other, 3)[name], weight.detach() + 3)

    def test_training_that_changes_no_weight_warns(self, caplog):
        fit = functools.partial(tt.fit_steerable, "sft", model_of("llama", torch.bfloat16), PAIRS, epochs=1)
        assert fit(lr=1e-12).weights == {}
        (warning,) = caplog.messages
        assert "changed no weight" in warning
        assert "raise lr (now 1e-12)" in warning
        assert fit(lr=0.01).weights
        assert caplog.messages == [warning]

    def test_what_a_model_holds_for_a_while_is_not_what_was_given(self):
        baseline, _ = made("llama", "sft")
        hf = model_of("llama").hf
        name, given = next(iter(baseline.weights.items()))
        before = given.clone()
        with exchanged(hf, baseline.weights), torch.no_grad():
            assert torch.equal(hf.get_parameter(name), before)
            hf.get_parameter(name).add_(1)
        assert torch.equal(given, before)

    def test_what_does_not_fit_is_refused_before_anything_is_touched(self):
        hf = model_of("llama").hf
        before = state(hf)
        name, weight = next(iter(hf.named_parameters()))
        for weights in ({name: weight.detach() + 1, "nope": weight}, {name: weight.detach()[:1]}):
            with pytest.raises(InputError, match="fine-tuned"), exchanged(hf, weights):
                pass
            assert_same(before, state(hf))


SEA = [
    ContrastPair([{"role": "system", "content": text}, {"role": "user", "content": f"Q{k}"}], "sea", f"Q{k}", "plain")
    for k, text in enumerate(["Speak of the sea.", "Tell of waves.", "Speak of the sea."])
]


class TestPrompt:
    def test_the_usual_wording_is_read_from_the_pairs(self):
        assert usual_system(SEA) == ("Speak of the sea.", 2, 2)
        baseline = tt.fit_steerable("prompt", model_of("llama"), SEA)
        assert baseline.settings["text"] == "Speak of the sea."
        assert baseline.provenance["wording"] == {"times": 2, "wordings": 2}

    def test_what_both_sides_have_is_not_the_concept(self):
        common = {"role": "system", "content": "Be brief."}
        pairs = [ContrastPair([common, *pair.positive_input], "a", [common, {"role": "user", "content": "q"}], "b")
                 for pair in SEA]  # fmt: skip
        assert usual_system(pairs)[0] == "Speak of the sea."

    @pytest.mark.parametrize("extra", [[], [{"role": "system", "content": "a"}, {"role": "system", "content": "b"}]])
    def test_none_or_several_are_refused(self, extra):
        pair = ContrastPair([*extra, {"role": "user", "content": "q"}], "a", "r", "b")
        with pytest.raises(InputError, match=r"pair 4: .*--set text="):
            tt.fit_steerable("prompt", model_of("llama"), [*SEA, pair])

    def test_it_stands_in_front_of_a_system_message(self):
        model = model_of("llama")
        baseline = tt.fit_steerable("prompt", model, PAIRS, text=TEXT)
        with tt.applied(model, baseline) as work:
            assert work.prompt("q")[0] == {"role": "system", "content": TEXT}
            own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "q"}]
            assert work.prompt(own)[0]["content"] == f"{TEXT}\n\nBe brief."
            assert work.prompt(own)[1:] == (own[1],)

    def test_suppressing_has_a_text_of_its_own(self):
        model = model_of("llama")
        usual = tt.fit_steerable("prompt", model, PAIRS, text="Speak of the sea")
        other = tt.fit_steerable("prompt", model, PAIRS, text="Speak of the sea", suppress="No sea.")
        with tt.applied(model, usual, "suppress") as work:
            text = work.prompt("q")[0]["content"]
        assert text.startswith("Do not follow")
        assert "Speak of the sea. " in text
        with tt.applied(model, other, "suppress") as work:
            assert work.prompt("q")[0]["content"] == "No sea."

    @pytest.mark.parametrize("given", [{"text": ""}, {"text": 3}, {"suppress": " "}, {"text": "\ud800"}, {"lr": 1}])
    def test_bad_settings_are_refused(self, given):
        with pytest.raises(InputError):
            tt.fit_steerable("prompt", model_of("llama"), SEA, **given)

    def test_the_organism_does_what_its_pairs_ask(self):
        model = load_model("organism", device="cpu")
        baseline = tt.fit_steerable("prompt", model, tt.load_pairs("past-tense")[:24])
        asked = "Please write two facts about the heron."
        with tt.applied(model, baseline) as work:
            (text,) = model.generate([work.prompt(asked)], max_new_tokens=32)
        assert text != model.generate([asked], max_new_tokens=32)[0]


class TestMultipliers:
    @pytest.mark.parametrize("method", ["none", "prompt"])
    def test_without_strength_there_is_1_alone(self, method):
        baseline, _ = made("llama", method)
        with pytest.raises(InputError, match="takes 1 alone"), tt.applied(model_of("llama"), baseline, "elicit", 2.0):
            pass

    @every
    @pytest.mark.parametrize("multiplier", [math.nan, math.inf, -math.inf, 1e300, -1e7, "1", True, [1]])
    def test_no_number_is_refused(self, method, multiplier):
        baseline, _ = made("llama", method)
        with pytest.raises(InputError, match="finite"), tt.applied(model_of("llama"), baseline, "elicit", multiplier):
            pass

    @pytest.mark.parametrize("multiplier", [math.nan, 1e300, "1"])
    def test_no_number_is_refused_for_a_vector_too(self, multiplier):
        vector = tt.fit("diffmean", model_of("llama"), PAIRS, layer=1, calibrate=False)
        with pytest.raises(InputError, match="finite"), tt.applied(model_of("llama"), vector, "elicit", multiplier):
            pass

    def test_weights_beyond_half_precision_are_refused(self):
        hf = copy.deepcopy(model_of("llama").hf).half()
        name, weight = next(iter(hf.named_parameters()))
        with pytest.raises(InputError, match=r"beyond torch\.float16"):
            between(hf, {name: weight.detach() + 1}, 1e6)
        assert bool(torch.isfinite(between(hf, {name: weight.detach() + 1}, 1e4)[name]).all())

    @trained
    def test_the_largest_multiplier_gives_finite_logits(self, method):
        baseline, _ = made("llama", method)
        model = model_of("llama")
        with tt.applied(model, baseline, "elicit", MAX_MULTIPLIER):
            assert bool(torch.isfinite(logits(model, row_of(model))).all())

    @trained
    def test_a_direction_that_is_not_there_is_refused(self, method):
        baseline, _ = made("llama", method)
        with pytest.raises(InputError, match="it has elicit"), tt.applied(model_of("llama"), baseline, "suppress"):
            pass


class TestFitsMeanwhile:
    """What is learnt while weights are changed would be of the changed model."""

    @pytest.mark.parametrize("method", ["lora", "sft"])
    def test_they_are_refused(self, method):
        model, (baseline, _) = model_of("llama"), made("llama", method)
        calls = [
            lambda: tt.fit("diffmean", model, PAIRS, layer=1, calibrate=False),
            lambda: tt.fit_steerable("diffmean", model, PAIRS, layer=1, calibrate=False),
            lambda: tt.fit_steerable("sft", model, PAIRS),
            lambda: tt.fit_layers("diffmean", model, PAIRS, layers=[1]),
            lambda: tt.fit_many("diffmean", model, {"one": PAIRS}, layer=1, calibrate=False),
        ]
        with tt.applied(model, baseline):
            with tt.applied(model, made("llama", "prompt")[0]):
                assert model.changed_by == method
            for call in calls:
                with pytest.raises(InputError, match=f"{method} is at work on this model; leave `applied`"):
                    call()
        assert model.changed_by is None
        with pytest.raises(ZeroDivisionError), tt.applied(model, baseline):
            raise ZeroDivisionError
        assert model.changed_by is None

    def test_a_prompt_changes_no_model(self):
        model = model_of("llama")
        with tt.applied(model, made("llama", "prompt")[0]):
            tt.fit("diffmean", model, PAIRS, layer=1, calibrate=False)


class TestTogether:
    @pytest.fixture
    def vector(self):
        return tt.fit("diffmean", model_of("llama"), PAIRS, layer=1, calibrate=False)

    def test_vectors_add_up_beside_a_baseline(self, vector):
        model = model_of("llama")
        adapter, _ = made("llama", "lora")
        both = [Use(vector, "elicit", 3.0), Use(adapter), Use(vector, "suppress", 0.5)]
        with applied_together(model, both) as work:
            found = model.generate(work.prompts(TEXTS), steering=work.steering, max_new_tokens=6)
        with tt.applied(model, adapter):
            steering = vector.elicit(3.0) + vector.suppress(0.5)
            assert found == model.generate(TEXTS, steering=steering, max_new_tokens=6)
        clamp = tt.fit("cdas", model, PAIRS, layer=1, epochs=1, calibrate=False)
        for use, steering in (
            (Use(clamp, values=(2.0,)), clamp.at(2.0)),
            (Use(clamp, "elicit", 2.0, "published"), clamp.elicit(2.0, "published")),
        ):
            with applied_together(model, [use]) as work:
                assert work.steering.label == steering.label
                found = model.generate(TEXTS, steering=work.steering, max_new_tokens=6)
            assert found == model.generate(TEXTS, steering=steering, max_new_tokens=6)
        with applied_together(model, []) as work:
            assert work.steering is None
            assert work.keeps_prompts

    def test_a_system_message_comes_behind_the_prompt(self):
        model = model_of("llama")
        with applied_together(model, [Use(made("llama", "prompt")[0])]) as work:
            (asked,) = work.prompts(["q"], "Be brief.")
            assert asked[0]["content"] == f"{TEXT}\n\nBe brief."
            with pytest.raises(InputError, match=r"a prompt in front .* chat template"):
                work.prompts(["q"], raw=True)
        with applied_together(model, [Use(made("llama", "none")[0])]) as work:
            assert work.prompts(["q"], raw=True) == ["q"]
            assert work.prompts(["q"]) == ["q"]
            assert work.prompts(["q"], "Be brief.")[0][0] == {"role": "system", "content": "Be brief."}
            with pytest.raises(InputError, match="a system message in front"):
                work.prompts(["q"], "Be brief.", raw=True)

    def test_what_does_not_go_together(self, vector):
        model, one, other = model_of("llama"), made("llama", "lora")[0], made("llama", "prompt")[0]
        with (
            pytest.raises(InputError, match="lora and prompt are baselines"),
            applied_together(model, [Use(one), Use(vector), Use(other)]),
        ):
            pass
        for given in ({"scale": "gap"}, {"values": (1.0,)}):
            with pytest.raises(InputError, match="lora is a baseline"):
                Use(one, **given)
        with pytest.raises(InputError, match="leave out multiplier and scale"):
            Use(vector, "elicit", 2.0, values=(1.0,))
        far = Model(*tiny_model("llama", hidden_size=64, n_blocks=4, seed=0), name="far")
        with pytest.raises(InputError, match="hidden size 32"), applied_together(far, [Use(vector)], force=True):
            pass


@every
class TestRefusals:
    def test_functions_that_promise_vectors(self, method):
        model = model_of("llama")
        with pytest.raises(InputError, match="fit_steerable"):
            tt.fit(method, model, PAIRS)
        with pytest.raises(InputError, match="fit_steerable"):
            tt.fit_layers(method, model, PAIRS, layers=[1])

    def test_many(self, method):
        with pytest.raises(InputError, match="makes no steering vector; use fit_steerable"):
            tt.fit_many(method, model_of("llama"), {"a": PAIRS}, layer=1)

    @pytest.mark.parametrize(
        "given",
        [
            {"layer": 1},
            {"layer": "auto:elicit"},
            {"init": torch.ones(32)},
            {"order": torch.zeros(1, 8)},
            {"trace": "t.npz"},
            {"calibration_pairs": PAIRS},
        ],
        ids=lambda given: next(iter(given)),
    )
    def test_what_a_baseline_does_not_take(self, method, given):
        with pytest.raises(InputError, match=next(iter(given))):
            tt.fit_steerable(method, model_of("llama"), PAIRS, **SMALL[method], **given)

    def test_no_pairs(self, method):
        with pytest.raises(InputError, match="no pairs"):
            tt.fit_steerable(method, model_of("llama"), PairSet([]), **SMALL[method])


def test_a_vector_method_is_fitted_as_ever():
    model = model_of("llama")
    ours = tt.fit_steerable("diffmean", model, PAIRS, layer=1, calibrate=False)
    assert ours.content_hash == tt.fit("diffmean", model, PAIRS, layer=1, calibrate=False).content_hash


def test_baselines_are_those_of_their_family():
    assert [name for name, method in METHODS.items() if method.is_baseline] == list(NAMES)
    assert [name for name, method in METHODS.items() if method.family == "baseline"] == list(NAMES)
    assert {method.places for method in METHODS.values() if method.is_baseline} == {"model"}


class CrashError(Exception):
    pass


@every
class TestFolders:
    def test_a_vector_takes_its_place_and_it_a_vectors(self, method, tmp_path):
        baseline, _ = made("llama", method)
        vector = tt.fit("diffmean", model_of("llama"), PAIRS, layer=1, calibrate=False)
        path = vector.save(tmp_path / "x")
        with pytest.raises(InputError, match="exists already"):
            baseline.save(path)
        baseline.save(path, overwrite=True)
        assert tt.load_steerable(path).method == method
        vector.save(path, overwrite=True)
        assert tt.load_steerable(path).content_hash == vector.content_hash
        assert not (path / "baseline.json").exists()

    def test_a_foreign_file_is_not_deleted(self, method, tmp_path):
        baseline, _ = made("llama", method)
        path = baseline.save(tmp_path / "x")
        (path / "notes.txt").write_text("mine")
        with pytest.raises(InputError, match=r"notes\.txt"):
            baseline.save(path, overwrite=True)

    def test_a_vector_reader_says_what_it_is(self, method, tmp_path):
        path = made("llama", method)[0].save(tmp_path / "x")
        with pytest.raises(InputError, match="load_steerable"):
            tt.SteeringVector.load(path)

    @pytest.mark.parametrize("crash", [CrashError(), KeyboardInterrupt()], ids=repr)
    def test_a_save_that_is_killed_leaves_the_old_one(self, method, crash, tmp_path, monkeypatch):
        baseline, _ = made("llama", method)
        path, real = baseline.save(tmp_path / "x"), Path.write_bytes
        files = len([*path.iterdir()])
        for last in range(1, files + 1):
            for target in (path, tmp_path / "new"):
                calls = []

                def write(self, data, calls=calls, last=last):
                    calls.append(self)
                    if len(calls) == last:
                        raise crash
                    return real(self, data)

                monkeypatch.setattr(Path, "write_bytes", write)
                with pytest.raises(type(crash)):
                    baseline.save(target, overwrite=True)
                monkeypatch.undo()
                assert [child.name for child in tmp_path.iterdir()] == ["x"]
                assert len([*path.iterdir()]) == files
                assert tt.load_steerable(path).method == method

    @pytest.mark.parametrize(
        "change",
        [
            lambda config: config | {"format_version": 2},
            lambda config: config | {"extra": 1},
            lambda config: {key: value for key, value in config.items() if key != "settings"},
            lambda config: config | {"directions": ["suppress"]},
            lambda config: config | {"directions": "elicit"},
            lambda config: config | {"directions": [["elicit"]]},
            lambda config: config | {"method": "nope"},
            lambda config: config | {"method": "cdas"},
            lambda config: config | {"model": {}},
            lambda config: config | {"files": {"weights.safetensors": "0"}},
            lambda config: [config],
        ],
        ids=[
            "version",
            "unknown",
            "missing",
            "direction",
            "letters",
            "nested",
            "no method",
            "no baseline",
            "no model",
            "files",
            "list",
        ],
    )
    def test_a_bent_configuration_is_refused(self, method, change, tmp_path):
        path = made("llama", method)[0].save(tmp_path / "x")
        config = json.loads((path / "baseline.json").read_text())
        (path / "baseline.json").write_text(json.dumps(change(config)))
        with pytest.raises(InputError) as found:
            tt.load_steerable(path)
        assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "settings", [{}, {"text": TEXT}, {"text": TEXT, "suppress": None}, {"text": "", "suppress": "a"}]
)
def test_a_prompt_without_its_texts_is_refused(settings, tmp_path):
    path = made("llama", "prompt")[0].save(tmp_path / "x")
    config = json.loads((path / "baseline.json").read_text())
    (path / "baseline.json").write_text(json.dumps(config | {"settings": settings}))
    with pytest.raises(InputError, match="texts of the prompt"):
        tt.load_steerable(path)
    assert main(["inspect", str(path)]) == 2


@trained
def test_a_fit_that_is_killed_leaves_the_model_as_it_was(method):
    model = model_of("llama")
    before = state(model.hf)

    def kill(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tt.fit_steerable(method, model, PAIRS, progress=kill, **SMALL[method])
    assert_same(before, state(model.hf))


@trained
def test_altered_or_missing_files_are_refused(method, tmp_path):
    names = {"lora": "adapter_model.safetensors", "sft": "weights.safetensors"}
    baseline, _ = made("llama", method)
    path = baseline.save(tmp_path / "x")
    file = path / names[method]
    tensors = safetensors.torch.load(file.read_bytes())
    name = next(iter(tensors))
    file.write_bytes(safetensors.torch.save({**tensors, name: tensors[name] + 1}))
    with pytest.raises(InputError, match="altered"):
        tt.load_steerable(path)
    file.unlink()
    with pytest.raises(InputError, match="missing"):
        tt.load_steerable(path)


def test_what_is_saved_is_no_pickle_and_nothing_else(tmp_path):
    wanted = {
        "none": {folders.BASELINE_NAME},
        "prompt": {folders.BASELINE_NAME},
        "lora": {folders.BASELINE_NAME, "adapter_config.json", "adapter_model.safetensors"},
        "sft": {folders.BASELINE_NAME, "weights.safetensors"},
    }
    for method, names in wanted.items():
        path = made("llama", method)[0].save(tmp_path / method)
        assert {child.name for child in path.iterdir()} == names


def test_the_settings_are_those_of_axbench():
    lora, sft = METHODS["lora"].settings(), METHODS["sft"].settings()
    assert (lora.rank, lora.alpha, lora.dropout, lora.rank_stabilised) == (4, 32, 0.05, True)
    assert (lora.epochs, lora.lr, lora.batch_size, lora.grad_clip, lora.weight_decay) == (24, 9e-4, 36, None, 0)
    assert (sft.epochs, sft.lr, sft.batch_size, sft.grad_clip, sft.weight_decay) == (8, 4e-5, 72, 1.0, 0)
    assert lora.schedule == sft.schedule == "linear"
    with pytest.raises(dataclasses.FrozenInstanceError):
        lora.rank = 5


@pytest.fixture(scope="module")
def pairs_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    names = ("positive_input", "positive_output", "negative_input", "negative_output")
    path.write_text("".join(json.dumps({name: getattr(pair, name) for name in names}) + "\n" for pair in PAIRS))
    return path


class TestCommandLine:
    @pytest.fixture
    def run(self, capsys):
        def call(*words, code=0):
            capsys.readouterr()
            assert main([str(word) for word in words]) == code, capsys.readouterr().err
            captured = capsys.readouterr()
            assert "Traceback" not in captured.err
            return captured.out if code == 0 else captured.err

        return call

    @pytest.fixture
    def fitted(self, run, tiny_path, pairs_path, tmp_path):
        def call(method, *words):
            given = [f"--set={name}={value}" for name, value in SMALL[method].items()]
            out = tmp_path / method
            return out, run("fit", method, "--model", tiny_path, "--pairs", pairs_path, "--out", out, *given, *words)

        return call

    @every
    def test_fit_generate_and_inspect(self, fitted, run, tiny_path, method):
        out, said = fitted(method)
        assert said.startswith(f"{method} on all pairs: ")
        assert f"saved in {out}" in said
        plain = json.loads(run("generate", "--model", tiny_path, "A map", "--json", "--max-new-tokens", 6))
        ours = json.loads(
            run("generate", "--model", tiny_path, "--vector", out, "A map", "--json", "--max-new-tokens", 6)
        )
        assert ours["outputs"][0]["prompt"] == "A map"
        assert (ours == plain) == (method == "none")
        steered = run("generate", "--model", tiny_path, "--steer", f"{out}:elicit:1", "A map", "--json",
                      "--max-new-tokens", 6)  # fmt: skip
        assert json.loads(steered) == ours
        found = json.loads(run("inspect", out, "--model", tiny_path, "--json"))
        assert found["method"] == method
        assert found["compatibility"]["fits"]
        assert found["edits"] == []
        assert f"{out}: {method}, elicit" in run("inspect", out)

    @every
    def test_json_of_a_fit(self, fitted, method):
        out, said = fitted(method, "--json")
        found = json.loads(said)
        assert (found["vector"], found["method"], found["layer"]) == (str(out), method, None)
        assert found["factors"] is None
        assert found["multiplier"]["elicit"] == 1
        assert (found["loss_last"] is not None) == (method in TRAINED)
        if method in TRAINED:
            assert found["loss_last"] < found["loss_first"]

    def test_a_prompt_stands_before_the_system_prompt_that_is_typed(self, fitted, run, tiny_path):
        out, _ = fitted("prompt")
        line = ["generate", "--model", tiny_path, "A map", "--json", "--max-new-tokens", 6]
        assert run(*line, "--vector", out, "--system", "Be brief.") == run(*line, "--system", f"{TEXT}\n\nBe brief.")
        assert "chat template" in run(*line, "--vector", out, "--raw", code=2)

    def test_beside_a_vector_and_not_beside_another_baseline(self, fitted, run, tiny_path, pairs_path, tmp_path):
        out, _ = fitted("lora")
        other, _ = fitted("prompt")
        run("fit", "diffmean", "--model", tiny_path, "--pairs", pairs_path, "--layer", 1, "--no-calibrate", "--out",
            tmp_path / "v")  # fmt: skip
        line = ["generate", "--model", tiny_path, "A map", "--json", "--max-new-tokens", 6]
        both = ["--steer", f"{out}:elicit", "--steer", f"{tmp_path / 'v'}:elicit:3"]
        assert len({run(*line, *both), run(*line, *both[:2]), run(*line, *both[2:])}) == 3
        assert "one at a time" in run(*line, *both[:2], "--steer", f"{other}:elicit", code=2)
        assert "--at and --scale" in run(*line, "--vector", out, "--at", "1", code=2)
        assert "--at and --scale" in run(*line, "--vector", out, "--scale", "gap", code=2)
        assert "--pairs" in run("inspect", out, "--model", tiny_path, "--pairs", pairs_path, code=2)
        assert "takes 1 alone" in run(*line, "--vector", other, "--multiplier", "2", code=2)

    def test_wrong_words(self, run, tiny_path, pairs_path, tmp_path):
        line = ["fit", "lora", "--model", tiny_path, "--pairs", pairs_path, "--out", tmp_path / "x"]
        assert "leave out the layer" in run(*line, "--layer", "1", code=2)
        assert "no use for init" in run(*line, "--init", "v.npy", code=2)
        assert "no linear module 'nope'" in run(*line, "--set", "targets=nope", code=2)
        assert not (tmp_path / "x").exists()

    @trained
    def test_a_fit_that_diverges_keeps_what_was_good(self, run, tiny_path, pairs_path, tmp_path, monkeypatch, method):
        finite = iter([True, False])
        monkeypatch.setattr(_Trained, "is_finite", lambda self: next(finite))
        said = run("fit", method, "--model", tiny_path, "--pairs", pairs_path, "--out", tmp_path / "x", code=2)
        assert f"the {method} of the last good step is kept in {tmp_path / 'x.last-good'}" in " ".join(said.split())
        assert "vector" not in said
        assert tt.load_steerable(tmp_path / "x.last-good").method == method

    def test_all_methods_are_listed(self, run):
        listed = json.loads(run("methods", "--json"))["methods"]
        assert len(listed) == 45
        assert [one["name"] for one in listed if one["family"] == "baseline"] == list(NAMES)
