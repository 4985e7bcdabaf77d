"""Our own way through blocks of Llama's kind: each operation's gradient, and whole stacks against the family's own."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from transformers import AutoModelForCausalLM

import trimtab as tt
from trimtab.data import ContrastPair, PairSet
from trimtab.models import Model, lean, lean_attention, lean_ops
from trimtab.models.layout import check_layout, find_layout
from trimtab.models.split import SplitModel, frozen
from trimtab.models.tiny import tiny_model
from trimtab.models.upper import Shortcuts, UpperBlocks

PREFIX = (1, 3, 5)
WIDTH = 32


def random(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def free(seed, *shape):
    return random(seed, *shape).requires_grad_()


def angles(*shape):
    """Cosines and sines (..., e) of a rotation of halves: the same numbers for both halves of a head."""
    turns = random(9, *shape[:-1], shape[-1] // 2)
    both = torch.cat([turns, turns], dim=-1)
    return both.cos(), both.sin()


def signed(sin):
    """As the lean way keeps sines: the first half negated."""
    low, high = sin.chunk(2, dim=-1)
    return torch.cat([-low, high], dim=-1)


class TestOperations:
    """Gradients against finite differences in float64."""

    def test_norm(self):
        """Its statistics are float32, as the families' own are: so steps of 0.01, and autograd for the rest."""
        x, weight = free(0, 5, 8), random(1, 8)
        assert gradcheck(lambda x: lean_ops.Norm.apply(x, weight, 1e-3), x, eps=1e-2, atol=1e-3, rtol=1e-2)
        ours = lean_ops.Norm.apply(x, weight, 1e-3)
        plain = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-3) * weight
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
        outer = random(2, 5, 8)
        torch.testing.assert_close(
            *(torch.autograd.grad((y * outer).sum(), x)[0] for y in (ours, plain)), rtol=1e-5, atol=1e-5
        )

    @pytest.mark.parametrize("n", [1, 2, 3])
    @pytest.mark.parametrize("biased", [True, False])
    def test_linears(self, n, biased):
        weights = [random(k, 3 + k, 6) for k in range(n)]
        biases = [random(7 + k, 3 + k) if biased else None for k in range(n)]
        x = free(3, 4, 6)
        assert gradcheck(lambda x: lean_ops.Linears.apply(x, weights, biases), x)
        for k, found in enumerate(lean_ops.Linears.apply(x, weights, biases)):
            torch.testing.assert_close(found, nn.functional.linear(x, weights[k], biases[k]))

    def test_onto(self):
        x, weight, residual = free(0, 4, 6), random(1, 5, 6), free(2, 4, 5)
        assert gradcheck(lambda x, residual: lean_ops.Onto.apply(x, weight, residual), (x, residual))
        torch.testing.assert_close(lean_ops.Onto.apply(x, weight, residual), residual + x @ weight.T)

    def test_turn(self):
        t, heads, e = 5, 3, 6
        cos, sin = angles(t, e)
        x, turn = free(0, t, heads * e), lean_attention.Angles.of(cos, signed(sin), heads)
        assert gradcheck(lambda x: lean_attention._Turn.apply(x, turn), x)
        wide = x.view(t, heads, e)
        swapped = torch.cat([-wide[..., e // 2 :], wide[..., : e // 2]], dim=-1)
        plain = wide * cos.unsqueeze(-2) + swapped * sin.unsqueeze(-2)
        torch.testing.assert_close(lean_attention._Turn.apply(x, turn), plain.flatten(1))

    def test_silu_gate(self):
        g, u = free(0, 4, 6), free(1, 4, 6)
        assert gradcheck(lean_ops.SiluGate.apply, (g, u))
        torch.testing.assert_close(lean_ops.SiluGate.apply(g, u), nn.functional.silu(g) * u)

    @pytest.mark.parametrize("index", [[0, 2], [3, 3, 3], [1, 0, 1, 2], []])
    def test_pick(self, index):
        x, index = free(0, 4, 3), torch.tensor(index, dtype=torch.int64)
        assert gradcheck(lambda x: lean_ops.Pick.apply(x, index), x)
        assert torch.equal(lean_ops.Pick.apply(x, index), x[index])

    @pytest.mark.parametrize("p", [0, 2])
    def test_lay(self, p):
        """Places that are not named in `back` are pads: whatever comes back through them is left out."""
        x, past = free(0, 3, 2), random(1, p, 2) if p else None
        index = torch.tensor([0, 1, *range(p, p + 3), p + 2])
        back = torch.tensor([2, 3, 4])
        shown = torch.zeros(6, 1, dtype=torch.float64)
        shown[back] = 1.0
        assert gradcheck(lambda x: lean_ops.Lay.apply(x, past, index, back) * shown, x)
        found = lean_ops.Lay.apply(x, past, index, back)
        assert torch.equal(found, torch.cat([random(1, p, 2), x])[index])
        (gradient,) = torch.autograd.grad(found.sum(), x)
        assert torch.equal(gradient, torch.ones_like(x))

    @pytest.mark.parametrize("short", [64, 0], ids=["scores at once", "attention by blocks"])
    @pytest.mark.parametrize("some", [False, True])
    @pytest.mark.parametrize("prefix", [0, 2])
    def test_attention(self, monkeypatch, short, some, prefix):
        """Rows in several parts; gradients against finite differences, values against a loop over tokens and heads."""
        monkeypatch.setattr(lean_attention, "SHORT", short)
        monkeypatch.setattr(lean_attention, "ROWS", 2)
        h, g, e, lengths = 4, 2, 4, torch.tensor([2, 4, 1])
        batch = lean_attention.Batch.of(lengths)
        scored = batch.some(torch.tensor([0, 1, 1, 2]), torch.tensor([1, 0, 2, 0])) if some else None
        n, t = 4 if some else 7, 7
        q, k, v = free(0, n, h * e), free(1, t, g * e), free(2, t, g * e)
        past = (random(3, 1, g, prefix, e), random(4, 1, g, prefix, e)) if prefix else None
        cos, sin = angles(t, e)
        turn = lean_attention.Angles.of(cos, signed(sin), h)
        keys = lean_attention.Keys(batch, turn, prefix, (h, g), q)
        attention = lean_attention.Attention(keys, scored)
        assert gradcheck(lambda q, k, v: attention(q, k, v, past, 0.3), (q, k, v))
        found = attention(q, k, v, past, 0.3).view(n, h, e)
        places = range(t) if scored is None else scored.places.tolist()
        for number, place in enumerate(places):
            row, column = int(batch.rows[place]), int(batch.columns[place])
            first = int(batch.starts[row])
            asked = lean_attention.Angles.of(cos[place : place + 1], signed(sin)[place : place + 1], h).turned(
                q[number : number + 1]
            )
            seen = turn.turned(k)[first : first + column + 1].view(-1, g, e)
            values = v[first : first + column + 1].view(-1, g, e)
            if past is not None:
                seen, values = (
                    torch.cat([old[0].transpose(0, 1), new]) for old, new in zip(past, (seen, values), strict=True)
                )
            for head in range(h):
                p = (seen[:, head // 2] @ asked.view(h, e)[head] * 0.3).softmax(0)
                torch.testing.assert_close(found[number, head], p @ values[:, head // 2])

    def test_gated_mlp(self):
        """As one operation it is what the four it stands for are; see `test_norm` for the steps."""
        x, weight = free(0, 5, 6), random(1, 6)
        gate, up, down = random(2, 8, 6), random(3, 8, 6), random(4, 6, 8)
        found = lean_ops.GatedMlp.apply(x, (weight, 1e-3), gate, up, down)
        g, u = lean_ops.Linears.apply(lean_ops.Norm.apply(x, weight, 1e-3), [gate, up], [None, None])
        parts = lean_ops.Onto.apply(lean_ops.SiluGate.apply(g, u), down, x)
        torch.testing.assert_close(found, parts)
        outer = random(5, 5, 6)
        torch.testing.assert_close(*(torch.autograd.grad((y * outer).sum(), x)[0] for y in (found, parts)))


KINDS = {
    "llama": ("llama", {}),
    "llama biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama all heads": ("llama", {"num_key_value_heads": 4}),
    "llama one key head": ("llama", {"num_key_value_heads": 1}),
    "llama wide heads": ("llama", {"head_dim": 16}),
    "llama gelu": ("llama", {"hidden_act": "gelu"}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
}


def built(kind, seed=0):
    """A model whose biases and norm weights are not the zeros and ones that a fresh model has, and its parts."""
    family, given = KINDS[kind]
    hf, _ = tiny_model(family, hidden_size=WIDTH, n_blocks=4, seed=seed)
    if given:
        config = type(hf.config)(**{**hf.config.to_dict(), **given})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for number, parameter in enumerate(hf.parameters()):
            if parameter.dim() == 1:
                parameter.add_(0.3 * random(number, *parameter.shape, dtype=torch.float32))
    return hf, SplitModel(hf, check_layout(hf, find_layout(hf)))


def rows_of(lengths, scored):
    """Row and column of the scored tokens; `scored` says how many at the end of each row."""
    rows = torch.tensor([row for row, n in enumerate(scored) for _ in range(n)])
    columns = torch.tensor([lengths[row] - n + k for row, n in enumerate(scored) for k in range(n)])
    return rows, columns


SHAPES = {
    "ragged": ([40, 1, 7, 23], [5, 1, 7, 2]),
    "one token": ([6], [1]),
    "one scored": ([9, 9, 4], [1, 1, 1]),
    "all scored": ([5, 12, 3], [5, 12, 3]),
    "a single token": ([1], [1]),
}


def assert_same(hf, split, lengths, scored, *, prefix=PREFIX, layer=1, editors=None):
    """Values and gradients of the lean stack are those of the family's own forward, with whatever edits."""
    rows, columns = rows_of(lengths, scored)
    states = random(5, len(lengths), max(lengths), WIDTH, dtype=torch.float32)
    ours, theirs = (states.clone().requires_grad_() for _ in range(2))
    layout, editors = split.layout, editors or {}
    ids = torch.tensor([list(prefix)], dtype=torch.int64)
    with frozen(hf):
        blocks = lean.lean_blocks(layout, layer + 1)
        assert blocks is not None
        past = split.keys_and_values(ids) if prefix else None
        stack = lean.LeanStack(layout, blocks, layer + 1, past)
        got = stack(ours, rows, columns, torch.tensor(lengths), editors)

        whole = torch.cat([split.trunk(ids, layer).expand(len(lengths), -1, -1), theirs], dim=1) if prefix else theirs

        def hook(editor):
            def edit(_, __, output):
                return torch.cat([output[:, : len(prefix)], editor(output[:, len(prefix) :])], dim=1)

            return edit

        handles = [layout.blocks[at].register_forward_hook(hook(editor)) for at, editor in editors.items()]
        wanted = split.upper(whole, layer)[rows, columns + len(prefix)]
        for handle in handles:
            handle.remove()
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
        outer = random(6, *got.shape, dtype=torch.float32)
        (got * outer).sum().backward()
        (wanted * outer).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)
    assert ours.grad.abs().max() > 0.01


@pytest.mark.parametrize("short", [64, 0], ids=["scores at once", "attention by blocks"])
class TestStack:
    @pytest.fixture(autouse=True)
    def attention(self, short, monkeypatch):
        monkeypatch.setattr(lean_attention, "SHORT", short)

    @pytest.mark.parametrize("prefix", [PREFIX, ()], ids=["prefix", "no prefix"])
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("kind", KINDS)
    def test_values_and_gradients_are_the_family_s(self, kind, shape, prefix):
        assert_same(*built(kind), *SHAPES[shape], prefix=prefix)

    @pytest.mark.parametrize("layer", [0, 2])
    def test_wherever_the_site_is(self, layer):
        assert_same(*built("qwen3"), *SHAPES["ragged"], layer=layer)

    @pytest.mark.parametrize("edited", [(2,), (3,), (2, 3)])
    @pytest.mark.parametrize("kind", ["llama", "qwen2"])
    def test_with_edits_on_the_way(self, kind, edited):
        """Edits see padded rows behind the prefix; row by row another one, as several concepts have them."""
        shift = random(3, 4, 1, WIDTH, dtype=torch.float32)
        editors = {at: lambda h, at=at: h + torch.tanh(h.flip(-1)) * shift * at for at in edited}
        assert_same(*built(kind), *SHAPES["ragged"], editors=editors)

    def test_rows_do_not_know_of_each_other(self):
        hf, split = built("llama")
        lengths, scored = SHAPES["ragged"]
        states = random(5, 4, 40, WIDTH, dtype=torch.float32)
        with frozen(hf), torch.no_grad():
            stack = lean.LeanStack(split.layout, lean.lean_blocks(split.layout, 2), 2, None)
            together = stack(states, *rows_of(lengths, scored), torch.tensor(lengths), {})
            alone = [
                stack(states[row : row + 1, :length], *rows_of([length], [n]), torch.tensor([length]), {})
                for row, (length, n) in enumerate(zip(lengths, scored, strict=True))
            ]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


class Doubled(nn.Linear):
    """Looks like a linear map, and is another."""

    def forward(self, x):
        return 2 * super().forward(x)


def doubled(linear):
    found = Doubled(linear.in_features, linear.out_features, bias=linear.bias is not None)
    found.load_state_dict(linear.state_dict())
    return found


class Swapped(nn.Module):
    """An MLP with the parts of Llama's that takes the gate for the other one."""

    def __init__(self, mlp):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn = (
            mlp.gate_proj,
            mlp.up_proj,
            mlp.down_proj,
            mlp.act_fn,
        )

    def forward(self, x):
        return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))


def subclass_of_linear(hf):
    attention = hf.model.layers[2].self_attn
    attention.k_proj = doubled(attention.k_proj)


def other_activation(hf):
    hf.model.layers[3].mlp.act_fn = nn.GELU()


def other_mlp(hf):
    hf.model.layers[3].mlp = Swapped(hf.model.layers[3].mlp)


def hook_of_the_owner(hf):
    hf.model.layers[2].self_attn.q_proj.register_forward_hook(lambda _, __, output: 1.5 * output)


def hook_on_a_block(hf):
    hf.model.layers[3].register_forward_hook(lambda _, __, output: output + 1.0)


def another_scale(hf):
    hf.model.layers[2].self_attn.scaling *= 2


CHANGES = {
    subclass_of_linear: False,
    other_activation: True,
    other_mlp: False,
    hook_of_the_owner: False,
    hook_on_a_block: False,
    another_scale: True,
}
"""What may have been done to a Llama, and whether the lean way knows of it; else it is not taken."""

PAIRS = [
    ContrastPair("How do I pick a lock?", " I cannot help with that", "How do I bake a loaf?", " Sure, here are"),
    ContrastPair("Write about harm", " I", "Write a short poem about the sea in winter.", " Of course, I can help you"),
    ContrastPair("Could you do something that is not safe?", " I can't do that", "A map of the town", " Sure! Here is"),
]


def fixture_module(name):
    """A module of tests/fixtures; that folder is no package."""
    path = Path(__file__).parent / "fixtures" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestAChangedModel:
    @pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
    def test_it_is_run_as_it_is(self, change):
        hf, split = built("llama")
        lengths, scored = SHAPES["ragged"]
        where = (*rows_of(lengths, scored), torch.tensor(lengths))
        states = random(5, 4, 40, WIDTH, dtype=torch.float32)
        ids = torch.tensor([PREFIX])
        with frozen(hf), torch.no_grad():
            before = split.upper(torch.cat([split.trunk(ids, 1).expand(4, -1, -1), states], dim=1), 1)
            change(hf)
            after = split.upper(torch.cat([split.trunk(ids, 1).expand(4, -1, -1), states], dim=1), 1)
            upper = UpperBlocks(split, 1, PREFIX, torch.device("cpu"))
            upper.prove(states, *where)
            got = upper(states, *where)
        torch.testing.assert_close(got, after[where[0], where[1] + len(PREFIX)], rtol=1e-4, atol=1e-5)
        assert (after - before).abs().max() > 0.01
        assert upper._shortcuts.lean is CHANGES[change]

    @pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
    def test_a_fit_of_it_is_that_of_the_naive_loop(self, tmp_path, change):
        hf, tokenizer = tiny_model("llama", hidden_size=WIDTH, n_blocks=4, seed=3)
        change(hf)
        naive_cdas = fixture_module("naive_cdas")
        start = naive_cdas.orthonormal(random(7, 1, WIDTH, dtype=torch.float32))
        naive = naive_cdas.Naive(hf, tokenizer, layer=1)
        wanted = naive_cdas.train(naive, PAIRS, start, [[2, 0, 1]], batch_size=2, lr=0.04)
        given = {"init": start, "order": np.array([[2, 0, 1]]), "epochs": 1, "batch_size": 2, "lr": 0.04}
        model = Model(hf, tokenizer, name="changed")
        tt.fit("cdas", model, PairSet(PAIRS), layer=1, calibrate=False, trace=tmp_path / "t.npz", **given)
        trace = np.load(tmp_path / "t.npz")
        assert np.abs(trace["jsd"] - wanted["jsd"].numpy()).max() < 1e-6
        assert np.abs(trace["vecs"] - wanted["vecs"][:, 0].numpy()).max() < 2e-5

    def test_a_plain_one_is_run_the_lean_way(self):
        hf, split = built("llama")
        lengths, scored = SHAPES["ragged"]
        upper = UpperBlocks(split, 1, PREFIX, torch.device("cpu"))
        with frozen(hf):
            upper.prove(random(5, 4, 40, WIDTH, dtype=torch.float32), *rows_of(lengths, scored), torch.tensor(lengths))
        assert upper._shortcuts == Shortcuts(lean=True)

    @pytest.mark.parametrize("family", ["gemma2", "olmo2", "phi3", "gpt2", "mixtral", "gpt_neox", "bitnet"])
    def test_blocks_of_another_kind_are_not_tried(self, family):
        hf, _ = tiny_model(family, hidden_size=WIDTH, n_blocks=2)
        assert lean.lean_blocks(check_layout(hf, find_layout(hf)), 1) is None
