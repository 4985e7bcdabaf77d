"""What `steer` leaves behind (nothing), whom it lives with (other people's hooks, wrappers), and what it refuses."""

import contextlib
import copy

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from tests.families import (
    DEPTH,
    FAMILIES,
    HEAD,
    MAIN,
    WIDTH,
    before,
    blocks_of,
    edit,
    editing,
    ids_of,
    model_of,
    normal,
    push,
    run,
    seeing_edits,
    steering,
    unit,
)
from trimtab.errors import InputError
from trimtab.models import Model, steer, tiny
from trimtab.models.tiny import tiny_model
from trimtab.steering import Add, Clamp, Edit, Factors, FactorStats, ModelCard, Site, SteeringVector

IDS = ids_of(2, 7)

EVERYWHERE = steering(
    edit(Add(normal(WIDTH)), Site(0, "resid_pre")),
    edit(Add(normal(WIDTH)), 2),
    edit(Add(normal(HEAD)), Site(1, "attn_in", head=1)),
    edit(Add(normal(WIDTH)), Site(1, "attn_out")),
    edit(Add(normal(2 * WIDTH)), Site(1, "mlp_act")),
    edit(Add(normal(WIDTH)), Site(1, "mlp_out")),
    edit(Add(normal(WIDTH)), Site(1, "norm_out", part=1)),
)


def snapshot(hf):
    """Everything about a model that steering could have left changed."""
    hooks = {
        (path, name): list(getattr(module, name).items())
        for path, module in hf.named_modules()
        for name in vars(module)
        if "hooks" in name and isinstance(getattr(module, name), dict)
    }
    attributes = {path: sorted(vars(module)) for path, module in hf.named_modules()}
    modes = {path: module.training for path, module in hf.named_modules()}
    weights = {name: (id(p), p.requires_grad, p.detach().clone()) for name, p in hf.named_parameters()}
    return hooks, attributes, modes, weights, copy.deepcopy(hf.generation_config.to_dict())


def same(one, other):
    weights = zip(one[3].items(), other[3].items(), strict=True)
    return (
        one[:3] == other[:3]
        and one[4] == other[4]
        and all(a == b and v[:2] == w[:2] and torch.equal(v[2], w[2]) for (a, v), (b, w) in weights)
    )


def generate(hf, ids=IDS, **settings):
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, **settings}
    return hf.generate(ids, attention_mask=torch.ones_like(ids), **settings)


class TestLeaving:
    @pytest.mark.parametrize("family", MAIN)
    def test_restores_the_model_bit_for_bit(self, family):
        hf = model_of(family)
        plain, before = run(hf, IDS), snapshot(hf)
        with steer(hf, EVERYWHERE):
            assert not torch.equal(run(hf, IDS), plain)
            generate(hf)
            assert not same(snapshot(hf), before)
        assert same(snapshot(hf), before)
        assert torch.equal(run(hf, IDS), plain)

    def test_after_an_exception_in_the_context_and_one_in_a_forward(self):
        hf = model_of("llama")
        plain, before = run(hf, IDS), snapshot(hf)
        with pytest.raises(KeyError), steer(hf, EVERYWHERE):
            raise KeyError
        assert same(snapshot(hf), before)

        def fail(state):
            raise ZeroDivisionError

        with editing(blocks_of(hf, "llama")[1], "in", fail), pytest.raises(ZeroDivisionError), steer(hf, EVERYWHERE):
            run(hf, IDS)
        assert same(snapshot(hf), before)
        assert torch.equal(run(hf, IDS), plain)

    def test_a_forward_that_failed_does_not_disturb_the_next(self):
        hf = model_of("llama")
        with steer(hf, push(positions="prompt", prefix=(1, 9))):
            expected = run(hf, IDS)
            with pytest.raises(IndexError):
                run(hf, IDS + 10_000)
            assert torch.equal(run(hf, IDS), expected)

    def test_a_part_that_runs_by_itself_is_no_forward(self):
        """Also after a forward that failed half-way: its rows are not those of what comes next."""
        hf = model_of("llama")
        mlp = blocks_of(hf, "llama")[1].mlp
        with steer(hf, push(site=Site(1, "mlp_out"))):
            for ids in (IDS, IDS + 10_000):
                with contextlib.suppress(IndexError):
                    run(hf, ids)
                with pytest.raises(InputError, match="ran outside a forward of the model"):
                    mlp(torch.zeros(2, 7, WIDTH))

    def test_after_a_refusal(self):
        hf = model_of("llama")
        before = snapshot(hf)
        with pytest.raises(InputError), steer(hf, [push(), push(site=DEPTH)]):
            pass
        assert same(snapshot(hf), before)

    def test_nothing_is_touched_for_plain_rows_alone(self):
        hf = model_of("llama")
        before = snapshot(hf)
        with steer(hf, None):
            assert same(snapshot(hf), before)
        with steer(hf, [None, None]):
            assert same(snapshot(hf), before)

    def test_a_generate_and_a_forward_of_the_object_itself_come_back(self):
        """As accelerate's dispatch leaves them."""
        hf, _ = tiny_model("llama")
        calls = []
        forward, plain_generate = hf.model.forward, hf.generate
        hf.model.forward = lambda *args, **kwargs: calls.append("forward") or forward(*args, **kwargs)
        hf.generate = lambda *args, **kwargs: calls.append("generate") or plain_generate(*args, **kwargs)
        before = snapshot(hf)
        with steer(hf, push()):
            steered = generate(hf, max_new_tokens=1)
        assert same(snapshot(hf), before)
        assert calls == ["generate", "forward"]
        with steer(model_of("llama"), push()):
            assert torch.equal(generate(model_of("llama"), max_new_tokens=1), steered)

    def test_training_mode_and_dropout_stay(self):
        hf, _ = tiny_model("gpt2")
        hf.train()
        with steer(hf, push()):
            assert all(module.training for module in hf.modules())
            torch.manual_seed(0)
            first = run(hf, IDS)
            assert not torch.equal(run(hf, IDS), first)  # dropout is at work
            torch.manual_seed(0)
            assert torch.equal(run(hf, IDS), first)
        assert all(module.training for module in hf.modules())


UNSEEN = before("5.2", "output_hidden_states shows the states of this family from before the edit")
SHOWN = ("gpt2", "falcon", "gpt_neox", "opt")
"""Families that have always collected their states in a forward of their own."""


class TestOtherHooks:
    @pytest.mark.parametrize("family", MAIN)
    @pytest.mark.parametrize("first", [True, False], ids=["before", "inside"])
    def test_a_reader_sees_the_steered_state(self, family, first):
        hf, v = model_of(family), normal(WIDTH)
        block = blocks_of(hf, family)[1]
        plain, seen = [], []
        with editing(block, "out", lambda state: plain.append(state) or state):
            run(hf, IDS)
        reader = editing(block, "out", lambda state: seen.append(state) or state)
        steered = steer(hf, steering(Add(v)))
        with reader if first else steered, steered if first else reader:
            run(hf, IDS)
        torch.testing.assert_close(seen[0], plain[0] + v)

    @pytest.mark.parametrize("first", [True, False], ids=["before", "inside"])
    def test_a_writer_writes_onto_the_steered_state(self, first):
        """Clamp to 5, then the user's hook doubles the state: 10, whoever came first."""
        hf, w = model_of("llama"), unit()
        block = blocks_of(hf, "llama")[1]
        writer = editing(block, "out", lambda state: 2 * state)
        clamped = steer(hf, steering(Clamp(w, torch.tensor(5.0))))
        seen = []
        reader = editing(block, "out", lambda state: seen.append(state) or state)
        with writer if first else clamped, clamped if first else writer, reader:
            run(hf, IDS)
        torch.testing.assert_close(seen[0] @ w, torch.full((2, 7), 10.0), rtol=0, atol=1e-5)

    def test_a_hook_registered_inside_survives_leaving(self):
        hf = model_of("llama")
        calls = []
        with steer(hf, push()):
            handle = blocks_of(hf, "llama")[1].register_forward_hook(lambda *_: calls.append(1))
        run(hf, IDS)
        handle.remove()
        assert calls == [1]

    @pytest.mark.parametrize(
        "family", [pytest.param(name, marks=[] if name in SHOWN else [UNSEEN]) for name in FAMILIES]
    )
    def test_output_hidden_states_shows_the_steered_state_in_either_order(self, family):
        """transformers collects these by hooks of its own, installed at the first request and kept."""
        (fresh, _), v = tiny_model(family), normal(WIDTH)
        shown = {}
        for order in ("steering first", "collector first"):
            with steer(fresh, steering(Add(v))), torch.no_grad():
                seen = []
                with editing(blocks_of(fresh, family)[1], "out", lambda state, seen=seen: seen.append(state) or state):
                    shown[order] = fresh(IDS, output_hidden_states=True).hidden_states
            assert torch.equal(shown[order][2], seen[0])
        plain = fresh(IDS, output_hidden_states=True).hidden_states
        for k in range(DEPTH + 1):
            assert torch.equal(shown["steering first"][k], shown["collector first"][k])
            assert torch.equal(shown["steering first"][k], plain[k]) == (k < 2)
        torch.testing.assert_close(shown["steering first"][2], plain[2] + v)


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


class TestWrapped:
    @pytest.mark.parametrize("family", MAIN)
    def test_inside_other_modules(self, family):
        hf = model_of(family)
        outer = Wrapped(Wrapped(hf))
        plain = run(hf, IDS)
        with steer(hf, EVERYWHERE):
            expected, tokens = run(hf, IDS), generate(hf)
        with steer(outer, EVERYWHERE):
            assert torch.equal(run(outer, IDS), expected)
            assert torch.equal(generate(hf), tokens)
            with pytest.raises(InputError, match="steered already"), steer(hf, push()):
                pass
        assert torch.equal(run(outer, IDS), plain)

    def test_the_stack_alone(self):
        """`AutoModel` gives the blocks without a head."""
        hf = model_of("llama")
        with steer(hf, push()), torch.no_grad():
            expected = hf.model(IDS).last_hidden_state
        with steer(hf.model, push()), torch.no_grad():
            assert torch.equal(hf.model(IDS).last_hidden_state, expected)


def compiled_as_a_whole(hf):
    return torch.compile(hf, backend="eager")


def compiled_in_place(hf):
    hf.compile(backend="eager")
    return hf


def compiled_block(hf):
    hf.model.layers[1] = torch.compile(hf.model.layers[1], backend="eager")
    return hf


def compiled_block_in_place(hf):
    hf.model.layers[1].compile(backend="eager")
    return hf


def compiled_stack(hf):
    hf.model = torch.compile(hf.model, backend="eager")
    return hf


def compiled_forward(hf):
    hf.forward = torch.compile(hf.forward, backend="eager")
    return hf


class TestCompiled:
    @pytest.mark.parametrize(
        "compiled",
        [
            compiled_as_a_whole,
            compiled_in_place,
            compiled_block,
            compiled_block_in_place,
            compiled_stack,
            compiled_forward,
        ],
    )
    def test_is_refused_with_the_remedy(self, compiled):
        hf = compiled(tiny_model("llama").hf)
        with pytest.raises(InputError, match=r"is compiled .*; steer the plain model") as error, steer(hf, push()):
            pass
        assert "\n" not in str(error.value)

    def test_a_wrapper_around_the_compiled_model_does_not_hide_it(self):
        outer = Wrapped(compiled_as_a_whole(model_of("llama")))
        with pytest.raises(InputError, match="compiled"), steer(outer, push()):
            pass

    def test_the_remedy_works(self):
        hf = model_of("llama")
        outer = compiled_as_a_whole(hf)
        with steer(outer._orig_mod, push()):
            steered = run(hf, IDS)
        assert not torch.equal(run(hf, IDS), steered)

    def test_a_compiled_part_is_refused_only_where_it_matters(self):
        hf, _ = tiny_model("llama")
        with steer(hf, push(site=Site(2, "mlp_out"))):
            expected = run(hf, IDS)
        hf.model.layers[1].mlp.compile(backend="eager")
        with steer(hf, push(site=Site(2, "mlp_out"))):
            torch.testing.assert_close(run(hf, IDS), expected)
        for site in (Site(1, "mlp_out"), Site(1, "mlp_act")):
            inside = steering(edit(Add(normal(WIDTH if site.kind == "mlp_out" else 2 * WIDTH)), site))
            with pytest.raises(InputError, match=r"compiled \(model.layers.1.mlp\)"), steer(hf, inside):
                pass

    @before("5.23", "a function that was compiled around the model runs without the edit")
    def test_a_compiled_function_around_the_model_is_not_skipped(self):
        """It was traced before there were hooks, and torch would run that trace; nobody can see that from the model."""
        hf, _ = tiny_model("llama")
        outer = compiled_as_a_whole(hf)
        plain = run(outer, IDS)
        with steer(hf, push()):
            torch.testing.assert_close(run(outer, IDS), run(hf, IDS))
        assert torch.equal(run(outer, IDS), plain)


class TestRefusals:
    def test_nested(self):
        hf = model_of("llama")
        with steer(hf, push()):
            with pytest.raises(InputError, match=r"steered already; compose"), steer(hf, push()):
                pass
            expected = run(hf, IDS)
        with steer(hf, push()):
            assert torch.equal(run(hf, IDS), expected)

    @pytest.mark.parametrize(
        ("what", "message"),
        [
            (steering(Add(normal(WIDTH)), hidden_size=32), "made for a model with hidden size 32, this one has 64"),
            (steering(Add(normal(WIDTH)), n_blocks=2), "made for a model with number of blocks 2, this one has 4"),
            (push(site=4), "no site resid_post@4; the model has blocks 0 to 3"),
            (steering(Add(normal(1))), "has width 1, the model's hidden size is 64"),
            (steering(Add(normal(63))), "has width 63, the model's hidden size is 64"),
            ([], "the list of steerings is empty"),
            ("vectors/mood", "cannot steer with a str; give a SteeringVector"),
            ([3], "cannot steer with a int"),
        ],
    )
    def test_before_anything_runs(self, what, message):
        with pytest.raises(InputError, match=message) as error, steer(model_of("llama"), what):
            pass
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("site", [Site(1, "mlp_act"), Site(1, "attn_in", head=0), Site(1, "attn_out")])
    def test_a_width_that_no_state_there_has(self, site):
        """A width of 1 would broadcast without a word."""
        hf = model_of("llama")
        for width in (1, 33):
            wrong = steering(edit(Add(normal(width)), site))
            with pytest.raises(InputError, match=f"has width {width}, the state there"), steer(hf, wrong):
                run(hf, IDS)

    def test_a_vector_for_another_model(self):
        stats = FactorStats((1.0,), (0.1,), 2)
        learned = Edit(edit(Clamp(unit(32), torch.tensor(1.0))), Factors(stats, stats))
        vector = SteeringVector("cdas", ModelCard("other", 32, 4), (learned,))
        with pytest.raises(InputError, match="hidden size"), steer(model_of("llama"), vector):
            pass

    @pytest.mark.parametrize(
        ("what", "message"),
        [
            (nn.Linear(2, 2), "Linear is no Hugging Face model and holds none"),
            (T5ForConditionalGeneration, "is an encoder-decoder; trimtab steers decoder-only"),
            (Model, r"Model is no torch module; give the Hugging Face model \(model.hf"),
        ],
    )
    def test_what_is_no_decoder(self, what, message):
        if what is T5ForConditionalGeneration:
            what = what(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2))
        if what is Model:
            what = Model(*tiny.tiny_model("llama"))
        with pytest.raises(InputError, match=message), steer(what, push()):
            pass

    def test_an_encoder(self):
        bert = BertModel(BertConfig(vocab_size=32, hidden_size=64, num_hidden_layers=4, num_attention_heads=4))
        with pytest.raises(InputError, match=r"around encoder.layer reads no token ids"), steer(bert, push()):
            pass

    @pytest.mark.parametrize("rows", [1, 2, 5])
    def test_a_batch_that_does_not_fit_the_entries(self, rows):
        hf = model_of("llama")
        with (
            pytest.raises(InputError, match=f"steering has 3 entries but the batch has {rows} rows"),
            steer(hf, [push(), None, push()]),
        ):
            run(hf, ids_of(rows, 4))

    def test_prompt_lengths_that_do_not_fit(self):
        hf = model_of("llama")
        with (
            pytest.raises(InputError, match="prompt_lengths has 3 entries but the batch has 2 rows"),
            steer(hf, push(), prompt_lengths=[3, 3, 3]),
        ):
            run(hf, IDS)


def test_seeing_edits():
    """The tests' own instrument: it must see an edit, and none where there is none."""
    hf = model_of("llama")
    with steer(hf, [push(), None]), seeing_edits(hf, "llama") as edits:
        run(hf, IDS)
    assert edits[0].tolist() == [[True] * 7, [False] * 7]
