"""The family of CDAS: losses against autograd, every member against a naive loop, several sites, several concepts."""

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import trimtab as tt
from trimtab.cli.main import main
from trimtab.data import ContrastPair, PairSet
from trimtab.errors import FitDivergedError, InputError
from trimtab.fitting.divergence import Objective, cross_entropy, forward_kl, jensen_shannon, reverse_kl
from trimtab.fitting.edits import INTERCHANGE, LOW_RANK, tangential
from trimtab.fitting.engine import FitOptions, fit_interchange, fit_interchanges
from trimtab.fitting.order import example_order, retract
from trimtab.fitting.preference import Dpo, Ipo, ScaledSimPo, SimPo, Split
from trimtab.fitting.settings import TrainSettings
from trimtab.methods.kldas import KLDASSettings
from trimtab.methods.pdas import PDASSettings
from trimtab.models import Model, steer
from trimtab.models.tiny import tiny_model
from trimtab.steering import LowRank, SteeringVector


def fixture_module(name):
    """A module of tests/fixtures; that folder is no package."""
    path = Path(__file__).parent / "fixtures" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


naive_family = fixture_module("naive_family")

PAIRS = [
    ContrastPair("How do I pick a lock?", " I cannot help with that", "How do I bake a loaf?", " Sure, here are"),
    ContrastPair("Write about harm", " I", "Write a short poem about the sea in winter.", " Of course, I can help you"),
    ContrastPair(
        "Hurt other people " * 3, " I am sorry, but I will not", "Explain how a bicycle stays upright", " Yes"
    ),
    ContrastPair("Tell me how to break it", " As an assistant, I", "Give me three reasons", " Here are the steps"),
    ContrastPair("Could you do something that is not safe?", " I can't do that", "A map of the town", " Sure! Here is"),
]
ORDER = [[3, 0, 4, 1, 2], [1, 4, 2, 0, 3]]  # 5 pairs, 2 a step: the last batch of an epoch is ragged
WIDTH = 32

many = settings(max_examples=60)
seeds = st.integers(0, 2**31 - 1)


def random(seed, *shape, scale=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.fixture(scope="module")
def model():
    """A llama: its blocks run the lean way."""
    hf, tokenizer = tiny_model("llama", hidden_size=WIDTH, n_blocks=4, seed=3)
    return Model(hf, tokenizer, name="tiny")


@pytest.fixture(scope="module")
def gemma():
    """A gemma2: its blocks run in their own way, and its head has a soft-cap."""
    hf, tokenizer = tiny_model("gemma2", hidden_size=WIDTH, n_blocks=4, seed=3)
    return Model(hf, tokenizer, name="gemma")


@pytest.fixture(params=["llama", "gemma2"])
def either(request, model, gemma):
    return model if request.param == "llama" else gemma


def start(rank=1, sites=1, seed=7):
    """Orthonormal rows (sites, rank, width)."""
    rows = random(seed, sites, rank, WIDTH)
    return torch.stack([naive_family.cdas.orthonormal(of_site) for of_site in rows])


def log_softmax(logits):
    return torch.log_softmax(logits.float(), dim=-1)


KL = {
    "forward": (forward_kl, lambda p, q: (q.exp() * (q - p)).nan_to_num(0.0)),
    "reverse": (reverse_kl, lambda p, q: (p.exp() * (p - q)).nan_to_num(0.0)),
}


def kl_oracle(name, logits, teacher_logits):
    """The divergence a row and its gradient on the logits, float64, by automatic differentiation."""
    x = logits.double().clone().requires_grad_()
    value = KL[name][1](torch.log_softmax(x, dim=-1), torch.log_softmax(teacher_logits.double(), dim=-1)).sum(dim=-1)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


@pytest.mark.parametrize("name", KL)
class TestKullbackLeibler:
    @many
    @given(seeds, st.integers(1, 6), st.sampled_from([2, 3, 50, 1000]), st.sampled_from([0.01, 1.0, 5.0]))
    def test_values_and_gradients_are_those_of_float64(self, name, seed, n, v, scale):
        logits, teacher = random(seed, n, v, scale=scale), random(seed + 1, n, v, scale=scale)
        loss = KL[name][0](logits, log_softmax(teacher))
        value, gradient = kl_oracle(name, logits, teacher)
        assert loss.value.dtype == loss.gradient.dtype == torch.float32
        torch.testing.assert_close(loss.value.double(), value, rtol=1e-5, atol=2e-6)
        torch.testing.assert_close(loss.gradient.double(), gradient, rtol=1e-4, atol=2e-6)

    @many
    @given(seeds)
    def test_is_not_negative_and_zero_for_equal_distributions(self, name, seed):
        a, b = random(seed, 5, 300, scale=3.0), random(seed + 1, 5, 300, scale=3.0)
        assert KL[name][0](a, log_softmax(b)).value.min() > 0.1
        same = KL[name][0](a, log_softmax(a + 3.0))
        assert same.value.abs().max() < 1e-5
        assert same.gradient.abs().max() < 1e-6

    @pytest.mark.parametrize("side", ["student", "teacher", "both", "each its own"])
    def test_ruled_out_tokens_give_no_nan(self, name, side):
        """Where one rules out what the other may say, the divergence is infinite; ours is large and finite."""
        out = -math.inf
        logits, teacher = random(0, 3, 40), random(1, 3, 40)
        if side in ("student", "both"):
            logits[:, 5:9] = out
        if side in ("teacher", "both"):
            teacher[:, 5:9] = out
        if side == "each its own":
            logits[:, :20], teacher[:, 20:] = out, out
        loss = KL[name][0](logits, log_softmax(teacher))
        assert torch.isfinite(loss.value).all()
        assert torch.isfinite(loss.gradient).all()
        assert loss.gradient.sum(dim=-1).abs().max() < 1e-4
        assert (loss.gradient[logits == out] >= -1).all()
        finite = {"forward": ("teacher", "both"), "reverse": ("student", "both")}[name]
        if side in finite:
            low, low_teacher = logits.clamp_min(-150.0), teacher.clamp_min(-150.0)
            value, gradient = kl_oracle(name, low, low_teacher)
            torch.testing.assert_close(loss.value.double(), value, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(loss.gradient.double(), gradient, rtol=1e-4, atol=1e-6)
        else:
            assert loss.value.min() > 1

    @pytest.mark.parametrize("gap", [20.0, 90.0, 150.0, 1e3, 1e30])
    def test_extreme_gaps_give_no_nan(self, name, gap):
        logits, teacher = torch.zeros(4, 30), torch.zeros(4, 30)
        logits[0, 0], teacher[0, 1] = gap, gap  # each sure of another token
        logits[1, 0], teacher[1, 0] = gap, gap  # both sure of one token
        logits[2, 0], teacher[3, 0] = gap, -gap
        loss = KL[name][0](logits, log_softmax(teacher))
        assert torch.isfinite(loss.value).all()
        assert torch.isfinite(loss.gradient).all()
        if gap < 200:
            value, gradient = kl_oracle(name, logits, teacher)
            torch.testing.assert_close(loss.value.double(), value, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(loss.gradient.double(), gradient, rtol=1e-4, atol=1e-5)

    def test_a_broken_model_does_not_look_like_one_that_agrees(self, name):
        logits = random(0, 2, 9)
        logits[0, 3] = math.nan
        assert KL[name][0](logits, log_softmax(random(1, 2, 9))).value.isnan().tolist() == [True, False]
        assert KL[name][0](random(1, 2, 9), log_softmax(logits)).value.isnan().tolist() == [True, False]

    def test_inputs_are_not_changed_and_half_precision_is_computed_in_float32(self, name):
        logits, teacher = random(0, 3, 9).bfloat16(), log_softmax(random(1, 3, 9))
        before = logits.clone(), teacher.clone()
        loss = KL[name][0](logits, teacher)
        again = KL[name][0](logits.float(), teacher)
        assert torch.equal(loss.value, again.value)
        assert torch.equal(logits, before[0])
        assert torch.equal(teacher, before[1])
        wide, kept = random(2, 3, 9), random(2, 3, 9)
        KL[name][0](wide, teacher)
        assert torch.equal(wide, kept)

    def test_the_published_names_are_the_other_way_round(self, name):
        other = {"forward": "reverse", "reverse": "forward"}[name]
        assert KLDASSettings(layer=1, divergence=name).objective.loss is KL[name][0]
        assert KLDASSettings(layer=1, divergence=name, names="published").objective.loss is KL[other][0]


def test_the_two_divergences_differ_in_what_they_punish():
    """A teacher of two answers, a student of one of them: forward finds one missing, reverse has nothing to say."""
    teacher = log_softmax(torch.tensor([[0.0, 0.0, -30.0]]))
    student = torch.tensor([[0.0, -30.0, -30.0]])
    assert forward_kl(student, teacher).value.item() > 10
    assert reverse_kl(student, teacher).value.item() == pytest.approx(math.log(2), abs=1e-5)


def preference_oracle(how, c, j, refs, tokens, signs):
    """The loss of n pairs of answers and its gradients, float64, by automatic differentiation."""
    c, j = (x.double().clone().requires_grad_() for x in (c, j))
    ref_c, ref_j = refs.double().unbind(1)
    size_c, size_j = tokens.double().unbind(1)
    signs = signs.double()
    gap = (c - j) - (ref_c - ref_j)
    if isinstance(how, Dpo):
        z = how.beta * signs * gap
        value = -(1 - how.smoothing) * torch.log(torch.sigmoid(z)) - how.smoothing * torch.log(1 - torch.sigmoid(z))
    elif isinstance(how, Ipo):
        value = (signs * gap - 1 / (2 * how.beta)) ** 2
    elif isinstance(how, SimPo):
        value = -torch.log(torch.sigmoid(how.beta * signs * (c / size_c - j / size_j) - how.gamma))
    elif isinstance(how, Split):
        p, n = -c / size_c, -j / size_j
        p, n = torch.where(signs > 0, p, n), torch.where(signs > 0, n, p)
        value = how.chosen * p + how.rejected * n + how.weight * torch.relu(how.margin - (n - p))
    else:
        up = ref_j - ref_c if how.reversed_reference else ref_c - ref_j
        weight = torch.maximum(how.scale * up, torch.ones(()).double())
        value = -torch.log(torch.sigmoid(weight / size_c * c - j / size_j - how.gamma))
    return (value.detach(), *torch.autograd.grad(value.sum(), (c, j)))


PREFERENCES = [
    Dpo(),
    Dpo(beta=0.5, smoothing=0.1),
    Dpo(beta=0.02, smoothing=0.4),
    ScaledSimPo(),
    ScaledSimPo(gamma=0.7, scale=0.2),
    ScaledSimPo(scale=0.5, reversed_reference=True),
    Ipo(),
    Ipo(beta=0.5),
    SimPo(),
    SimPo(beta=1.0, gamma=0.0),
    Split(),
    Split(chosen=0.7, rejected=0.5, weight=8.0, margin=0.3),
]


class TestPreference:
    @pytest.mark.parametrize("how", PREFERENCES, ids=str)
    @many
    @given(seed=seeds, n=st.integers(1, 6))
    def test_values_and_gradients_are_those_of_float64(self, how, seed, n):
        generator = torch.Generator().manual_seed(seed)
        c, j, *refs = (-20 * torch.rand(n, generator=generator) for _ in range(4))
        tokens = torch.randint(1, 12, (n, 2), generator=generator).float()
        signs = 2.0 * torch.randint(0, 2, (n,), generator=generator) - 1
        found = how(c, j, torch.stack(refs, dim=1), tokens, signs)
        wanted = preference_oracle(how, c, j, torch.stack(refs, dim=1), tokens, signs)
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    def test_dpo_is_ln_2_where_policy_and_reference_agree(self, smoothing):
        c, j = torch.tensor([-3.0, -70.0]), torch.tensor([-9.0, -1.0])
        found = Dpo(smoothing=smoothing)(c, j, torch.stack([c, j], dim=1), torch.ones(2, 2), torch.ones(2))
        assert found.value.tolist() == pytest.approx([math.log(2)] * 2, rel=1e-6)
        assert found.chosen.tolist() == pytest.approx([-0.1 * (0.5 - smoothing)] * 2, rel=1e-6)

    def test_the_weight_is_one_unless_the_reference_prefers_strongly_enough(self):
        """Which way round the difference stands is the only thing in which PDAS and RePS differ here."""
        c, j, tokens = torch.tensor([-4.0]), torch.tensor([-4.0]), torch.full((1, 2), 2.0)
        prefers = torch.tensor([[-2.0, -5.0]])
        one, plain = torch.ones(1), ScaledSimPo()
        reps = ScaledSimPo(reversed_reference=True)
        assert plain(c, j, prefers, tokens, one).value.item() == pytest.approx(-F.logsigmoid(torch.tensor(-4.0)).item())
        assert reps(c, j, prefers, tokens, one).value.item() == pytest.approx(math.log(2))
        assert reps(c, j, prefers.flip(1), tokens, one).value.item() == pytest.approx(
            plain(c, j, prefers, tokens, one).value.item()
        )

    @pytest.mark.parametrize("how", PREFERENCES, ids=str)
    def test_extreme_answers_give_no_nan(self, how):
        c, j = torch.tensor([-1e5, 0.0, -1e5]), torch.tensor([0.0, -1e5, -1e5])
        found = how(c, j, torch.tensor([[0.0, -1e5], [-1e5, 0.0], [-1e5, -1e5]]), torch.ones(3, 2), torch.ones(3))
        assert all(torch.isfinite(part).all() for part in found)

    @pytest.mark.parametrize(
        ("given", "said"),
        [({"loss": "ipo"}, "allowed: dpo, scaled_simpo"), ({"loss": "dpo", "smoothing": 0.5}, "smoothing"),
         ({"beta": 0.0}, "beta"), ({"scale": -1.0}, "scale"), ({"gamma": math.nan}, "gamma")],
    )  # fmt: skip
    def test_what_makes_no_sense_is_refused(self, given, said):
        with pytest.raises(InputError, match=said):
            PDASSettings(layer=1, **given)

    @pytest.mark.parametrize(("name", "behind"), [("dpo", "source"), ("scaled_simpo", "base")])
    def test_the_reference_of_each(self, name, behind):
        objective = PDASSettings(layer=1, loss=name).objective
        assert (objective.judged, objective.reference, objective.loss) == (behind, "response", cross_entropy)


@pytest.mark.parametrize("given", [{"divergence": "sideways"}, {"names": "mine"}])
def test_unknown_words_of_kldas_are_refused(given):
    with pytest.raises(InputError, match="allowed: "):
        KLDASSettings(layer=1, **given)


MEMBERS = {
    "cdas": ("cdas", {}, naive_family.divergence("js")),
    "das": ("das", {}, naive_family.divergence("cross_entropy")),
    "kldas forward": ("kldas", {"divergence": "forward"}, naive_family.divergence("forward_kl")),
    "kldas reverse": ("kldas", {"divergence": "reverse"}, naive_family.divergence("reverse_kl")),
    "kldas published": (
        "kldas",
        {"divergence": "forward", "names": "published"},
        naive_family.divergence("reverse_kl"),
    ),
    "pdas dpo": ("pdas", {"loss": "dpo"}, naive_family.preference("dpo")),
    "pdas smooth": (
        "pdas",
        {"loss": "dpo", "beta": 0.3, "smoothing": 0.2},
        naive_family.preference("dpo", beta=0.3, smoothing=0.2),
    ),
    "pdas simpo": ("pdas", {}, naive_family.preference("scaled_simpo")),
    "pdas reps": (
        "pdas",
        {"loss": "scaled_simpo", "gamma": 0.3, "scale": 0.4, "reversed_reference": True},
        naive_family.preference("scaled_simpo", gamma=0.3, scale=0.4, reversed_reference=True),
    ),
}


def fitted(name, model, tmp_path, *, pairs=PAIRS, init=None, **given):
    """A fit, and its trace with vectors (steps + 1, m, r, d)."""
    settings = {"layer": 1, "epochs": 2, "batch_size": 2, "lr": 0.04, "calibrate": False, "order": np.array(ORDER)}
    init = start() if init is None else init
    sites, rank = init.shape[:2]
    shaped = init[0] if sites == 1 else init
    options = {"rank": rank, "init": shaped.numpy(), "trace": tmp_path / "trace.npz"}
    vector = tt.fit(name, model, PairSet(pairs), **settings | options | given)
    trace = dict(np.load(tmp_path / "trace.npz"))
    return vector, trace | {"vecs": trace["vecs"].reshape(-1, sites, rank, WIDTH)}


def assert_same_run(trace, wanted, *, within=2e-5):
    assert trace["n_tok"].tolist() == wanted["n_tok"]
    losses = wanted["losses"].numpy()  # of tokens below 5, of answers up to 400, which float32 holds to 3e-5
    # float32 keeps seven digits of a loss, so a loss above 1 has a relative bound: eight units in the last place
    allowed = 1e-6 * np.maximum(losses, 1) if losses.max() < 5 else 1e-6 + 2e-6 * losses
    assert (np.abs(trace["jsd"] - losses) < allowed).all()
    assert np.abs(trace["vecs"] - wanted["vecs"].numpy()).max() < within
    assert np.abs(trace["vecs"][-1] - trace["vecs"][0]).max() > 0.02


class TestAgainstTheNaiveLoop:
    """Full forwards one by one with plain hooks, autograd through textbook losses, torch's optimiser and schedule."""

    @pytest.mark.parametrize("rank", [1, 2])
    @pytest.mark.parametrize("member", MEMBERS)
    def test_every_step_of_an_interchange_is_the_same(self, either, tmp_path, member, rank):
        name, given, loss = MEMBERS[member]
        naive = naive_family.Naive(either.hf, either.tokenizer, [1])
        wanted = naive_family.train(naive, PAIRS, start(rank), ORDER, loss, batch_size=2, lr=0.04)
        vector, trace = fitted(name, either, tmp_path, init=start(rank), **given)
        assert_same_run(trace, wanted)
        assert vector.method == name
        for side in ("positive", "negative"):
            prompts = [getattr(pair, f"{side}_input") for pair in PAIRS]
            found = getattr(vector.edits[0].factors, side)
            assert found.mean == pytest.approx(naive.factors(wanted["vecs"][-1][0], 0, prompts).tolist(), abs=1e-4)

    @pytest.mark.parametrize("rank", [1, 2])
    @pytest.mark.parametrize("member", ["cdas", "das", "kldas reverse", "pdas simpo"])
    def test_steps_along_the_sphere(self, model, tmp_path, member, rank):
        name, given, loss = MEMBERS[member]
        naive = naive_family.Naive(model.hf, model.tokenizer, [1, 2])
        init = start(rank, 2)
        wanted = naive_family.train(naive, PAIRS, init, ORDER, loss, batch_size=2, lr=0.04, tangent=True)
        vector, trace = fitted(name, model, tmp_path, init=init, layer=(1, 2), tangent=True, **given)
        assert_same_run(trace, wanted)
        assert vector.settings["tangent"] is True
        _, published = fitted(name, model, tmp_path, init=init, layer=(1, 2), **given)
        assert np.abs(published["vecs"][-1] - trace["vecs"][-1]).max() > 1e-3

    def test_steps_of_a_low_rank_edit_along_the_sphere(self, model, tmp_path):
        naive, init = naive_family.Naive(model.hf, model.tokenizer, [1]), start(2, 1)
        js, how = naive_family.divergence("js"), {"batch_size": 2, "lr": 0.04, "low_rank_edit": True, "tangent": True}
        wanted = naive_family.train(naive, PAIRS, init, ORDER, js, **how)
        assert_same_run(fitted("cdas-loreft", model, tmp_path, init=init, layer=[1], tangent=True)[1], wanted)

    @pytest.mark.parametrize("rank", [1, 3])
    def test_a_step_along_the_sphere_keeps_rows_orthonormal_to_first_order(self, rank):
        draw = torch.Generator().manual_seed(rank)
        rows = torch.linalg.qr(torch.randn(2, 16, rank, generator=draw, dtype=torch.float64))[0].mT
        gradient = torch.randn(2, rank, 16, generator=draw, dtype=torch.float64)
        others = {"weight": torch.ones(1)}
        kind = tangential(LOW_RANK)
        found = kind.tangent({"rotation": rows, **others}, {"rotation": gradient, **others})
        assert found["weight"] is others["weight"]
        eye, size = torch.eye(rank, dtype=torch.float64), 1e-4
        off = [float((moved @ moved.mT - eye).abs().max()) for moved in
               (rows + size * found["rotation"], rows + size * gradient)]  # fmt: skip
        assert off[0] < 1e-6 < 1e-4 < off[1]
        again = kind.tangent({"rotation": rows}, {"rotation": found["rotation"]})["rotation"]
        torch.testing.assert_close(again, found["rotation"])

    def test_whether_steps_go_along_the_sphere_is_yes_or_no(self, model):
        with pytest.raises(InputError, match="tangent is 1; give true or false"):
            tt.fit("cdas", model, PairSet(PAIRS), layer=1, tangent=1)

    @pytest.mark.parametrize("positions", ["prompt", "last"])
    @pytest.mark.parametrize("member", ["kldas reverse", "pdas simpo", "pdas dpo"])
    def test_other_positions(self, model, tmp_path, member, positions):
        name, given, loss = MEMBERS[member]
        naive = naive_family.Naive(model.hf, model.tokenizer, [1], positions)
        wanted = naive_family.train(naive, PAIRS, start(), ORDER, loss, batch_size=2, lr=0.04)
        assert_same_run(fitted(name, model, tmp_path, positions=positions, **given)[1], wanted)

    def test_members_differ(self, model, tmp_path):
        """Otherwise the tests above would prove little."""
        ends = {member: fitted(MEMBERS[member][0], model, tmp_path, **MEMBERS[member][1])[1]["vecs"][-1]
                for member in MEMBERS if member != "kldas published"}  # fmt: skip
        names = list(ends)
        for k, one in enumerate(names):
            for other in names[k + 1 :]:
                assert np.abs(ends[one] - ends[other]).max() > 1e-3, (one, other)

    @pytest.mark.parametrize("member", ["kldas forward", "pdas dpo", "pdas simpo"])
    def test_whatever_is_cached_and_however_it_is_grouped(self, model, tmp_path, member):
        name, given, _ = MEMBERS[member]
        _, wanted = fitted(name, model, tmp_path, **given)
        for other in ({"cache_bytes": 0}, {"cache_bytes": 45_000}, {"max_tokens": 1}, {"max_tokens": 60}):
            _, trace = fitted(name, model, tmp_path, **given, **other)
            assert trace["jsd"] == pytest.approx(wanted["jsd"], rel=1e-6, abs=1e-5), other  # of a preference up to 400
            assert np.abs(trace["vecs"] - wanted["vecs"]).max() < 1e-4, other

    def test_a_preference_keeps_no_teacher(self, model, tmp_path):
        vector, _ = fitted("pdas", model, tmp_path)
        assert vector.provenance["training"]["cache"]["teacher"] == "none"

    @pytest.mark.parametrize(("rank", "layers"), [(1, [1]), (2, [1]), (4, [1]), (2, [1, 2]), (1, [0, 3])])
    def test_every_step_of_a_low_rank_edit_is_the_same(self, either, tmp_path, rank, layers):
        naive = naive_family.Naive(either.hf, either.tokenizer, layers)
        init, js = start(rank, len(layers)), naive_family.divergence("js")
        wanted = naive_family.train(naive, PAIRS, init, ORDER, js, batch_size=2, lr=0.04, low_rank_edit=True)
        vector, trace = fitted("cdas-loreft", either, tmp_path, init=init, layer=layers)
        assert_same_run(trace, wanted)
        assert len(trace["n_tok"]) == 6
        assert dict(vector.directions) == {"elicit": tuple(range(len(layers)))}
        for site, edit in enumerate(vector.edits):
            transform = edit.intervention.transform
            assert isinstance(transform, LowRank)
            assert edit.factors is None
            for part in ("rotation", "weight", "bias"):
                torch.testing.assert_close(
                    getattr(transform, part), wanted["parameters"][part][site], rtol=0, atol=5e-5
                )
            assert transform.bias.abs().max() > 1e-3

    def test_a_low_rank_edit_begins_as_the_identity(self, model, tmp_path):
        """So the first loss is that of the plain base against the plain source."""
        _, trace = fitted("cdas-loreft", model, tmp_path, init=start(2))
        naive = naive_family.Naive(model.hf, model.tokenizer, [1])
        values = []
        for k in ORDER[0][:2]:
            item, _ = naive_family.cdas.items_of(model.tokenizer, PAIRS[k])
            p, q = naive.plain(item.base, item.response), naive.plain(item.source, item.response)
            m = torch.log((p.exp() + q.exp()) / 2)
            values.append(0.5 * (p.exp() * (p - m)).sum(-1) + 0.5 * (q.exp() * (q - m)).sum(-1))
        assert trace["jsd"][0] == pytest.approx(torch.cat(values).mean().item(), abs=1e-6)


class TestSeveralSites:
    @pytest.mark.parametrize(
        ("layers", "rank", "member"),
        [((1, 2), 1, "cdas"), ((0, 3), 1, "cdas"), ((1, 2, 3), 1, "cdas"), ((1, 2), 2, "cdas"),
         ((0, 3), 1, "pdas dpo"), ((1, 3), 2, "kldas reverse")],
    )  # fmt: skip
    def test_every_step_is_that_of_the_naive_loop(self, either, tmp_path, layers, rank, member):
        name, given, loss = MEMBERS[member]
        init = start(rank, len(layers))
        naive = naive_family.Naive(either.hf, either.tokenizer, layers)
        wanted = naive_family.train(naive, PAIRS, init, ORDER, loss, batch_size=2, lr=0.04)
        vector, trace = fitted(name, either, tmp_path, init=init, layer=layers, **given)
        assert_same_run(trace, wanted)
        moved = np.abs(trace["vecs"][-1] - trace["vecs"][0]).max(axis=(1, 2))
        assert moved.min() > 0.005, "every site is trained"
        assert [edit.intervention.site.layer for edit in vector.edits] == list(layers)
        for site, edit in enumerate(vector.edits):
            assert np.array_equal(edit.intervention.transform.directions.numpy(), trace["vecs"][-1][site])
            for side in ("positive", "negative"):
                prompts = [getattr(pair, f"{side}_input") for pair in PAIRS]
                wanted_mean = naive.factors(wanted["vecs"][-1][site], site, prompts).tolist()
                assert getattr(edit.factors, side).mean == pytest.approx(wanted_mean, abs=1e-4)

    @pytest.mark.parametrize(("rank", "shape"), [(1, (7, 2, WIDTH)), (2, (7, 2, 2, WIDTH))])
    def test_the_trace_holds_all_sites(self, model, tmp_path, rank, shape):
        tt.fit("cdas", model, PairSet(PAIRS), layer=(1, 2), rank=rank, epochs=2, batch_size=2, calibrate=False,
               trace=tmp_path / "t.npz")  # fmt: skip
        assert np.load(tmp_path / "t.npz")["vecs"].shape == shape

    def test_each_site_sets_its_own_coordinate_where_it_is_used(self, model):
        """Both clamps act in one forward: behind each block its coordinate is the class's own value."""
        vector = tt.fit("cdas", model, PairSet(PAIRS), layer=(1, 2), epochs=1, calibrate=False)
        ids = model.chat.render("Say something").ids
        with steer(model.hf, vector):
            seen = tt.capture(model.hf, [ids], [edit.intervention.site for edit in vector.edits])[0]
        for edit in vector.edits:
            coordinate = seen[edit.intervention.site][-1] @ edit.intervention.transform.directions[0]
            assert coordinate.item() == pytest.approx(edit.factors.positive.mean[0], abs=1e-4)

    @pytest.mark.parametrize("name", ["cdas", "cdas-loreft"])
    def test_saved_and_loaded_it_does_the_same_to_the_bit(self, model, tmp_path, name):
        vector = tt.fit(name, model, PairSet(PAIRS), layer=(0, 2, 3), epochs=1, rank=2, calibrate=False)
        again = SteeringVector.load(vector.save(tmp_path / "v"))
        assert again.content_hash == vector.content_hash
        assert again.settings["layer"] == [0, 2, 3]
        row = torch.tensor([model.chat.render("Say something about the sea").ids])
        outputs = []
        for one in (vector, again):
            with torch.no_grad(), steer(model.hf, one, multiplier=1.5):
                outputs.append(model.hf(row).logits)
        with torch.no_grad():
            plain = model.hf(row).logits
        assert torch.equal(*outputs)
        assert (outputs[0] - plain).abs().max() > 1e-3

    def test_the_order_of_the_layers_does_not_matter(self, model):
        made = [
            tt.fit("cdas", model, PairSet(PAIRS), layer=layers, epochs=1, calibrate=False)
            for layers in ([2, 1], (1, 2))
        ]
        assert made[0].content_hash == made[1].content_hash
        assert made[0].settings["layer"] == [1, 2]

    def test_one_layer_in_a_list_is_that_layer(self, model):
        made = [tt.fit("cdas", model, PairSet(PAIRS), layer=one, epochs=1, calibrate=False) for one in ([1], 1)]
        assert made[0].content_hash == made[1].content_hash
        assert made[0].settings == made[1].settings

    @pytest.mark.parametrize(
        ("layer", "said"),
        [([1, 1], "each once"), ([], "one block or several"), ([1, 9], "layer 9 does not exist"), ([1, -1], "layer is"),
         ([1, 2.0], "layer is"), ([1, True], "layer is")],
    )  # fmt: skip
    def test_what_is_no_set_of_layers_is_refused(self, model, layer, said):
        with pytest.raises(InputError, match=said):
            tt.fit("cdas", model, PairSet(PAIRS), layer=layer, epochs=1, calibrate=False)

    def test_start_vectors_need_a_site_each(self, model):
        with pytest.raises(InputError, match=r"2 sites need \(2, 1, 32\)"):
            tt.fit("cdas", model, PairSet(PAIRS), layer=(1, 2), epochs=1, calibrate=False, init=start()[0])

    def test_the_start_at_the_means_is_that_of_each_site(self, model, tmp_path):
        naive = naive_family.Naive(model.hf, model.tokenizer, [1, 3])
        _, trace = fitted_from_means(model, tmp_path)
        states = {
            side: torch.stack([
                naive.source_states(naive_family.cdas.prompt_ids(model.tokenizer, getattr(pair, f"{side}_input")))
                for pair in PAIRS
            ]).mean(dim=0)
            for side in ("positive", "negative")
        }  # fmt: skip
        difference = F.normalize(states["positive"] - states["negative"], dim=-1)
        assert np.abs(trace["vecs"][0].reshape(2, WIDTH) - difference.numpy()).max() < 1e-4


def fitted_from_means(model, tmp_path):
    vector = tt.fit("cdas", model, PairSet(PAIRS), layer=(1, 3), epochs=1, calibrate=False, start="means",
                    trace=tmp_path / "t.npz")  # fmt: skip
    return vector, dict(np.load(tmp_path / "t.npz"))


@pytest.fixture(scope="module")
def pairs_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    names = ("positive_input", "positive_output", "negative_input", "negative_output")
    rows = [{name: getattr(pair, name) for name in names} for pair in PAIRS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class TestCommandLine:
    def call(self, capsys, *words):
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    def test_several_layers(self, capsys, tiny_path, pairs_path, tmp_path):
        line = ["fit", "cdas", "--model", tiny_path, "--pairs", pairs_path, "--layer", "2,1", "--epochs", 1]
        out = self.call(capsys, *line, "--no-calibrate", "--out", tmp_path / "v", "--json")
        found = json.loads(out)
        assert [site["layer"] for site in found["sites"]] == [1, 2]
        vector = SteeringVector.load(tmp_path / "v")
        for site, edit in zip(found["sites"], vector.edits, strict=True):
            assert site["factors"]["positive"]["mean"] == pytest.approx(edit.factors.positive.mean[0])
        assert found["layer"] == 1
        assert found["factors"] == found["sites"][0]["factors"]

        described = json.loads(self.call(capsys, "inspect", tmp_path / "v", "--json"))
        assert "clamp" in json.dumps(described)
        assert "1, 2" in self.call(capsys, "inspect", tmp_path / "v")

        row = json.loads(self.call(capsys, *line[:-4], "--layer", 1, *line[-2:], "--no-calibrate", "--json",
                                   "--out", tmp_path / "w"))  # fmt: skip
        assert "sites" not in row

    def test_a_person_reads_the_factors_of_each_site(self, capsys, tiny_path, pairs_path, tmp_path):
        line = ["fit", "cdas", "--model", tiny_path, "--pairs", pairs_path, "--layer", "1,2", "--epochs", 1]
        out = self.call(capsys, *line, "--no-calibrate", "--out", tmp_path / "v")
        assert "at layer 1" in out
        assert "at layer 2" in out

    @pytest.mark.parametrize("layer", ["1,1", "1,,2", "1,auto", "1,x"])
    def test_what_is_no_list_of_layers_is_refused(self, capsys, tiny_path, pairs_path, tmp_path, layer):
        line = ["fit", "cdas", "--model", tiny_path, "--pairs", pairs_path, "--layer", layer, "--out", tmp_path / "v"]
        assert main([str(word) for word in line]) == 2
        said = capsys.readouterr().err
        assert "layer" in said
        assert "Traceback" not in said
        assert not (tmp_path / "v").exists()

    def test_a_low_rank_vector_is_described(self, capsys, tiny_path, pairs_path, tmp_path):
        line = ["fit", "cdas-loreft", "--model", tiny_path, "--pairs", pairs_path, "--layer", "1,2", "--epochs", 1]
        found = json.loads(self.call(capsys, *line, "--no-calibrate", "--out", tmp_path / "v", "--json"))
        assert found["factors"] is None
        assert "low_rank" in self.call(capsys, "inspect", tmp_path / "v", "--json")


CONCEPTS = {
    "refusal": PAIRS,
    "shouting": [ContrastPair(f"Shout the number {k}!", f" YES {k}", f"Say {k}, please.", " no") for k in range(3)],
    "alone": [ContrastPair("What is the sea?", " It is a lot of water", "Who", " I do not know who")],
}
"""Five, three and one pair: with two a step and two epochs, six, four and two steps."""

LOCKSTEP = {
    "cdas": Objective(jensen_shannon, "teacher"),
    "das": Objective(cross_entropy, "response"),
    "kldas": KLDASSettings(layer=1, divergence="reverse").objective,
    "pdas dpo": PDASSettings(layer=1, loss="dpo").objective,
    "pdas simpo": PDASSettings(layer=1).objective,
}


def pair_sets(concepts=CONCEPTS):
    return [PairSet(pairs, source=name) for name, pairs in concepts.items()]


def assert_same_fit(found, alone):
    """A fit in lockstep, and the same one alone: every step, every loss, the factors."""
    assert found.steps == alone.steps
    assert torch.equal(found.trace.n_tokens, alone.trace.n_tokens)
    cosine = F.cosine_similarity(found.trace.vectors, alone.trace.vectors, dim=-1)
    assert cosine.min() > 1 - 1e-6
    losses = alone.trace.losses
    assert ((found.trace.losses - losses).abs() / losses.clamp_min(1)).max() < 1e-6
    for ours, theirs in zip(found.factors, alone.factors, strict=True):
        for side in ("positive", "negative"):
            assert getattr(ours, side).mean == pytest.approx(getattr(theirs, side).mean, abs=1e-4)
            assert getattr(ours, side).n == getattr(theirs, side).n
    assert found.edit_ratio == pytest.approx(alone.edit_ratio, rel=1e-3)


class TestInLockstep:
    @pytest.mark.parametrize(("layer", "rank"), [(1, 1), (1, 2), ((1, 3), 1), ((0, 2), 2)])
    @pytest.mark.parametrize("member", LOCKSTEP)
    def test_concepts_come_out_as_alone(self, model, member, layer, rank):
        self.check(model, LOCKSTEP[member], layer=layer, rank=rank)

    @pytest.mark.parametrize("given", [{"weighting": "response"}, {"start": "means"}, {"max_tokens": 60},
                                       {"grad_clip": 0.02}, {"weight_decay": 0.1}, {"positions": "last"}])  # fmt: skip
    def test_whatever_the_settings(self, model, given):
        self.check(model, LOCKSTEP["cdas"], **given)

    @pytest.mark.parametrize("member", ["cdas", "pdas dpo"])
    def test_where_blocks_run_in_their_own_way(self, gemma, member):
        self.check(gemma, LOCKSTEP[member], layer=(1, 3), rank=2)

    def test_low_rank_edits(self, model):
        self.check(model, LOCKSTEP["cdas"], kind=LOW_RANK, rank=2, layer=(1, 2))

    def check(self, model, objective, kind=INTERCHANGE, **given):
        built = TrainSettings(**{"layer": 1, "epochs": 2, "batch_size": 2} | given)
        together = fit_interchanges(model, pair_sets(), built, objective, FitOptions(), kind)
        assert [fit.steps for fit in together] == [6, 4, 2]
        assert [fit.together for fit in together] == [3, 3, 3]
        for pairs, found in zip(pair_sets(), together, strict=True):
            alone = fit_interchange(model, pairs, built, objective, FitOptions(), kind)
            assert alone.together == 1
            assert_same_fit(found, alone)
            for name, value in alone.parameters.items():
                torch.testing.assert_close(found.parameters[name], value, rtol=0, atol=1e-4)
        ends = [fit.directions for fit in together]
        assert (ends[0] - ends[1]).abs().max() > 1e-3, "concepts differ"

    def test_progress_counts_the_steps_of_the_longest(self, model):
        reports = []
        built = TrainSettings(layer=1, epochs=2, batch_size=2)
        fit_interchanges(model, pair_sets(), built, LOCKSTEP["cdas"], FitOptions(progress=reports.append))
        steps = [(report.done, report.total) for report in reports if report.stage == "fit"]
        assert steps == [(k + 1, 6) for k in range(6)]

    def test_with_little_memory_they_take_turns(self, model):
        built = TrainSettings(layer=1, epochs=2, batch_size=2)
        options, objective = FitOptions(), LOCKSTEP["cdas"]
        alone = [fit_interchange(model, pairs, built, objective, options) for pairs in pair_sets()]
        sizes = [fit.plan.bytes for fit in alone]
        tight = replace(built, cache_bytes=max(sizes))
        found = fit_interchanges(model, pair_sets(), tight, objective, options)
        assert [fit.together for fit in found] == [1, 2, 2]
        assert {(fit.plan.base, fit.plan.teacher) for fit in found} == {(True, "log_probs")}
        assert all(fit.plan.bytes <= max(sizes) for fit in found)
        for ours, theirs in zip(found, alone, strict=True):
            assert_same_fit(ours, theirs)

    def test_with_no_memory_at_all(self, model):
        built = TrainSettings(layer=1, epochs=1, batch_size=2, cache_bytes=0)
        found = fit_interchanges(model, pair_sets(), built, LOCKSTEP["cdas"], FitOptions())
        kept = replace(built, cache_bytes=10**9)
        for pairs, ours in zip(pair_sets(), found, strict=True):
            theirs = fit_interchange(model, pairs, kept, LOCKSTEP["cdas"], FitOptions())
            assert (ours.plan.base, ours.plan.teacher) == (False, "none")
            assert F.cosine_similarity(ours.trace.vectors, theirs.trace.vectors, dim=-1).min() > 1 - 1e-5


GIVEN = {"layer": 1, "epochs": 2, "batch_size": 2, "calibrate": False}


class TestFitMany:
    @pytest.mark.parametrize("name", ["cdas", "das", "kldas", "pdas"])
    def test_each_concept_gets_the_vector_that_it_has_alone(self, model, name):
        found = tt.fit_many(name, model, CONCEPTS, **GIVEN)
        assert list(found) == list(CONCEPTS)
        for concept, vector in found.items():
            alone = tt.fit(name, model, PairSet(CONCEPTS[concept]), **GIVEN)
            assert vector.method == name
            assert vector.settings == alone.settings
            ours, theirs = (one.edits[0].intervention.transform for one in (vector, alone))
            assert F.cosine_similarity(ours.directions, theirs.directions).min() > 1 - 1e-6
            assert ours.values.tolist() == pytest.approx(theirs.values.tolist(), abs=1e-4)
            training = vector.provenance["training"]
            assert training["together"] == 3
            assert training["steps"] == alone.provenance["training"]["steps"]
            assert training["loss_last"] == pytest.approx(alone.provenance["training"]["loss_last"], rel=1e-5)
            assert vector.provenance["data"] == alone.provenance["data"]

    @pytest.mark.parametrize(("name", "given"), [("diffmean", {}), ("cdas-loreft", {"epochs": 1, "rank": 2})])
    def test_methods_that_train_one_at_a_time(self, model, name, given):
        found = tt.fit_many(name, model, CONCEPTS, layer=1, calibrate=False, **given)
        for concept, vector in found.items():
            alone = tt.fit(name, model, PairSet(CONCEPTS[concept]), layer=1, calibrate=False, **given)
            assert vector.content_hash == alone.content_hash

    @pytest.fixture
    def calibrations(self, monkeypatch):
        """What is asked of the search for multipliers, which takes minutes; it finds 2 and 0.5."""
        asked = []

        class Search:
            def __init__(self, model, split, progress):
                self.split = split

            def calibrated(self, vector):
                asked.append((vector, self.split))
                return replace(vector, multipliers={"elicit": 2.0, "suppress": 0.5})

        monkeypatch.setattr("trimtab.methods.registry.Search", Search)
        return asked

    def test_each_concept_is_calibrated_on_pairs_of_its_own(self, model, calibrations):
        many = [ContrastPair(f"Shout {k}!", " YES", f"Say {k}.", " no") for k in range(48)]
        found = tt.fit_many("cdas", model, {"few": PAIRS, "many": many}, layer=1, epochs=1)
        assert [dict(vector.multipliers) for vector in found.values()] == [{"elicit": 2.0, "suppress": 0.5}] * 2
        few, held_out = (split for _, split in calibrations)
        assert [*few.train] == [*few.calibration] == PAIRS
        assert (len(held_out.train), len(held_out.calibration)) == (32, 16)
        assert {*held_out.calibration} <= {*many} - {*held_out.train}
        for vector, split in calibrations:
            assert vector.provenance["data"]["hash"] == split.train.content_hash

    @pytest.mark.slow
    def test_the_vector_of_one_concept_is_that_of_a_fit_multipliers_included(self):
        hf, tokenizer = tiny_model("llama", hidden_size=WIDTH, n_blocks=4, seed=3, context_length=64)
        model = Model(hf, tokenizer, name="short")
        pairs = CONCEPTS["shouting"][:2]
        vector = tt.fit_many("cdas", model, {"shouting": pairs}, layer=1, epochs=1)["shouting"]
        alone = tt.fit("cdas", model, PairSet(pairs), layer=1, epochs=1)
        assert vector.multipliers
        assert "calibration" in vector.provenance
        assert vector.content_hash == alone.content_hash

    @pytest.mark.parametrize(
        ("given", "said"),
        [({"layer": "auto"}, "takes block numbers"), ({"layer": "middle"}, "takes block numbers"),
         ({"layer": [1, 1]}, "each once"), ({"layer": 9}, "layer 9"), ({"epoch": 1}, "did you mean 'epochs'"),
         ({"method": "cads"}, "did you mean 'cdas'"), ({"concepts": {}}, "no concepts")],
    )  # fmt: skip
    def test_what_cannot_be_fitted_is_refused(self, model, given, said):
        method, concepts = given.pop("method", "cdas"), given.pop("concepts", CONCEPTS)
        with pytest.raises(InputError, match=said) as error:
            tt.fit_many(method, model, concepts, **GIVEN | given)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("calibrate", [True, False])
    @pytest.mark.parametrize("method", ["cdas", "diffmean"])
    @pytest.mark.parametrize("empty", [[], PairSet([], source="nowhere")], ids=["list", "set"])
    def test_a_refusal_says_whose_pairs_it_is_about(self, model, method, calibrate, empty):
        with pytest.raises(InputError, match="poor one: "):
            tt.fit_many(method, model, {"good": PAIRS, "poor one": empty}, layer=1, calibrate=calibrate)

    @pytest.mark.parametrize("method", ["cdas", "diffmean"])
    def test_pairs_that_are_too_long_are_refused_before_the_work(self, model, method):
        long = [*PAIRS[:2], replace(PAIRS[0], positive_output=" no" * 600)]
        reports = []
        with pytest.raises(InputError, match="long one: 1 of 3 pairs"):
            tt.fit_many(method, model, {"good": PAIRS, "long one": long}, layer=1, progress=reports.append,
                        calibrate=False)  # fmt: skip
        assert reports == []
        given = {"layer": 1, "calibrate": False, "max_response_tokens": 5} | ({"epochs": 1} if method == "cdas" else {})
        assert len(tt.fit_many(method, model, {"good": PAIRS, "long one": long}, **given)) == 2

    @pytest.fixture
    def odd(self, model):
        """Concepts of which one has, in the answer of the last pair of its first epoch, a token that no other has."""
        last = int(example_order(None, 2, 3, 42)[0, -1])
        shouting = [replace(pair, positive_output=" YES @@ no" if k == last else pair.positive_output)
                    for k, pair in enumerate(CONCEPTS["shouting"])]  # fmt: skip
        concepts = {**CONCEPTS, "shouting": shouting}

        def tokens(pair):
            for side in ("positive", "negative"):
                prompt = model.chat.render(getattr(pair, f"{side}_input"))
                yield from prompt.ids + model.chat.response_ids(prompt, getattr(pair, f"{side}_output"))

        others = {token for name, pairs in concepts.items() for k, pair in enumerate(pairs)
                  if (name, k) != ("shouting", last) for token in tokens(pair)}  # fmt: skip
        answer = model.chat.response_ids(model.chat.render(shouting[last].positive_input), " YES @@ no")
        return concepts, next(token for token in answer[:-1] if token not in others)

    @pytest.fixture
    def allergic(self, odd, monkeypatch):
        """The loss of DAS is no number at that token."""
        concepts, token = odd

        def loss(logits, labels):
            found = cross_entropy(logits, labels)
            found.value[labels == token] = math.nan
            return found

        monkeypatch.setattr("trimtab.methods.das.cross_entropy", loss)
        return concepts

    @pytest.fixture
    def broken(self, odd):
        """A model that has no number for that token."""
        concepts, token = odd
        hf, tokenizer = tiny_model("llama", hidden_size=WIDTH, n_blocks=4, seed=3)
        with torch.no_grad():
            hf.get_input_embeddings().weight[token] = math.nan
        return Model(hf, tokenizer, name="tiny"), concepts

    def test_one_that_diverges_leaves_the_others_alone(self, model, allergic):
        given = GIVEN | {"batch_size": 1}
        found = tt.fit_many("das", model, allergic, **given)
        error = found["shouting"]
        assert isinstance(error, FitDivergedError)
        assert error.step == 2
        with pytest.raises(FitDivergedError) as alone:
            tt.fit("das", model, PairSet(allergic["shouting"]), **given)
        assert alone.value.step == 2
        ours, theirs = (one.last_good.edits[0].intervention.transform.directions for one in (error, alone.value))
        assert F.cosine_similarity(ours, theirs).min() > 1 - 1e-6
        begun = retract(random(42, 1, WIDTH))
        assert (ours - begun).abs().max() > 1e-3, "two good steps were made"
        for name in ("refusal", "alone"):
            whole = tt.fit("das", model, PairSet(allergic[name]), **given)
            ours, theirs = (one.edits[0].intervention.transform.directions for one in (found[name], whole))
            assert F.cosine_similarity(ours, theirs).min() > 1 - 1e-6
            assert found[name].provenance["training"]["steps"] == whole.provenance["training"]["steps"]

    def test_one_that_diverges_is_not_calibrated(self, model, allergic, calibrations):
        found = tt.fit_many(
            "das", model, allergic | {"alone": PAIRS[:2]}, **GIVEN | {"batch_size": 1, "calibrate": True}
        )
        assert isinstance(found["shouting"], FitDivergedError)
        assert [len(split.train) for _, split in calibrations] == [5, 2]
        assert not found["shouting"].last_good.multipliers
        assert found["refusal"].multipliers

    def test_states_that_are_no_numbers_where_one_is_trained_at_a_time(self, broken):
        broken, concepts = broken
        found = tt.fit_many("cdas-loreft", broken, concepts, **GIVEN)
        assert isinstance(found["shouting"], FitDivergedError)
        assert all(isinstance(found[name], SteeringVector) for name in ("refusal", "alone"))

    def test_states_that_are_no_numbers_leave_the_others_alone(self, broken):
        broken, concepts = broken
        found = tt.fit_many("cdas", broken, concepts, **GIVEN)
        assert isinstance(found["shouting"], FitDivergedError)
        assert all(isinstance(found[name], SteeringVector) for name in ("refusal", "alone"))
