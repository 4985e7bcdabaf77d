"""The numbers of an edit: several clamps at once, gates and strengths, half precision, autocast and gradients."""

import pytest
import torch

from tests.families import (
    FAMILIES,
    MAIN,
    TRANSFORMS,
    WIDTH,
    blocks_of,
    edit,
    editing,
    ids_of,
    model_of,
    normal,
    place_of,
    push,
    run,
    steering,
    unit,
)
from trimtab.errors import InputError
from trimtab.models import steer
from trimtab.models.tiny import tiny_model
from trimtab.steering import Ablate, Add, Clamp, Intervention, Positions, ProjectionGate, Site, SiteEdit, Steering

IDS = ids_of(2, 7)


def states(hf, what, site=1, *, family="llama", ids=IDS, **settings):
    """The raw and the steered state at a site, by a hook before and one after the steering's."""
    module, side = place_of(hf, family, Site(site) if isinstance(site, int) else site)
    seen = []
    with editing(module, side, lambda state: seen.append(state.clone()) or state):
        run(hf, ids)
        with steer(hf, what, **settings):
            run(hf, ids)
    return seen


def values_of(state, *rows):
    return torch.stack([state @ row for row in rows], dim=-1)


def close(found, *expected):
    torch.testing.assert_close(found, torch.tensor(expected).expand_as(found), rtol=0, atol=1e-4)


A, B, C = unit(seed=1), torch.nn.functional.normalize(unit(seed=1) + 0.8 * unit(seed=2), dim=0), unit(seed=3)


class TestClampsTogether:
    @pytest.mark.parametrize("family", MAIN)
    def test_each_coordinate_ends_at_its_value(self, family):
        """The directions are far from orthogonal: one after the other would undo the first."""
        one, two = Clamp(A, torch.tensor(5.0)), Clamp(torch.stack([B, C]), torch.tensor([-4.0, 3.0]))
        what = steering(one, two)
        raw, steered = states(model_of(family), what, family=family)
        close(values_of(steered, A, B, C), 5.0, -4.0, 3.0)
        span = torch.linalg.qr(torch.stack([A, B, C]).T).Q
        rest = [state - (state @ span) @ span.T for state in (raw, steered)]
        torch.testing.assert_close(*rest, rtol=0, atol=1e-4)

    def test_sums_of_steerings_are_one_list(self):
        one, two = (
            steering(Clamp(A, torch.tensor(5.0)), label="one"),
            steering(Clamp(B, torch.tensor(-4.0)), label="two"),
        )
        hf = model_of("llama")
        for total in (one + two, two + one):
            close(values_of(states(hf, total)[1], A, B), 5.0, -4.0)
        assert (one + two).label == "one + two"
        listed = states(hf, steering(Clamp(A, torch.tensor(5.0)), Clamp(B, torch.tensor(-4.0))))[1]
        assert torch.equal(states(hf, one + two)[1], listed)

    def test_where_only_one_reaches_it_acts_alone(self):
        """Different positions: the last token gets both, the others only theirs."""
        everywhere, last = Clamp(A, torch.tensor(5.0)), edit(Clamp(B, torch.tensor(-4.0)), 1, "last")
        hf = model_of("llama")
        steered = states(hf, steering(edit(everywhere), last))[1]
        close(values_of(steered[:, -1], A, B), 5.0, -4.0)
        alone = states(hf, steering(everywhere))[1]
        torch.testing.assert_close(steered[:, :-1], alone[:, :-1], rtol=0, atol=1e-5)

    def test_prompt_and_response_may_clamp_alike(self):
        """They never meet, so one direction at two values is no contradiction, even in a forward that holds both."""
        what = steering(
            edit(Clamp(A, torch.tensor(5.0)), 1, "prompt"),
            edit(Clamp(A, torch.tensor(-5.0)), 1, "response"),
            edit(Clamp(C, torch.tensor(2.0))),
        )
        steered = states(model_of("llama"), what, prompt_lengths=[3, 5])[1]
        close(values_of(steered, C), 2.0)
        expected = torch.tensor([[5.0] * 3 + [-5.0] * 4, [5.0] * 5 + [-5.0] * 2])
        torch.testing.assert_close(steered @ A, expected, rtol=0, atol=1e-4)

    def test_strengths_go_part_of_the_way(self):
        one, two = Clamp(A, torch.tensor(5.0)), Clamp(B, torch.tensor(-4.0))
        what = steering(edit(one, strength=0.25), edit(two, strength=0.5))
        raw, steered = states(model_of("llama"), what)
        wanted = values_of(raw, A, B)
        wanted = wanted + torch.tensor([0.25, 0.5]) * (torch.tensor([5.0, -4.0]) - wanted)
        torch.testing.assert_close(values_of(steered, A, B), wanted, rtol=0, atol=1e-4)

    def test_strength_zero_takes_no_part(self):
        hf = model_of("llama")
        off = edit(Clamp(B, torch.tensor(-4.0)), strength=0.0)
        raw, steered = states(hf, steering(off))
        assert torch.equal(raw, steered)
        alone = states(hf, steering(Clamp(A, torch.tensor(5.0))))[1]
        both = states(hf, steering(edit(Clamp(A, torch.tensor(5.0))), off))[1]
        torch.testing.assert_close(both, alone, rtol=0, atol=1e-5)

    def test_gates_open_it_token_by_token(self):
        hf = model_of("llama")
        raw = states(hf, None)[0]
        threshold = (raw @ C).median().item()
        gated = edit(Clamp(B, torch.tensor(-4.0)), gate=ProjectionGate(C, threshold))
        steered = states(hf, steering(edit(Clamp(A, torch.tensor(5.0))), gated))[1]
        opened = raw @ C > threshold
        assert 0 < opened.sum() < opened.numel()
        close(values_of(steered[opened], A, B), 5.0, -4.0)
        alone = states(hf, steering(Clamp(A, torch.tensor(5.0))))[1]
        torch.testing.assert_close(steered[~opened], alone[~opened], rtol=0, atol=1e-5)

    def test_a_soft_gate_reads_the_state_before_the_first_edit(self):
        gate = ProjectionGate(A, 0.5, sharpness=2.0)
        what = steering(edit(Add(3 * A)), edit(Add(2 * C), gate=gate, strength=0.5))
        raw, steered = states(model_of("llama"), what)
        opened = torch.sigmoid(2.0 * (raw @ A - 0.5))
        torch.testing.assert_close(steered, raw + 3 * A + (0.5 * opened)[..., None] * 2 * C, rtol=0, atol=1e-5)

    def test_other_edits_keep_their_place_in_the_list(self):
        hf = model_of("llama")
        clamp, add = Clamp(A, torch.tensor(5.0)), Add(2 * A)
        close(values_of(states(hf, steering(clamp, add))[1], A), 7.0)
        close(values_of(states(hf, steering(add, clamp))[1], A), 5.0)
        both = steering(clamp, Ablate(torch.stack([A, C])), Clamp(B, torch.tensor(1.0)))
        close(values_of(states(hf, both)[1], A, C), 0.0, 0.0)

    @pytest.mark.parametrize("other", [A, -A, A + 1e-3 * C], ids=["same", "opposite", "nearly"])
    def test_contradictions_are_refused_when_they_are_put_together(self, other):
        one, two = steering(Clamp(A, torch.tensor(5.0))), steering(Clamp(other, torch.tensor(1.0)))
        with pytest.raises(InputError, match="nearly parallel") as error:
            one + two
        assert "\n" not in str(error.value)
        two_sites = one + steering(edit(Clamp(other, torch.tensor(1.0)), 2))
        assert len(two_sites.interventions) == 2

    def test_two_sites_each_read_what_arrives(self):
        """The second clamp moves the coordinate from where the first, the block between and the model left it."""
        hf = model_of("llama")
        one, two = edit(Clamp(A, torch.tensor(5.0)), 1), edit(Clamp(A, torch.tensor(-2.0)), 2, strength=0.5)
        arrived = states(hf, steering(one), 2)[1]
        left = states(hf, steering(two, one), 2)[1]
        close(values_of(states(hf, steering(two, one), 1)[1], A), 5.0)
        torch.testing.assert_close(left @ A, 0.5 * (arrived @ A) - 1.0, rtol=0, atol=1e-4)

    def test_a_head_and_the_whole_at_one_module(self):
        """The whole first, then its head: an order that does not hang on the order in the list."""
        hf, site = model_of("llama"), Site(1, "attn_in")
        whole = edit(Add(normal(WIDTH, seed=5)), site)
        head = edit(Clamp(unit(16, seed=6), torch.tensor(3.0)), Site(1, "attn_in", head=2))
        for order in ((whole, head), (head, whole)):
            steered = states(hf, steering(*order), site)[1]
            close(steered[..., 32:48] @ unit(16, seed=6), 3.0)


HALF = (torch.bfloat16, torch.float16)


class TestHalfPrecision:
    @pytest.mark.parametrize("name", TRANSFORMS)
    @pytest.mark.parametrize("dtype", HALF, ids=str)
    def test_computed_in_float32(self, dtype, name):
        """The float32 formula on the raw state, rounded once at the end.

        The formula's sums run in another order, so a few entries in a thousand may round the other way; sums in half
        precision would miss nearly all.
        """
        hf, _ = tiny_model("llama", dtype=dtype)
        formula = TRANSFORMS[name](WIDTH)
        raw, steered = states(hf, steering(edit(formula.transform, 1, "l3")))
        wanted = formula.plain(raw.float()).to(dtype)
        assert steered.dtype == dtype
        assert (steered == wanted)[:, -3:].float().mean() > 0.99
        torch.testing.assert_close(steered[:, -3:], wanted[:, -3:], rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
        assert torch.equal(steered[:, :-3], raw[:, :-3])

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("dtype", HALF, ids=str)
    def test_unedited_tokens_and_rows_keep_every_bit(self, dtype, family):
        hf, _ = tiny_model(family, dtype=dtype)
        what = [push(positions="last"), None]
        raw, steered = states(hf, what, family=family)
        assert steered.dtype == dtype
        assert torch.equal(steered[0, :-1], raw[0, :-1])
        assert torch.equal(steered[1], raw[1])
        assert not torch.equal(steered[0, -1], raw[0, -1])
        with steer(hf, what):
            logits = run(hf, IDS)
        plain = run(hf, IDS)
        assert logits.dtype == plain.dtype
        if FAMILIES[family].apart:
            assert torch.equal(logits[1], plain[1])
            assert torch.equal(logits[0, :-1], plain[0, :-1])

    @pytest.mark.parametrize("name", ["clamp_1", "clamp_2", "ablate"])
    def test_autocast_does_not_reach_in(self, name):
        """Autocast would run the edit's matrix products in bfloat16."""
        hf, formula = model_of("llama"), TRANSFORMS[name](WIDTH)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            raw, steered = states(hf, steering(formula.transform, edit(Clamp(C, torch.tensor(1.0)), 2)))
        torch.testing.assert_close(steered, formula.plain(raw), rtol=1e-4, atol=1e-4)

    def test_what_is_not_edited_is_not_even_computed_with(self):
        """Zero times infinity is no number, and minus zero plus zero is plus zero."""
        h = normal(1, 4, WIDTH)
        h[0, 0], h[0, 1], h[0, 2] = torch.inf, -0.0, torch.nan
        mask = torch.tensor([[False, False, False, True]])
        for name in TRANSFORMS:
            done = SiteEdit.build([edit(TRANSFORMS[name](WIDTH).transform)], h.device)(h, [mask])
            assert torch.equal(done.view(torch.int32)[:, :3], h.view(torch.int32)[:, :3])
            assert torch.isfinite(done[:, 3]).all()

    def test_double_stays_double(self):
        hf, _ = tiny_model("llama", dtype=torch.float64)
        steered = states(hf, steering(Clamp(A, torch.tensor(5.0))))[1]
        assert steered.dtype == torch.float64
        # A is a unit vector up to float32 rounding, and the clamp knows its length.
        torch.testing.assert_close(steered @ A.double(), torch.full((2, 7), 5.0).double(), rtol=0, atol=1e-6)


def gradients(hf, what, batches, *, sequences=None):
    """Gradients of all weights: every forward first, then every backward."""
    hf.zero_grad()
    with steer(hf, what):
        losses = [hf(ids, labels=ids, use_cache=False).loss for ids in batches]
        for loss in losses if sequences is None else [losses[k] for k in sequences]:
            loss.backward()
    return {name: p.grad.clone() for name, p in hf.named_parameters() if p.grad is not None}


TRAINED = steering(
    edit(Clamp(torch.stack([A, B]), torch.tensor([3.0, -2.0])), Site(1, "resid_pre"), "response"),
    edit(Ablate(C), 2),
    edit(Add(normal(WIDTH)), 0, "last"),
    prefix=(1, 30),
)
BATCHES = [torch.tensor([[1, 30, 40, 41, 42], [1, 50, 51, 52, 53]]), ids_of(2, 8)]


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
class TestGradients:
    @pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_checkpointing_changes_nothing_at_the_residual_stream(self, family, reentrant):
        """Two forwards before two backwards: what is computed again belongs to a forward that is not the last."""
        hf, _ = tiny_model(family)
        hf.train()
        for module in hf.modules():
            for name in ("p", "dropout"):  # OPT calls the function with a number
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        what = [TRAINED, steering(edit(Add(normal(WIDTH, seed=4)), 2, "f2"))]
        expected = gradients(hf, what, BATCHES)
        plain = gradients(hf, None, BATCHES)
        hf.gradient_checkpointing_enable({"use_reentrant": reentrant})
        if reentrant:
            hf.enable_input_require_grads()
        for sequence in ([0, 1], [1, 0]):
            found = gradients(hf, what, BATCHES, sequences=sequence)
            assert found.keys() == expected.keys()
            for name, gradient in found.items():
                torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
        assert any(not torch.allclose(expected[name], plain[name]) for name in expected)

    @pytest.mark.parametrize("site", [Site(1, "attn_in"), Site(1, "mlp_out"), Site(2, "norm_out", part=1)], ids=str)
    @pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
    def test_checkpointing_changes_nothing_inside_a_block(self, site, reentrant):
        """The site runs again in the backward, after the other forward: it must get the rows of its own."""
        hf, _ = tiny_model("llama")
        hf.train()
        what = steering(edit(Clamp(A, torch.tensor(5.0)), site, "prompt"), prefix=(1, 30))
        expected = gradients(hf, what, BATCHES)
        hf.gradient_checkpointing_enable({"use_reentrant": reentrant})
        if reentrant:
            hf.enable_input_require_grads()
        for sequence in ([0, 1], [1, 0]):
            found = gradients(hf, what, BATCHES, sequences=sequence)
            for name, gradient in found.items():
                torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)

    def test_checkpointing_that_is_switched_on_inside_is_refused_where_it_matters(self):
        """The block runs again in the backward, outside any forward: an error, never the rows of another forward."""
        hf, _ = tiny_model("llama")
        hf.train()
        with steer(hf, steering(edit(Add(normal(WIDTH)), Site(1, "mlp_out")))):
            hf.gradient_checkpointing_enable({"use_reentrant": False})
            loss = hf(BATCHES[0], labels=BATCHES[0], use_cache=False).loss
            with pytest.raises(InputError, match="gradient checkpointing on before steer") as error:
                loss.backward()
        assert "\n" not in str(error.value)

    def test_checkpointing_is_left_as_it_was(self):
        hf, _ = tiny_model("llama")
        hf.gradient_checkpointing_enable({"use_reentrant": False})
        block = hf.model.layers[1]
        before = block._gradient_checkpointing_func
        with steer(hf, TRAINED):
            assert block._gradient_checkpointing_func is not before
        assert block._gradient_checkpointing_func is before

    @pytest.mark.parametrize("family", MAIN)
    def test_gradient_through_an_edit_is_the_formula_s(self, family):
        hf = model_of(family)
        for name in ("clamp_1", "clamp_2", "ablate", "null_out"):
            formula = TRANSFORMS[name](WIDTH)
            found = []
            for steered in (True, False):
                hf.zero_grad()
                embeds = hf.get_input_embeddings()(IDS).detach().requires_grad_()
                if steered:
                    with steer(hf, steering(formula.transform)):
                        hf(inputs_embeds=embeds, use_cache=False).logits.logsumexp(-1).sum().backward()
                else:
                    with editing(blocks_of(hf, family)[1], "out", formula.plain):
                        hf(inputs_embeds=embeds, use_cache=False).logits.logsumexp(-1).sum().backward()
                found.append(embeds.grad)
            torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
        hf.zero_grad()

    def test_a_forward_without_gradients_leaves_the_next_one_able(self):
        """What is prepared once a context must not be an inference tensor."""
        hf = model_of("llama")
        with steer(hf, TRAINED):
            with torch.inference_mode():
                hf(IDS, use_cache=True)
                hf.generate(IDS, max_new_tokens=2, pad_token_id=0)
            loss = hf(IDS, use_cache=False).logits.sum()
        loss.backward()
        assert hf.get_input_embeddings().weight.grad.abs().sum() > 0
        hf.zero_grad()


def test_more_rows_than_entries_repeat_in_place():
    """n entries for a batch of n x k rows: row by row, as beams and several sequences a prompt lie."""
    hf = model_of("llama")
    v = Steering((Intervention(Site(1), Add(normal(WIDTH)), Positions()),))
    steered = states(hf, [v, None], ids=ids_of(6, 4))
    assert [(steered[0][k] != steered[1][k]).any().item() for k in range(6)] == [True, True, True, False, False, False]
