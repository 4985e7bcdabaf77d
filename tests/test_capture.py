"""Reading: states at any site, a vector as a probe, and the tokens it promotes."""

import pytest
import torch

from tests.families import (
    DEPTH,
    FAMILIES,
    HEAD,
    MAIN,
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
    tiny,
    unit,
)
from trimtab.errors import InputError
from trimtab.models import Model, capture, coordinates, steer
from trimtab.models.lens import promoted_tokens
from trimtab.models.tiny import tiny_model
from trimtab.steering import Ablate, Add, Affine, Clamp, Edit, Factors, FactorStats, ModelCard, Site, SteeringVector

ROWS = [ids_of(1, n, seed=n)[0].tolist() for n in (5, 9, 1, 7, 9)]
RESIDUAL = [Site(layer) for layer in range(DEPTH)]


def stack(found, site):
    return torch.stack([row[site] for row in found])


class TestCapture:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_equals_output_hidden_states(self, family):
        """The last entry there is already normalised, so the last block is compared with a hook."""
        hf, ids = model_of(family), ids_of(3, 8)
        found = capture(hf, ids.tolist(), [Site(0, "resid_pre"), *RESIDUAL])
        last = []
        with editing(blocks_of(hf, family)[-1], "out", lambda state: last.append(state) or state), torch.no_grad():
            out = hf(ids, attention_mask=torch.ones_like(ids), output_hidden_states=True, use_cache=False)
        shown = out.hidden_states
        assert torch.equal(stack(found, Site(0, "resid_pre")), shown[0])
        for layer in range(DEPTH - 1):
            assert torch.equal(stack(found, Site(layer)), shown[layer + 1])
        assert torch.equal(stack(found, Site(DEPTH - 1)), last[0])

    @pytest.mark.parametrize("family", FAMILIES)
    def test_any_batch_size_gives_the_same_states(self, family):
        """Float32 sums over rows of other lengths differ by rounding."""
        hf = model_of(family)
        alone = capture(hf, ROWS, RESIDUAL, batch_size=1)
        for batch_size in (2, 5, 16):
            found = capture(hf, ROWS, RESIDUAL, batch_size=batch_size)
            for row, one, other in zip(ROWS, alone, found, strict=True):
                for site in RESIDUAL:
                    assert other[site].shape == (len(row), WIDTH)
                    atol = 1e-5 * one[site].abs().max().item()
                    torch.testing.assert_close(other[site], one[site], rtol=1e-5, atol=atol)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_sites_inside_blocks_are_what_flows_there(self, family):
        hf, ids = model_of(family), ids_of(2, 6)
        for kind in FAMILIES[family].parts:
            site = Site.parse(f"{kind}@2")
            module, side = place_of(hf, family, site)
            seen = []
            with editing(module, side, lambda state, seen=seen: seen.append(state.clone()) or state):
                run(hf, ids)
            assert torch.equal(stack(capture(hf, ids.tolist(), [site]), site), seen[0])
            if kind == "attn_in":
                head = Site(2, "attn_in", head=3)
                assert torch.equal(stack(capture(hf, ids.tolist(), [head]), head), seen[0][..., 3 * HEAD :])

    @pytest.mark.parametrize("family", MAIN)
    def test_inside_steer_it_shows_the_steered_states(self, family):
        hf, ids, v = model_of(family), ids_of(2, 6), normal(WIDTH)
        plain = capture(hf, ids.tolist(), RESIDUAL)
        with steer(hf, [steering(Add(v)), None]):
            steered = capture(hf, ids.tolist(), RESIDUAL)
        assert torch.equal(stack(steered, Site(0)), stack(plain, Site(0)))
        assert torch.equal(steered[0][Site(1)], plain[0][Site(1)] + v)
        assert torch.equal(stack(steered, Site(3))[1], stack(plain, Site(3))[1])
        assert not torch.equal(steered[0][Site(3)], plain[0][Site(3)])
        inner = Site(1, "attn_in")
        with steer(hf, steering(edit(Add(v), inner))):
            assert torch.equal(
                capture(hf, ids.tolist(), [inner])[0][inner], capture_plain(hf, family, ids, inner)[0] + v
            )

    def test_hands_out_copies_and_leaves_the_model_alone(self):
        hf, _ = tiny_model("gpt2")
        hf.train()
        found = capture(hf, ROWS, RESIDUAL)
        assert all(module.training and not module._forward_hooks for module in hf.modules())
        again = capture(hf, ROWS, RESIDUAL)  # dropout would have changed them
        assert torch.equal(found[0][Site(1)], again[0][Site(1)])
        assert not found[0][Site(1)].requires_grad
        assert found[0][Site(1)].untyped_storage().nbytes() == 4 * found[0][Site(1)].numel()

    def test_keeps_the_model_s_dtype(self):
        hf, _ = tiny_model("llama", dtype=torch.bfloat16)
        assert capture(hf, ROWS, [Site(1)])[0][Site(1)].dtype == torch.bfloat16

    def test_no_rows(self):
        assert capture(model_of("llama"), [], RESIDUAL) == []

    @pytest.mark.parametrize(
        ("rows", "site", "message"),
        [
            ([[7], []], Site(1), "a row to capture has no tokens"),
            ([[7]], Site(4), "site resid_post@4 does not exist: the model has blocks 0 to 3"),
            ([[7]], Site(1, "attn_in", head=4), "the model has 4 heads, counted from 0"),
            ([[7]], Site(1, "norm_out", part=2), "2 norms at the entrance"),
        ],
    )
    def test_refusals(self, rows, site, message):
        hf = model_of("llama")
        before = [len(module._forward_hooks) for module in hf.modules()]
        with pytest.raises(InputError, match=message) as error:
            capture(hf, rows, [site])
        assert "\n" not in str(error.value)
        assert [len(module._forward_hooks) for module in hf.modules()] == before


def capture_plain(hf, family, ids, site):
    """Raw states at a site by the tests' own hook, seen before any steering."""
    module, side = place_of(hf, family, site)
    seen = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()), prepend=True)
    assert side == "in"
    run(hf, ids)
    handle.remove()
    return seen[0]


def vector_of(model, *transforms, site=1, factors=None):
    where = Site(site) if isinstance(site, int) else site
    edits = tuple(Edit(edit(t, where), factors, "factor" if factors is not None else "strength") for t in transforms)
    return SteeringVector("test", model.card(), edits)


@pytest.fixture(scope="module")
def model():
    return Model(*tiny("llama"))


class TestCoordinates:
    TEXTS = ("Once upon a time", "Hi", "The little girl played in the park")

    def test_are_the_dot_products_of_every_token(self, model):
        rows = torch.stack([unit(seed=1), 2 * unit(seed=2)])
        found = coordinates(model, vector_of(model, Clamp(rows, torch.zeros(2))), self.TEXTS)
        for text, read in zip(self.TEXTS, found, strict=True):
            ids = model.tokenizer(text).input_ids
            assert read.tokens == tuple(model.tokenizer.decode([token]) for token in ids)
            (states,) = capture(model.hf, [ids], [Site(1)])
            torch.testing.assert_close(read.values, states[Site(1)] @ rows.T, rtol=1e-4, atol=1e-4)

    def test_other_transforms_are_read_along_their_unit_direction(self, model):
        v = 3 * unit(seed=1)
        clamped = coordinates(model, vector_of(model, Clamp(v / 3, torch.tensor(0.0))), self.TEXTS)
        added = coordinates(model, vector_of(model, Add(v)), self.TEXTS)
        torch.testing.assert_close(added[0].values, clamped[0].values)

    def test_another_edit_and_a_head(self, model):
        head = Site(2, "attn_in", head=1)
        edits = (Edit(edit(Add(unit())), None, "strength"), Edit(edit(Add(unit(HEAD)), head), None, "strength"))
        vector = SteeringVector("test", model.card(), edits)
        (read,) = coordinates(model, vector, ["Hi"], edit=1)
        (states,) = capture(model.hf, [model.tokenizer("Hi").input_ids], [head])
        torch.testing.assert_close(read.values[:, 0], states[head] @ unit(HEAD), rtol=1e-4, atol=1e-5)

    def test_the_clamped_value_is_what_is_read_inside_steer(self, model):
        vector = vector_of(model, Clamp(unit(), torch.tensor(5.0)))
        with steer(model.hf, vector.at(5.0)):
            (read,) = coordinates(model, vector, ["Once upon a time"])
        n = len(model.chat.render_raw("Once upon a time").ids)
        prefix = model.chat.render_raw("Once upon a time").prefix_length
        torch.testing.assert_close(read.values[prefix:, 0], torch.full((n - prefix,), 5.0), rtol=0, atol=1e-4)

    def test_a_text_longer_than_the_context(self, model):
        vector = vector_of(model, Clamp(unit(), torch.tensor(0.0)))
        words = "a " * model.context_length
        with pytest.raises(InputError, match=r"a text of \d+ tokens exceeds the context of 512; shorten it"):
            coordinates(model, vector, ["Hi", words])

    def test_refusals(self, model):
        vector = vector_of(model, Clamp(unit(), torch.tensor(0.0)))
        other = SteeringVector("test", ModelCard("other", 32, 4), (Edit(edit(Add(unit(32))), None, "strength"),))
        affine = vector_of(model, Affine(torch.ones(WIDTH), torch.zeros(WIDTH)))
        for arguments, message in (
            ((vector, ["a"], 1), "edit 1 does not exist; the vector holds edits 0 to 0"),
            ((vector, ["a"], -1), "edit -1 does not exist"),
            ((other, ["a"], 0), "hidden size 32"),
            ((affine, ["a"], 0), "'affine' transform has no direction"),
        ):
            vector_given, texts, number = arguments
            with pytest.raises(InputError, match=message):
                coordinates(model, vector_given, texts, edit=number)


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma2"])
def known(request):
    """A model whose head reads token k off dimension k: what a direction promotes is known."""
    hf, tokenizer = tiny_model(request.param)
    head = torch.zeros(512, WIDTH)
    head[:WIDTH] = torch.eye(WIDTH)
    hf.lm_head.weight = torch.nn.Parameter(head)
    if request.param == "gpt2":  # what the norm adds to every state promotes nothing
        hf.transformer.ln_f.bias = torch.nn.Parameter(5 * normal(WIDTH, seed=9))
    return Model(hf, tokenizer)


class TestPromotedTokens:
    def names(self, model, *tokens):
        return [model.tokenizer.decode([token]) for token in tokens]

    def test_a_direction_to_two_tokens(self, known):
        v = torch.zeros(WIDTH)
        v[40], v[50], v[60] = 3.0, 2.0, -4.0
        up, down = promoted_tokens(known, vector_of(known, Add(v)), 2)
        assert [name for name, _ in up] == self.names(known, 40, 50)
        assert [down[0][0]] == self.names(known, 60)
        assert up[0][1] > up[1][1] > 0 > down[0][1]
        if known.layout.model_type == "gemma2":
            return
        # A root-mean-square norm keeps the proportions; a layer norm first takes off the mean, 1/64 here.
        mean = 1 / 64 if known.layout.model_type == "gpt2" else 0.0
        assert up[0][1] / up[1][1] == pytest.approx((3 - mean) / (2 - mean), rel=1e-3)

    def test_a_clamp_moves_along_the_gap_of_its_factors(self, known):
        rows = torch.zeros(2, WIDTH)
        rows[0, 40] = rows[1, 50] = 1.0
        factors = Factors(FactorStats((1.0, -3.0), (0.0, 0.0), 2), FactorStats((2.0, 0.0), (0.0, 0.0), 2))
        up, down = promoted_tokens(known, vector_of(known, Clamp(rows, torch.zeros(2)), factors=factors), 1)
        assert up[0][1] <= abs(down[0][1])
        assert [name for name, _ in down] == self.names(known, 50)
        alone = Factors(FactorStats((5.0, 0.0), (0.0, 0.0), 2), FactorStats((2.0, 0.0), (0.0, 0.0), 2))
        up, _ = promoted_tokens(known, vector_of(known, Clamp(rows, torch.zeros(2)), factors=alone), 1)
        assert [name for name, _ in up] == self.names(known, 40)

    def test_the_length_does_not_matter(self, known):
        v = unit(seed=4)
        one, other = (promoted_tokens(known, vector_of(known, Add(c * v)), 5) for c in (0.01, 100.0))
        assert [name for name, _ in one[0]] == [name for name, _ in other[0]]

    @pytest.mark.parametrize("kind", ["resid_pre", "resid_post", "attn_out", "mlp_out"])
    def test_what_is_added_to_the_stream_promotes_like_the_stream(self, known, kind):
        vector = vector_of(known, Add(unit(seed=4)), site=Site(1, kind))
        assert promoted_tokens(known, vector, 3) == promoted_tokens(known, vector_of(known, Add(unit(seed=4))), 3)

    def test_k_is_at_most_the_vocabulary(self, known):
        up, down = promoted_tokens(known, vector_of(known, Ablate(unit())), 10_000)
        assert [score for _, score in up] == [score for _, score in reversed(down)]
        assert len(up) == 512

    def test_refusals(self, model):
        vector = vector_of(model, Add(unit()))
        for bad, message in (
            ((vector, 0), "k=0 tokens asked for"),
            ((vector_of(model, Add(unit(HEAD)), site=Site(1, "attn_in", head=0)), 3), "not in the residual stream"),
            ((vector_of(model, Add(unit()), site=Site(1, "attn_in")), 3), "attn_in@1 is not in the residual stream"),
            ((vector_of(model, Add(unit()), site=Site(1, "norm_out")), 3), "norm_out@1 is not in the residual stream"),
        ):
            with pytest.raises(InputError, match=message):
                promoted_tokens(model, *bad)
        with pytest.raises(InputError, match="edit 3 does not exist"):
            promoted_tokens(model, vector, 3, edit=3)


def test_capture_of_a_steered_batch_that_does_not_fit():
    with pytest.raises(InputError, match="steering has 2 entries"), steer(model_of("llama"), [push(), None]):
        capture(model_of("llama"), ROWS, RESIDUAL)
