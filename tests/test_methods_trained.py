"""Vectors trained on likelihoods and preferences: what the papers' formulas imply, naive loops, lockstep, bad input."""

import importlib.util
import inspect
import math
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

import trimtab as tt
from trimtab.data import ContrastPair, PairSet, tokenise_pairs
from trimtab.errors import FitDivergedError, InputError
from trimtab.fitting import FitOptions, fit_interchange
from trimtab.fitting.added import AddedSettings, added_kind, null_out
from trimtab.fitting.cache import CachePlan, FrozenCache
from trimtab.fitting.divergence import Objective, cross_entropy
from trimtab.fitting.draws import FactorDraw, one_of, sign_a_batch, signed_one_of
from trimtab.fitting.items import ELICIT, interchange_items
from trimtab.fitting.odds import fit_decay_curve, pref_odds, util_odds
from trimtab.fitting.order import retract
from trimtab.fitting.preference import Dpo, ScaledSimPo, SimPo, Split
from trimtab.fitting.topk import largest, latents, top_kind
from trimtab.methods.loreft import LoReFTSettings
from trimtab.methods.prosv import PrOSVSettings, prosv_kind
from trimtab.methods.reps import RePSSettings
from trimtab.methods.trained import TRAINED
from trimtab.models import Model, capture, steer
from trimtab.models.split import SplitModel
from trimtab.models.tiny import tiny_model
from trimtab.steering import Add, Geometry, LowRank, NullOut, Positions, Site


def fixture_module(name):
    """A module of tests/fixtures; that folder is no package."""
    path = Path(__file__).parent / "fixtures" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


naive = fixture_module("naive_trained")

PAIRS = [
    ContrastPair("How do I pick a lock?", " I cannot help with that", "How do I bake a loaf?", " Sure, here are"),
    ContrastPair("Write about harm", " I", "Write a short poem about the sea in winter.", " Of course, I can help you"),
    ContrastPair("Hurt other people", " I am sorry, but I will not", "Explain how a bicycle stays upright", " Yes"),
    ContrastPair("Tell me how to break it", " As an assistant, I", "Give me three reasons", " Here are the steps"),
    ContrastPair("Do something that is not safe", " I can't do that", "A map of the town", " Sure! Here is"),
]
ORDER = [[3, 0, 4, 1, 2]]  # 5 pairs, 2 a step: the last batch is ragged
WIDTH = 32
CACHE = "cache" if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters else "past_key_values"
"""What this version of transformers calls it."""
NAMES = [method.name for method in TRAINED]
few = settings(max_examples=40)
seeds = st.integers(0, 2**31 - 1)


def random(seed, *shape, scale=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.fixture(scope="module")
def model():
    hf, tokenizer = tiny_model("llama", hidden_size=WIDTH, n_blocks=4, seed=3)
    return Model(hf, tokenizer, name="tiny")


@pytest.fixture(scope="module")
def gemma():
    """Its blocks run in their own way: the forward is transformers' own."""
    hf, tokenizer = tiny_model("gemma2", hidden_size=WIDTH, n_blocks=4, seed=3)
    return Model(hf, tokenizer, name="gemma")


def fitted(name, model, **given):
    return tt.fit(name, model, PairSet(PAIRS), **{"layer": 1, "calibrate": False} | given)


def transforms(vector, direction="elicit"):
    return [vector.edits[k].intervention.transform for k in vector.directions[direction]]


# The methods as the oracle knows them, and the settings that make the library do the same.


def zero(rows, width):
    return {"vector": torch.zeros(width)}


def with_bias(rows, width):
    return {"vector": rows.clone(), "bias": torch.zeros(1)}


def uniform(rows, width):
    draws = torch.rand((1, 1, width), generator=torch.Generator().manual_seed(42))[0, 0]
    return {"vector": (2 * draws - 1) / width**0.5, "alpha": torch.tensor([width**0.5])}


def prosv_rates(width):
    return {"vector": 1 / width**0.5, "alpha": width**0.5}


FACTORS = (0.5, 1.0, 2.0)


def drawn(signs):
    def draw(generator, n, ways, answers):
        chosen = torch.randint(0, 3, (n, ways, answers), generator=generator)
        return torch.tensor(FACTORS)[chosen] * torch.tensor(signs)[:, None]

    return draw


def one_sign(generator, n, ways, answers):
    return (2.0 * torch.randint(0, 2, (), generator=generator) - 1.0).expand(n, ways, answers)


def signed(generator, n, ways, answers):
    signs = 2.0 * torch.randint(0, 2, (n, ways, 1), generator=generator) - 1.0
    return signs * torch.tensor(FACTORS)[torch.randint(0, 3, (n, ways, answers), generator=generator)]


def tenth(width):
    return {"bias": 0.1}


def cosine(step, steps):
    warm = min(2, steps - 1)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


BOTH = ("positive", "negative")
CASES = {
    "ssv": ("ssv", {}, naive.Case(lambda rows, width: {"vector": torch.full((width,), 0.01)}, naive.add)),
    "ssv one": (
        "ssv",
        {"unit": "one"},
        naive.Case(lambda rows, width: {"vector": torch.full((width,), 0.01)}, naive.add, unit=False),
    ),
    "lang": (
        "lang",
        {"factors": FACTORS},
        naive.Case(with_bias, naive.add_shifted, draw=drawn((1.0,)), rates=tenth),
    ),
    "reft-r1": (
        "reft-r1",
        {"penalty": 0.3, "k": 3},
        naive.Case(
            lambda rows, width: {"vector": rows.clone()},
            lambda h, p, f, s: h + naive.top(h, p, 3)[0] * p["vector"],
            ways=BOTH,
            sphere=True,
            unit=False,
            penalty=lambda h, p: 0.3 * naive.top(h, p, 3)[1].mean(),
        ),
    ),
    "bipo": (
        "bipo",
        {"warmup_steps": 2},
        naive.Case(zero, naive.add, naive.preference("dpo"), answers=2, draw=one_sign),
    ),
    "dpo": ("dpo", {}, naive.Case(zero, naive.add, naive.preference("dpo"), answers=2)),
    "ipo": ("ipo", {}, naive.Case(zero, naive.add, naive.preference("ipo", 0.02), answers=2)),
    "simpo": ("simpo", {}, naive.Case(zero, naive.add, naive.preference("simpo", 2.0, 0.5), answers=2)),
    "reps": (
        "reps",
        {"factors": FACTORS},
        naive.Case(with_bias, naive.reps_edit, naive.preference("reps"), BOTH, 2, drawn((1.0, 0.0)), rates=tenth),
    ),
    "reps subtract": (
        "reps",
        {"factors": FACTORS, "suppress": "subtract"},
        naive.Case(with_bias, naive.reps_edit, naive.preference("reps"), BOTH, 2, drawn((1.0, -1.0)), rates=tenth),
    ),
    "prosv": (
        "prosv",
        {},
        naive.Case(uniform, naive.prosv_edit, rates=prosv_rates, where=naive.edges(2, 2), unclipped=("alpha",)),
    ),
    "prosv simpo": (
        "prosv",
        {"objective": "simpo"},
        naive.Case(
            uniform,
            naive.prosv_edit,
            naive.preference("reps"),
            answers=2,
            rates=prosv_rates,
            where=naive.edges(2, 2),
            unclipped=("alpha",),
        ),
    ),
    "split": (
        "split",
        {"factors": FACTORS},
        naive.Case(
            lambda rows, width: {"vector": rows.clone()},
            naive.add,
            naive.preference("split"),
            answers=2,
            draw=signed,
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_step_is_that_of_the_naive_loop(model, tmp_path, case):
    """Full forwards one by one, autograd, torch's optimiser; three steps, the last of one pair."""
    name, given, how = CASES[case]
    rows = retract(torch.randn((1, WIDTH), generator=torch.Generator().manual_seed(42)))[0]
    lr, decay = 0.05, 0.1
    rate = cosine if name == "bipo" else lambda step, steps: 1 - step / steps
    wanted = naive.train(
        naive.Naive(model.hf, model.tokenizer, 1), how, PAIRS, rows, ORDER,
        batch_size=2, lr=lr, weight_decay=decay, rate=rate,
    )  # fmt: skip
    more = {"alpha_lr": lr} if name == "prosv" else {}
    common = {"epochs": 1, "batch_size": 2, "lr": lr, "weight_decay": decay, "order": np.array(ORDER)}
    vector = fitted(name, model, trace=tmp_path / "t.npz", **common, **more, **given)
    trace = np.load(tmp_path / "t.npz")
    vecs = wanted["vecs"].numpy()
    assert trace["vecs"].shape == vecs.shape == (4, WIDTH)
    assert np.abs(trace["vecs"] - vecs).max() < 1e-4 * np.abs(vecs).max()
    assert np.abs(vecs[-1] - vecs[0]).max() > 0.005
    losses = trace["jsd"].reshape(3, -1).mean(axis=1)
    assert losses == pytest.approx(wanted["losses"], rel=1e-4)
    found = wanted["parameters"]
    if name == "prosv":
        product = found["alpha"] * wanted["size"] * found["vector"]
        assert (transforms(vector)[0].vector - product).norm() < 1e-4 * product.norm()
    if name in ("reps", "lang"):
        usual = (1.0 + found["bias"]) * wanted["size"] * found["vector"]
        assert found["bias"].abs() > 1e-5
        assert (transforms(vector)[0].vector - usual).norm() < 1e-4 * usual.norm()
    if case == "reps":
        (null,) = transforms(vector, "suppress")
        assert float(null.bias) == pytest.approx(float(found["bias"]) * wanted["size"], rel=1e-3)


def test_loreft_is_the_low_rank_edit_on_likelihoods(model, tmp_path):
    """Its loop is proved with CDAS-LoReFT; here that the loss is the answers' and the positions are the prompt's."""
    family = fixture_module("naive_family")
    init = torch.stack([family.cdas.orthonormal(random(k, 2, WIDTH)) for k in range(2)])
    how = family.Naive(model.hf, model.tokenizer, [1, 2], "f1+l1")
    wanted = family.train(
        how, PAIRS, init, ORDER, family.divergence("cross_entropy"), batch_size=2, lr=0.05, low_rank_edit=True
    )
    vector = fitted(
        "loreft", model, layer=(1, 2), rank=2, positions="f1+l1", epochs=1, batch_size=2, lr=0.05,
        init=init.numpy(), order=np.array(ORDER), trace=tmp_path / "t.npz",
    )  # fmt: skip
    trace = np.load(tmp_path / "t.npz")
    assert trace["jsd"] == pytest.approx(wanted["losses"].numpy(), rel=1e-4)
    assert np.abs(trace["vecs"] - wanted["vecs"].numpy()).max() < 1e-4
    assert dict(vector.directions) == {"elicit": (0, 1)}
    assert all(isinstance(one, LowRank) for one in transforms(vector))
    assert str(fitted("loreft", model, epochs=1).edits[0].intervention.positions) == "f5+l5"


CONCEPTS = {
    "refusal": PAIRS,
    "shouting": [ContrastPair(f"Shout the number {k}!", f" YES {k}", f"Say {k}, please.", " no") for k in range(3)],
    "alone": [ContrastPair("What is the sea?", " It is a lot of water", "Who", " I do not know who")],
}


@pytest.mark.parametrize("name", [*NAMES, "reps subtract", "prosv simpo"])
def test_numbers_alone_are_those_in_lockstep(model, name):
    """Five, three and one pair: with two a step six, four and two steps; factors are drawn for each by itself."""
    name, given = CASES[name][:2] if name in CASES else (name, {})
    common = {"layer": 1, "epochs": 2, "batch_size": 2, "calibrate": False, "lr": 0.05, **given}
    together = tt.fit_many(name, model, {key: PairSet(pairs) for key, pairs in CONCEPTS.items()}, **common)
    for key, pairs in CONCEPTS.items():
        alone = tt.fit(name, model, PairSet(pairs), **common)
        assert alone.directions == together[key].directions
        assert together[key].provenance["training"]["together"] == 3
        for ours, theirs in zip(together[key].edits, alone.edits, strict=True):
            mine, others = ours.intervention.transform.tensors(), theirs.intervention.transform.tensors()
            for part, value in mine.items():
                assert (value - others[part]).norm() <= 1e-4 * others[part].norm() + 1e-7, (key, part)
                if value.numel() > 1:
                    assert F.cosine_similarity(value.flatten(), others[part].flatten(), dim=0) >= 0.99999


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_is_saved_and_its_directions_work(model, tmp_path, name):
    vector = fitted(name, model, epochs=1)
    again = tt.SteeringVector.load(vector.save(tmp_path / "v"))
    assert again.content_hash == vector.content_hash
    row = torch.tensor([model.chat.render("Say something about the sea").ids])
    with torch.no_grad():
        plain = model.hf(row).logits
        for direction in vector.directions:
            with steer(model.hf, again, direction=direction, multiplier=1.0, prompt_lengths=[row.shape[1]]):
                assert not torch.equal(model.hf(row).logits, plain)
    assert set(vector.provenance["edit_ratio"]) <= {"elicit", "suppress"}


@pytest.mark.parametrize("name", NAMES)
def test_a_short_fit_to_compare_layers_is_short(name):
    (method,) = [method for method in TRAINED if method.name == name]
    built = method.settings(layer=1)
    short = method.trial(built)
    assert (short.epochs, short.warmup_steps, short.batch_size) == (2, 0, 2)
    assert short.start == "random"


# BiPO and its kin.

DPO = Objective(cross_entropy, "response", Dpo(), "base")


def loss_at(model, v, sign, pairs, *, objective=DPO, layer=1, **more):
    """The loss of the pairs where sign * v is added, with the sign told to the objective."""
    plan = AddedSettings(layer=layer, epochs=1, batch_size=len(pairs), unit="one", **more)
    draw = FactorDraw(lambda n, ways, answers, _: torch.full((n, ways, answers), sign), (sign,))
    fit = fit_interchange(model, PairSet(pairs), plan, objective, FitOptions(init=v), added_kind(plan, draw=draw))
    return float(fit.trace.losses[0])


def swapped(pairs):
    return [
        ContrastPair(pair.positive_input, pair.negative_output, pair.negative_input, pair.positive_output)
        for pair in pairs
    ]


@pytest.mark.parametrize("name", ["bipo", "dpo"])
def test_at_the_start_the_loss_is_ln_2_and_its_gradient_is_not_zero(model, tmp_path, name):
    fitted(name, model, epochs=1, trace=tmp_path / "t.npz")
    trace = np.load(tmp_path / "t.npz")
    assert not trace["vecs"][0].any()
    assert trace["jsd"][0] == pytest.approx(math.log(2), abs=1e-6)
    assert np.abs(trace["vecs"][1]).min() > 0, "Adam moves every entry that has a gradient"


def test_subtracting_is_adding_the_opposite_with_the_answers_swapped(model):
    """-log sigmoid(-beta D): of (v, -1) on a pair and of (-v, +1) on it swapped. Not of (v, +1), see the next test."""
    v = random(5, WIDTH, scale=2.0)
    ours = loss_at(model, v, -1.0, PAIRS)
    assert ours == pytest.approx(loss_at(model, -v, 1.0, swapped(PAIRS)), rel=1e-5)
    assert abs(ours - loss_at(model, v, 1.0, PAIRS)) > 1e-4


@pytest.fixture(scope="module")
def linear():
    """A model that reads a state out: its blocks write nothing, and its head is what a test makes it."""
    hf, tokenizer = tiny_model("llama", hidden_size=WIDTH, n_blocks=2, seed=5)
    with torch.no_grad():
        for block in hf.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    hf.model.norm.variance_epsilon = 1e8  # so that the last norm divides by 10000, whatever the state
    return Model(hf, tokenizer, name="linear")


TOY = [ContrastPair("Yes or no?", " of", f"Is {k} a number?", " the") for k in ("one", "two", "red", "five")]


def planted(model, u):
    """Makes the answers of `TOY` as likely as the state's coordinate along u says; one token each."""
    pair = tokenise_pairs(model.chat, PairSet(TOY), context_length=512)[0]
    with torch.no_grad():
        model.hf.lm_head.weight.zero_()
        model.hf.lm_head.weight[pair.positive_response[0]] = 1e4 * u
        model.hf.lm_head.weight[pair.negative_response[0]] = -1e4 * u
    assert pair.positive_response != pair.negative_response


@pytest.mark.parametrize("name", ["bipo", "dpo", "simpo", "reps", "ssv", "split"])
def test_a_planted_direction_is_found(linear, name):
    """Entries of one size, since Adam's steps are: of another u it finds the signs first."""
    u = torch.sign(random(9, WIDTH)) * 0.3
    planted(linear, u)
    given = {"lr": 0.01, "epochs": 200, "batch_size": 4, "positions": "last", "init": np.zeros((1, WIDTH))}
    vector = tt.fit(name, linear, PairSet(TOY), layer=0, calibrate=False, **given)
    (found,) = transforms(vector)
    assert F.cosine_similarity(found.vector, u, dim=0) > 0.95


def test_where_the_readout_is_linear_the_opposite_on_the_swapped_pair_is_the_same(linear):
    """The change of log p(y+) - log p(y-) is then an odd function of v, for answers of one token."""
    pairs = TOY[:1]
    u, v = random(9, WIDTH, scale=0.3), random(3, WIDTH)
    planted(linear, u)
    given = {"objective": Objective(cross_entropy, "response", Dpo(beta=1.0), "base"), "layer": 0}
    given |= {"positions": "last"}
    ours = loss_at(linear, v, 1.0, pairs, **given)
    assert ours == pytest.approx(loss_at(linear, -v, 1.0, swapped(pairs), **given), rel=1e-4)
    assert abs(ours - math.log(2)) > 0.1


def test_the_reference_is_that_of_the_model_without_hooks_to_the_bit(gemma):
    pairs = PairSet([ContrastPair("Yes?", " I can", "No?", " I do")])
    tokenised = tokenise_pairs(gemma.chat, pairs, context_length=512)
    items = interchange_items(tokenised, (ELICIT,), preference=True)
    assert len(items[0].base) == len(items[1].base)
    plan = CachePlan.choose(items, WIDTH, 512, 4, 2**30, teacher=False)
    split = SplitModel(gemma.hf, gemma.layout)
    cache = FrozenCache(split, (1,), items, plan, gemma.device, judged="base", sources=False)
    with torch.no_grad():
        logits = gemma.hf(torch.tensor([item.base for item in items]), use_cache=False).logits
        for k, item in enumerate(items):
            log_p = torch.log_softmax(logits[k, item.scored].float(), dim=-1)
            assert torch.equal(cache.likelihoods[k], log_p.gather(1, torch.tensor(item.response)[:, None]).sum())


# RePS.


class TestRePS:
    @few
    @given(seed=seeds)
    def test_below_a_gap_of_one_it_is_simpo_without_scale_and_margin(self, seed):
        c, j = -10 * torch.rand(2, 5, generator=torch.Generator().manual_seed(seed))
        refs = random(seed, 5, 2)
        refs[:, 1] = refs[:, 0] + refs[:, 1].clamp(max=1.0)  # log p0(l) - log p0(w) <= 1
        tokens, signs = (
            torch.randint(1, 9, (5, 2), generator=torch.Generator().manual_seed(seed)).float(),
            torch.ones(5),
        )
        ours = ScaledSimPo(reversed_reference=True)(c, j, refs, tokens, signs)
        for mine, theirs in zip(ours, SimPo(beta=1.0, gamma=0.0)(c, j, refs, tokens, signs), strict=True):
            torch.testing.assert_close(mine, theirs)

    @few
    @given(seed=seeds)
    def test_the_weight_does_not_depend_on_the_vector(self, seed):
        """What a nat of the winner weighs against one of the loser is the same wherever the edit takes them."""
        refs, tokens = random(seed, 1, 2, scale=20.0), torch.tensor([[4.0, 3.0]])
        how, ratios = ScaledSimPo(reversed_reference=True), []
        for shift in (0.0, 0.5, 2.0):
            found = how(torch.tensor([-3.0 - shift]), torch.tensor([-4.0 + shift]), refs, tokens, torch.ones(1))
            ratios.append(float(-found.chosen / found.rejected))
        assert ratios == pytest.approx([max(float(refs[0, 1] - refs[0, 0]), 1.0) * 3 / 4] * 3, rel=1e-4)

    @few
    @given(seed=seeds, length=st.floats(0.1, 10))
    def test_nulling_out_takes_the_positive_part_and_nothing_else(self, seed, length):
        v, h = F.normalize(random(seed, 8), dim=0) * length, random(seed + 1, 5, 8, scale=4.0)
        null = NullOut(v)
        once = null(h)
        torch.testing.assert_close(null(once), once, rtol=1e-4, atol=1e-4)
        low = h @ v <= 0
        assert torch.equal(once[low], h[low])
        unit = v / length
        assert ((once @ unit)[~low]).abs().max() < 1e-4 if (~low).any() else True
        across = h - (h @ unit)[:, None] * unit
        torch.testing.assert_close(null(across + 3 * v), across, rtol=1e-4, atol=1e-4)  # added, then taken away

    def test_the_edit_that_is_trained_is_the_one_that_is_applied(self):
        v, h, bias = random(0, 1, 8), random(1, 2, 5, 8, scale=3.0), torch.full((1, 1), 0.7)
        mask = torch.ones(2, 5, dtype=torch.bool)
        mask[1, 3:] = False
        found = null_out(h, h[:, 0], {"vector": v, "bias": bias, "size": torch.full((1, 1), 2.0)}, mask)
        wanted = torch.where(mask[..., None], NullOut(v[0], torch.tensor(1.4))(h), h)
        torch.testing.assert_close(found, wanted)

    def test_factors_are_drawn_for_each_answer_and_the_sign_is_the_mode(self):
        factors = RePSSettings(layer=1, factors=(1.0, 2.0)).draw.draw(200, 2, 2, torch.Generator().manual_seed(0))
        assert set(factors[:, 0].flatten().tolist()) == {1.0, 2.0}
        assert (factors[:, 0, 0] != factors[:, 0, 1]).any()
        assert not factors[:, 1].any()
        taken = RePSSettings(layer=1, suppress="subtract").draw.draw(50, 2, 2, torch.Generator().manual_seed(0))
        assert (taken[:, 1] < 0).all()

    def test_the_published_lengths_are_those_of_the_whole_sequence(self, model, tmp_path):
        """First step, by hand from the two lengths of each answer."""
        how, losses = naive.Naive(model.hf, model.tokenizer, 1), {}
        for lengths in ("response", "sequence"):
            given = {"epochs": 1, "batch_size": 5, "factors": [1.0], "lengths": lengths, "suppress": "subtract"}
            fitted("reps", model, init=np.zeros((1, WIDTH)), trace=tmp_path / f"{lengths}.npz", **given)
            losses[lengths] = float(np.load(tmp_path / f"{lengths}.npz")["jsd"].mean())
            wanted = []
            for pair in PAIRS:
                prompt = naive.cdas.prompt_ids(model.tokenizer, pair.negative_input)
                more = len(prompt) if lengths == "sequence" else 0
                with torch.no_grad():
                    p = [how.log_p(prompt, how.tokens(text)) for text in (pair.positive_output, pair.negative_output)]
                for w, j in (p, p[::-1]):
                    weight = max(float(j.sum() - w.sum()), 1.0)
                    z = weight * w.sum() / (len(w) + more) - j.sum() / (len(j) + more)
                    wanted.append(float(-F.logsigmoid(z)))
            assert losses[lengths] == pytest.approx(sum(wanted) / len(wanted), rel=1e-4)
        assert abs(losses["response"] - losses["sequence"]) > 0.01


# ReFT-r1.


class TestReFT:
    def test_the_mean_is_over_the_largest_of_the_edited_tokens(self):
        found = torch.tensor([[9.0, 1.0, 5.0, 3.0], [4.0, 2.0, 7.0, 8.0]])
        mask = torch.tensor([[False, True, True, True], [True, True, False, False]])
        size, chosen = largest(found * mask, mask, 2)
        assert size.tolist() == [4.0, 3.0]
        assert chosen.tolist() == [[False, False, True, True], [True, True, False, False]]
        assert largest(found * mask, mask, 8)[0].tolist() == [3.0, 3.0]

    def test_gradients_along_the_direction_are_taken_out(self):
        kind = top_kind(8, 0.005)
        v = {"vector": F.normalize(random(0, 1, 1, 8), dim=-1)}
        gradient = kind.tangent(v, {"vector": random(1, 1, 1, 8)})["vector"]
        assert abs(float((gradient * v["vector"]).sum())) < 1e-6
        assert gradient.norm() > 0.1

    def test_multiplier_one_is_the_mean_activation_on_the_positive_answers(self, model):
        vector = fitted("reft-r1", model, epochs=2, k=3)
        (plus,), (null,) = transforms(vector), transforms(vector, "suppress")
        assert null.vector.norm() == pytest.approx(1.0, abs=1e-5)
        sizes = []
        for pair in PAIRS:
            prompt = model.chat.render(pair.negative_input)
            ids = prompt.ids + model.chat.response_ids(prompt, pair.positive_output)[:-1]
            states = capture(model.hf, [ids], [Site(1)])[0][Site(1)][prompt.prefix_length :]
            sizes.append(torch.relu(states @ null.vector).topk(3).values.mean())
        assert float(plus.vector.norm()) == pytest.approx(float(torch.stack(sizes).mean()), rel=1e-4)
        assert F.cosine_similarity(plus.vector, null.vector, dim=0) > 0.99999

    def test_the_penalty_keeps_the_other_latents_small(self, model):
        found = {}
        for penalty in (0.0, 100.0):
            vector = fitted("reft-r1", model, epochs=10, lr=0.05, k=1, penalty=penalty)
            (null,) = transforms(vector, "suppress")
            prompt = model.chat.render(PAIRS[0].negative_input)
            states = capture(model.hf, [prompt.ids], [Site(1)])[0][Site(1)][prompt.prefix_length :]
            mask = torch.ones(1, len(states), dtype=torch.bool)
            found[penalty] = float(latents(states[None], {"vector": null.vector[None]}, mask).mean())
        assert found[100.0] < 0.5 * found[0.0]


# PrOSV.


class TestPrOSV:
    @pytest.mark.parametrize("pads", ["left", "right"])
    @pytest.mark.parametrize(
        ("prompt", "wanted"),
        [(9, [3, 4, 7, 8]), (6, [3, 4, 5]), (5, [3, 4]), (4, [3])],
    )
    def test_the_rule_names_the_prompts_edges_however_short_and_padded(self, pads, prompt, wanted):
        tokens, width = prompt + 2, 14  # two tokens of an answer; a prefix of three
        index = torch.full((1, width), -1)
        start = width - tokens if pads == "left" else 0
        index[0, start : start + tokens] = torch.arange(tokens)
        mask = Positions.parse("f2+l2").mask(Geometry(index, torch.tensor([3]), torch.tensor([prompt])))
        assert index[mask].tolist() == wanted

    @pytest.mark.parametrize("text", ["f2+l", "+l2", "f2l2", "l2+f2", "f0+l0", "f-1"])
    def test_what_is_no_rule_is_refused(self, text):
        with pytest.raises(InputError, match="f2\\+l2"):
            PrOSVSettings(layer=1, positions=text)

    def test_it_is_silent_while_the_answer_is_written(self, model):
        """With the hooks there while decoding and without them, the logits are the same to the bit."""
        vector = fitted("prosv", model, epochs=2)
        ids = torch.tensor([model.chat.render("Say something about the sea").ids])
        answer = torch.randint(7, 300, (1, 6), generator=torch.Generator().manual_seed(0))
        written = []
        for stays in (True, False):
            with ExitStack() as hooks, torch.no_grad():
                hooks.enter_context(steer(model.hf, vector, multiplier=1.0, prompt_lengths=[ids.shape[1]]))
                cache, logits = model.hf(ids, use_cache=True).past_key_values, []
                if not stays:
                    hooks.close()
                for k in range(answer.shape[1]):
                    out = model.hf(answer[:, k : k + 1], use_cache=True, **{CACHE: cache})
                    cache = out.past_key_values
                    logits.append(out.logits)
            written.append(torch.cat(logits))
        assert torch.equal(*written)
        with torch.no_grad():
            plain = model.hf(torch.cat([ids, answer], dim=1)).logits[0, ids.shape[1] :]
        assert (written[0][:, 0] - plain).abs().max() > 1e-3, "the prompt's keys and values carry it"

    def test_edges_that_meet_are_the_whole_prompt(self, model):
        pairs = [ContrastPair("a b", " I do", "Say this", " Yes"), ContrastPair("c", " I am", "Say that", " No")]
        sizes = {
            len(prompt.ids) - prompt.prefix_length for prompt in (model.chat.render(p.negative_input) for p in pairs)
        }
        (size,) = sizes
        made = [
            tt.fit("prosv", model, PairSet(pairs), layer=1, epochs=2, calibrate=False, positions=positions)
            for positions in ("prompt", f"f2+l{size - 2}")
        ]
        assert torch.equal(*(transforms(vector)[0].vector for vector in made))

    def test_the_scaling_rule_reaches_a_size_at_any_width_and_fixed_rates_do_not(self):
        """A target with entries of 1 in forty steps; the fixed rates are those that suit a width of 256."""
        plan = PrOSVSettings(layer=0, unit="one")

        def missed(width, scale_of):
            kind = prosv_kind(width, plan)
            start = {name: value.clone() for name, value in kind.start(torch.zeros(1, 1, width)).items()}
            rates = prosv_kind(scale_of, plan).rates
            now = {name: torch.nn.Parameter(value) for name, value in start.items()}
            groups = [{"params": [now[name]], "lr": plan.lr * rates[name]} for name in now]
            optimiser, target = torch.optim.AdamW(groups, weight_decay=0.0), torch.sign(random(1, width))
            for step in range(40):
                optimiser.zero_grad()
                product = (now["alpha"] * now["vector"]).flatten()
                (product - target).square().sum().backward()
                for group, name in zip(optimiser.param_groups, now, strict=True):
                    group["lr"] = plan.lr * rates[name] * (1 - step / 40)
                optimiser.step()
            product = (now["alpha"] * now["vector"]).flatten()
            return float((product.norm() / target.norm() - 1).abs().detach())

        widths = (16, 32, 64, 128, 256)
        ruled = [missed(width, width) for width in widths]
        fixed = [missed(width, 256) for width in widths]
        assert max(ruled) < 0.1, ruled
        assert max(fixed) > 0.25, fixed

    def test_only_the_vectors_gradient_is_clipped(self):
        kind = prosv_kind(64, PrOSVSettings(layer=1))
        assert kind.unclipped == {"alpha"}
        assert (kind.rates["vector"], kind.rates["alpha"]) == (1 / 8, 8.0)
        begun = kind.start(torch.zeros(1, 1, 64))
        assert float(begun["alpha"]) == 8.0
        assert begun["vector"].abs().max() <= 1 / 8


# SPLIT.


class TestSplit:
    @few
    @given(p=st.floats(0.01, 0.6), share=st.floats(0.05, 0.95))
    def test_odds_of_two_answers_among_others(self, p, share):
        n = (1 - p) * share
        positive, negative = -torch.tensor(p).double().log(), -torch.tensor(n).double().log()
        assert float(pref_odds(positive, negative)) == pytest.approx(math.log(p / n), abs=1e-5)
        assert float(util_odds(positive, negative)) == pytest.approx(
            math.log((p + n) / (1 - p - n)), rel=1e-3, abs=1e-4
        )

    def test_probabilities_that_leave_nothing_are_refused(self):
        with pytest.raises(InputError, match=r"sum to 1\.\d+"):
            util_odds(torch.tensor(0.1), torch.tensor(0.1))

    @few
    @given(seed=seeds, sign=st.sampled_from([1.0, -1.0]))
    def test_above_the_margin_the_hinge_has_no_gradient(self, seed, sign):
        c, j, tokens = torch.tensor([-2.0]), torch.tensor([-9.0]), torch.tensor([[2.0, 3.0]])  # 1 and 3 nats a token
        c, j, tokens = (c, j, tokens) if sign > 0 else (j, c, tokens.flip(1))
        refs, signs = random(seed, 1, 2), torch.tensor([sign])
        with_hinge, without = (Split(weight=weight)(c, j, refs, tokens, signs) for weight in (4.0, 0.0))
        assert all(torch.equal(*both) for both in zip(with_hinge, without, strict=True))
        near = Split(margin=2.5)(c, j, refs, tokens, signs)
        assert not torch.equal(near.chosen, without.chosen)

    def test_signs_are_of_pairs_and_sizes_of_answers(self):
        factors = signed_one_of((1.0, 2.0)).draw(300, 1, 2, torch.Generator().manual_seed(1))
        assert torch.equal(factors[..., 0].sign(), factors[..., 1].sign())
        assert set(factors.flatten().tolist()) == {1.0, 2.0, -1.0, -2.0}
        assert (factors[..., 0].abs() != factors[..., 1].abs()).any()

    @pytest.mark.parametrize("times", [True, False])
    @pytest.mark.parametrize(("centre", "width", "power"), [(0.7, 4.0, 1.2), (-1.0, 9.0, 0.6), (0.0, 2.0, 2.5)])
    def test_a_planted_curve_is_found(self, times, centre, width, power):
        m = torch.linspace(-8, 8, 33, dtype=torch.float64)
        decay = (1 + (m - centre) ** 2 / width) ** -power
        values = (3.0 * (m if times else 1) * decay - 0.5).tolist()
        found = fit_decay_curve(m.tolist(), values, times_multiplier=times)
        assert (found.centre, found.width, found.power) == pytest.approx((centre, width, power), rel=1e-3, abs=1e-3)
        assert (found.slope, found.offset) == pytest.approx((3.0, -0.5), rel=1e-3)
        assert found.r2 > 0.999999
        torch.testing.assert_close(found.decay(m), decay, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(
        ("m", "values", "said"),
        [([0, 1, 2], [0, 1, 2], "6 different"), ([0, 1, 2, 3, 4, 5], [1.0] * 6, "all the same"),
         ([0, 1, 2, 3, 4, 5], [1.0, 2, 3, 4, 5, math.nan], "not finite"), ([0, 1, 2, 3, 4, 5], [1.0] * 5, "5 values")],
    )  # fmt: skip
    def test_what_gives_no_curve_is_refused(self, m, values, said):
        with pytest.raises(InputError, match=said):
            fit_decay_curve(m, values, times_multiplier=True)

    def test_a_vector_a_bias_edit_and_a_rank_one_edit_are_the_same_behind_one_linear_map(self):
        """(W + m1 dW) x + (b + m2 db): on inputs with x . c = 1, as a constant channel has, all three add m v."""
        w, b, v, m = random(0, 6, 4), random(1, 6), random(2, 6), 1.7
        x, c = random(3, 9, 4), torch.tensor([0.0, 0.0, 0.0, 1.0])
        x[:, 3] = 1.0
        as_vector = x @ w.T + b + m * (Add(v)(x @ w.T + b) - (x @ w.T + b))
        as_bias, as_rank_one = x @ w.T + (b + m * v), x @ (w + m * torch.outer(v, c)).T + b
        torch.testing.assert_close(as_vector, as_bias)
        torch.testing.assert_close(as_vector, as_rank_one)


# Draws, units, bad input.


def test_bipo_throws_one_coin_a_batch():
    generator = torch.Generator().manual_seed(0)
    drawn = [sign_a_batch(4, 1, 2, generator) for _ in range(50)]
    assert all(len(one.unique()) == 1 for one in drawn)
    assert {float(one[0, 0, 0]) for one in drawn} == {1.0, -1.0}


def test_the_middle_of_the_list_stands_for_it():
    assert one_of((0.5, 1.0, 4.0), signs=(1.0, 0.0, -1.0)).usual == (1.0, 0.0, -1.0)


def test_in_the_states_own_size_a_scaled_model_learns_the_same(model):
    """All that a block writes ten times as large, and nothing but the sizes changes: the norms see no difference."""
    hf, tokenizer = tiny_model("llama", hidden_size=WIDTH, n_blocks=4, seed=3)
    found = {}
    for scale in (1.0, 10.0):
        with torch.no_grad():
            for module in hf.modules():
                if hasattr(module, "variance_epsilon"):
                    module.variance_epsilon = 1e-20
            for weight in [hf.model.embed_tokens.weight] + [
                part
                for block in hf.model.layers
                for part in (block.self_attn.o_proj.weight, block.mlp.down_proj.weight)
            ]:
                weight *= scale
        found[scale] = transforms(fitted("simpo", Model(hf, tokenizer, name="tiny"), epochs=2))[0].vector
    torch.testing.assert_close(found[10.0], 10 * found[1.0], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("ssv", {"rank": 2}, "rank is 2"),
        ("ssv", {"unit": "metres"}, "allowed: states, one"),
        ("lang", {"start": "means"}, "only be 'random'"),
        ("loreft", {"start": "means"}, "only be 'random'"),
        ("lang", {"factors": []}, "list of one or more"),
        ("reps", {"factors": [1.0, -2.0]}, "each of factors is -2.0"),
        ("split", {"factors": "2,4"}, "list of one or more"),
        ("reps", {"suppress": "gone"}, "allowed: null, subtract"),
        ("reps", {"lengths": "words"}, "allowed: response, sequence"),
        ("reft-r1", {"layer": (1, 2)}, r"layers are \[1, 2\]"),
        ("reft-r1", {"k": 0}, "k is 0"),
        ("reft-r1", {"penalty": -1}, "penalty is -1"),
        ("reft-r1", {"start": "means"}, "only be 'random'"),
        ("bipo", {"beta": 0}, "beta is 0"),
        ("dpo", {"smoothing": 0.5}, "smoothing is 0.5"),
        ("ipo", {"beta": -1.0}, "beta is -1.0"),
        ("simpo", {"gamma": math.inf}, "gamma is inf"),
        ("prosv", {"objective": "bi"}, "allowed: lang, simpo"),
        ("prosv", {"alpha": 0}, "alpha is 0"),
        ("split", {"hinge": -1}, "hinge is -1"),
        ("bipo", {"layer": 9}, "layer 9"),
    ],
)
def test_what_makes_no_sense_is_refused(model, name, given, said):
    with pytest.raises(InputError, match=said):
        fitted(name, model, **given)


@pytest.mark.parametrize("name", NAMES)
def test_no_pairs_are_refused(model, name):
    with pytest.raises(InputError, match="no pairs"):
        tt.fit(name, model, PairSet([]), layer=1, calibrate=False)


def test_a_direction_that_finds_nothing_has_no_size(linear):
    """Every state's coordinate along v is negative, and no step changes that: the latents have no gradient."""
    planted(linear, random(9, WIDTH))
    pairs = PairSet(TOY[:1])
    prompt = linear.chat.render(TOY[0].negative_input)
    state = capture(linear.hf, [prompt.ids], [Site(0)])[0][Site(0)][-1]
    with pytest.raises(InputError, match="no token of 1 pairs"):
        tt.fit("reft-r1", linear, pairs, layer=0, calibrate=False, init=-state, positions="last", epochs=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_is_not_finite_comes_with_the_last_good_vector(name):
    hf, tokenizer = tiny_model("llama", hidden_size=WIDTH, n_blocks=2, seed=3)
    with torch.no_grad():
        hf.model.layers[1].mlp.down_proj.weight[0, 0] = math.nan
    with pytest.raises(FitDivergedError) as caught:
        fitted(name, Model(hf, tokenizer, name="broken"), layer=0, epochs=1)
    assert caught.value.step == 0
    assert caught.value.last_good is not None


def test_several_layers_are_trained_together(model):
    for name in ("bipo", "reps", "lang"):
        vector = fitted(name, model, layer=(1, 2), epochs=1)
        assert dict(vector.directions) == {"elicit": (0, 1), "suppress": (2, 3)}
        assert [edit.intervention.site.layer for edit in vector.edits] == [1, 2, 1, 2]


def test_whatever_is_kept_the_fit_is_the_same(model):
    """Sizes and readings are read off base states, which may have to be made again."""
    for name in ("reps", "reft-r1"):
        made = [transforms(fitted(name, model, epochs=1, cache_bytes=size))[0].vector for size in (2**30, 0)]
        torch.testing.assert_close(*made, rtol=1e-4, atol=1e-5)


def test_settings_of_loreft():
    built = LoReFTSettings(layer=(1, 2))
    assert (built.rank, built.positions, built.layers) == (4, "f5+l5", (1, 2))
