"""The one rule h' = h + s g(h) (T(h) - h): strengths, gates, masks, dtypes, and clamps that meet at one site."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trimtab.errors import InputError
from trimtab.steering import (
    Ablate,
    Add,
    Affine,
    Always,
    Clamp,
    Intervention,
    LowRank,
    NullOut,
    Positions,
    ProjectionGate,
    Site,
    SiteEdit,
    Steering,
)
from trimtab.steering.checks import MAX_CONDITION
from trimtab.steering.gates import build_gate

many = settings(max_examples=40)
seeds = st.integers(0, 2**31 - 1)
CPU = torch.device("cpu")
WIDTH = 12
SITE = Site(1)


def random(seed, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def transforms(seed, width=WIDTH):
    v, w = random(seed, width), random(seed + 1, 2, width)
    return {
        "add": Add(v),
        "clamp": Clamp(v, random(seed + 2, 1)),
        "clamp2": Clamp(w, random(seed + 3, 2)),
        "ablate": Ablate(w),
        "null_out": NullOut(v, random(seed + 4)),
        "affine": Affine(random(seed + 5, width, width), v),
        "low_rank": LowRank(torch.linalg.qr(w.T).Q.T, random(seed + 6, 2, width), random(seed + 7, 2)),
    }


kinds = st.sampled_from(sorted(transforms(0)))


def edit(h, *interventions, masks=None):
    return SiteEdit.build(interventions, CPU)(h, [None] * len(interventions) if masks is None else masks)


def on(transform, **rest):
    return Intervention(SITE, transform, **rest)


class TestRule:
    @many
    @given(seeds, kinds, st.sampled_from([-1.5, 0.0, 0.25, 0.5, 1.0, 2.0]), st.sampled_from([0.0, 0.7, -3.0]))
    def test_strength_and_gate_go_along_the_segment(self, seed, kind, strength, sharpness):
        transform, h = transforms(seed)[kind], random(seed + 9, 2, 5, WIDTH)
        gate = ProjectionGate(random(seed + 10, WIDTH), 0.3, sharpness)
        out = edit(h, on(transform, strength=strength, gate=gate))
        coordinate = h @ gate.direction
        opening = torch.sigmoid(sharpness * (coordinate - 0.3)) if sharpness else (coordinate > 0.3).float()
        wanted = h + strength * opening[..., None] * (transform(h) - h)
        assert out.allclose(wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
        assert ((gate(h) >= 0) & (gate(h) <= 1)).all()

    @many
    @given(seeds, kinds)
    def test_strength_one_is_the_transform_and_zero_the_identity(self, seed, kind):
        transform, h = transforms(seed)[kind], random(seed + 9, 2, 5, WIDTH)
        assert edit(h, on(transform)).allclose(transform(h), rtol=1e-6, atol=1e-5)
        assert torch.equal(edit(h, on(transform, strength=0.0)), h)

    @many
    @given(seeds, kinds)
    def test_a_hard_gate_leaves_closed_tokens_bit_for_bit(self, seed, kind):
        h = random(seed + 9, 2, 30, WIDTH)
        gate = ProjectionGate(random(seed + 10, WIDTH), 0.0)
        closed = h @ gate.direction <= 0
        out = edit(h, on(transforms(seed)[kind], gate=gate))
        assert torch.equal(out[closed], h[closed])

    def test_gates_read_the_state_before_the_first_edit(self):
        gate = ProjectionGate(torch.eye(WIDTH)[0], 1.0)
        h = torch.zeros(1, 1, WIDTH)
        push, then = on(Add(5 * torch.eye(WIDTH)[0])), on(Add(torch.eye(WIDTH)[1]), gate=gate)
        assert edit(h, push, then)[0, 0, :2].tolist() == [5.0, 0.0]

    def test_edits_apply_in_the_order_listed(self):
        h, one = torch.ones(1, 1, 2), torch.ones(2)
        double, add = on(Affine(2 * one, 0 * one)), on(Add(one))
        assert edit(h, double, add)[0, 0].tolist() == [3.0, 3.0]
        assert edit(h, add, double)[0, 0].tolist() == [4.0, 4.0]

    @many
    @given(seeds)
    def test_add_then_null_out(self, seed):
        v, h = random(seed, WIDTH), random(seed + 1, 1, 9, WIDTH)
        out = edit(h, on(Add(v)), on(NullOut(v)))
        wanted = NullOut(v)(Add(v)(h))
        assert out.allclose(wanted, atol=1e-5)
        assert (out @ v).max() < 1e-4

    @pytest.mark.parametrize("strength", [math.nan, math.inf, -math.inf, 1e39])
    def test_a_strength_that_is_no_number(self, strength):
        with pytest.raises(InputError, match="not a finite number"):
            on(Add(torch.ones(2)), strength=strength)

    def test_a_gate_of_another_width(self):
        with pytest.raises(InputError, match="gate of width 3 cannot read states of width 2 at resid_post@1"):
            on(Add(torch.ones(2)), gate=ProjectionGate(torch.ones(3)))

    def test_sharpness_is_the_slope_and_its_sign_the_side(self):
        h = torch.tensor([[-1.0], [0.0], [1.0]])
        assert ProjectionGate(torch.ones(1), 0.0, 1e4)(h).tolist() == [0.0, 0.5, 1.0]
        assert ProjectionGate(torch.ones(1), 0.0, -1e4)(h).tolist() == [1.0, 0.5, 0.0]
        assert ProjectionGate(torch.ones(1), 0.0)(h).tolist() == [0.0, 0.0, 1.0]
        assert Always()(h).tolist() == [1.0, 1.0, 1.0]

    def test_unknown_gate_and_wrong_parts_of_a_file(self):
        with pytest.raises(InputError, match="unknown gate 'lunar'"):
            build_gate("lunar", {}, {})
        with pytest.raises(InputError, match="'projection' needs"):
            build_gate("projection", {"direction": torch.ones(2)}, {"threshold": 0.0})
        with pytest.raises(InputError, match="'always' needs"):
            build_gate("always", {}, {"threshold": 0.0})


class TestDtypes:
    @many
    @given(seeds, kinds, st.sampled_from([torch.bfloat16, torch.float16]), st.sampled_from([1.0, 0.5]), st.booleans())
    def test_computed_in_float32_and_given_back_in_the_dtype_of_the_state(self, seed, kind, dtype, strength, masked):
        transform, h = transforms(seed)[kind], random(seed + 9, 2, 6, WIDTH, dtype=dtype)
        masks = [torch.ones(2, 6, dtype=torch.bool)] if masked else None
        out = edit(h, on(transform, strength=strength), masks=masks)
        assert out.dtype == dtype
        x = h.float()
        wanted = transform(x) if strength == 1.0 and not masked else x + strength * (transform(x) - x)
        near = 1e-6 * (1 + wanted.abs())  # float32 may round the other way, and then the cast too
        assert (
            (out == wanted.to(dtype)) | (out == (wanted + near).to(dtype)) | (out == (wanted - near).to(dtype))
        ).all()

    def test_gates_read_the_state_in_float32_too(self):
        """Sixteen bits have no number between 1 and 1.0078: the sum of the coordinates decides."""
        h = torch.full((1, 1, WIDTH), 1.0, dtype=torch.bfloat16)
        direction = torch.full((WIDTH,), 1.0)
        direction[0] = 1.001
        gate = ProjectionGate(direction, WIDTH + 0.0005)
        assert edit(h, on(Add(torch.ones(WIDTH)), gate=gate)).tolist() == [[[2.0] * WIDTH]]

    def test_float64_stays_float64(self):
        h, w = random(0, 1, 3, WIDTH, dtype=torch.float64), torch.eye(WIDTH)[0]
        out = edit(h, on(Clamp(w, torch.tensor([0.1]))))
        assert out.dtype == torch.float64
        assert torch.equal(out[..., 1:], h[..., 1:])

    @many
    @given(seeds, kinds, st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
    def test_tokens_outside_the_masks_are_bit_equal(self, seed, kind, dtype):
        h = random(seed + 9, 3, 7, WIDTH, dtype=dtype)
        h[0, 0, 0], h[0, 1, 1] = -0.0, 2.0**-140
        mask, other = random(seed + 11, 3, 7) > 0, random(seed + 12, 3, 7) > 0.5
        chosen = transforms(seed)
        out = edit(h, on(chosen[kind]), on(chosen["add"], strength=0.5), masks=[mask, other])
        outside = ~(mask | other)
        bits = torch.int16 if dtype != torch.float32 else torch.int32
        assert torch.equal(out.view(bits)[outside], h.view(bits)[outside])
        inside = mask & ~other
        alone = edit(h, on(chosen[kind]), masks=[torch.ones_like(mask)])
        assert torch.equal(out[inside], alone[inside])

    def test_what_is_broken_outside_the_mask_stays_outside(self):
        h = torch.ones(1, 3, WIDTH)
        h[0, 0], h[0, 1] = math.nan, math.inf
        out = edit(h, on(Clamp(torch.ones(WIDTH), torch.zeros(1))), masks=[torch.tensor([[False, False, True]])])
        assert torch.isnan(out[0, 0]).all()
        assert torch.isinf(out[0, 1]).all()
        assert out[0, 2].abs().max() < 1e-6

    def test_the_state_given_is_not_changed(self):
        h = random(0, 2, 3, WIDTH)
        before = h.clone()
        edit(h, *[on(transform) for transform in transforms(1).values() if transform.kind != "clamp"])
        assert torch.equal(h, before)

    def test_a_gradient_flows_through(self):
        h = random(0, 1, 2, WIDTH).requires_grad_()
        edit(h, on(Clamp(torch.eye(WIDTH)[0], torch.ones(1)))).sum().backward()
        assert h.grad[0, 0].tolist() == [0.0] + [1.0] * (WIDTH - 1)


class TestClampsThatMeet:
    @many
    @given(seeds, st.integers(2, 4), st.sampled_from([0.0, 0.5, 0.9]))
    def test_every_coordinate_ends_at_its_value(self, seed, count, likeness):
        shared = random(seed, WIDTH)
        rows = [likeness * shared + (1 - likeness) * random(seed + k + 1, WIDTH) for k in range(count)]
        rows[-1] = torch.stack([rows[-1], random(seed + 50, WIDTH)])
        clamps = [Clamp(w, random(seed + 60 + k, w.dim())) for k, w in enumerate(rows)]
        h = random(seed + 70, 2, 5, WIDTH)
        w, a = torch.cat([c.directions for c in clamps]), torch.cat([c.values for c in clamps])
        condition = torch.linalg.cond(w.double() @ w.double().T).item()
        assume(condition < MAX_CONDITION)
        out, near = edit(h, *map(on, clamps)), 1e-4 + 2e-6 * condition
        assert (out @ w.T).allclose(a.expand(2, 5, -1), atol=near)
        wanted = h.double() + (a.double() - h.double() @ w.double().T) @ torch.linalg.pinv(w.double()).T
        assert out.double().allclose(wanted, atol=near)

    def test_the_order_of_clamps_does_not_matter(self):
        first, second = Clamp(random(0, WIDTH), random(1, 1)), Clamp(random(2, 2, WIDTH), random(3, 2))
        h = random(4, 1, 6, WIDTH)
        assert edit(h, on(first), on(second)).allclose(edit(h, on(second), on(first)), atol=1e-5)

    def test_they_act_together_at_the_place_of_the_first(self):
        e = torch.eye(3)
        h = torch.zeros(1, 1, 3)
        out = edit(h, on(Clamp(e[0], torch.ones(1))), on(Add(e[0] + e[1])), on(Clamp(e[1], torch.ones(1))))
        assert out[0, 0].tolist() == [2.0, 2.0, 0.0]

    @many
    @given(seeds)
    def test_on_tokens_where_only_one_acts_the_other_takes_no_part(self, seed):
        a, b = (Clamp(random(seed + k, WIDTH), random(seed + 2 + k, 1)) for k in range(2))
        h = random(seed + 9, 2, 8, WIDTH)
        on_a, on_b = random(seed + 10, 2, 8) > 0, random(seed + 11, 2, 8) > 0
        out = edit(h, on(a), on(b), masks=[on_a, on_b])
        both = edit(h, on(a), on(b))
        for here, wanted in ((on_a & ~on_b, a(h)), (on_b & ~on_a, b(h)), (on_a & on_b, both), (~on_a & ~on_b, h)):
            assert out[here].allclose(wanted[here], atol=1e-3)

    @many
    @given(seeds, st.sampled_from([0.25, 0.5, 1.0]), st.sampled_from([0.25, 0.75, 1.5]))
    def test_each_coordinate_goes_its_own_fraction_of_the_way(self, seed, s, t):
        a, b = (Clamp(random(seed + k, WIDTH), random(seed + 2 + k, 1)) for k in range(2))
        h = random(seed + 9, 2, 8, WIDTH)
        out = edit(h, on(a, strength=s), on(b, strength=t))
        for clamp, part in ((a, s), (b, t)):
            w = clamp.directions[0]
            assert (out @ w).allclose((h @ w) + part * (clamp.values - h @ w), atol=1e-3)

    def test_nearly_parallel_clamps_are_refused_before_anything_runs(self):
        w = random(0, WIDTH)
        pair = (on(Clamp(w, torch.ones(1))), on(Clamp(w + 1e-4 * random(1, WIDTH), torch.ones(1))))
        with pytest.raises(InputError, match="contradict each other") as error:
            Steering(pair, label="a + b")
        assert str(error.value).startswith("a + b at resid_post@1")
        assert "\n" not in str(error.value)
        Steering((pair[0], replace(pair[1], site=Site(2))))

    def test_parallel_clamps_that_never_meet_are_allowed(self):
        w = random(0, WIDTH)
        low, high = (Clamp(w, torch.tensor([value])) for value in (-1.0, 1.0))
        Steering((on(low, positions=Positions("prompt")), on(high, positions=Positions("response"))))
        with pytest.raises(InputError):
            Steering((on(low, positions=Positions("prompt")), on(high)))
        with pytest.raises(InputError):
            Steering((on(low, positions=Positions("last")), on(high, positions=Positions.parse("f1"))))


class TestComposition:
    def steering(self, transform, **rest):
        given = {"prefix_ids": (1, 2), "hidden_size": WIDTH, "n_blocks": 3, "label": "x"}
        return Steering((on(transform),), **{**given, **rest})

    def test_a_sum_has_the_edits_of_both_in_order(self):
        a, b = self.steering(Add(torch.ones(WIDTH)), label="a"), self.steering(Ablate(torch.ones(WIDTH)), label="b")
        both = a + b
        assert both.interventions == a.interventions + b.interventions
        assert both.label == "a + b"
        assert (both.prefix_ids, both.hidden_size, both.n_blocks) == ((1, 2), WIDTH, 3)
        assert len((both + a).interventions) == 3

    @pytest.mark.parametrize("other", [{"prefix_ids": (1,)}, {"hidden_size": 99}, {"n_blocks": 4}])
    def test_different_models_do_not_mix(self, other):
        a = self.steering(Add(torch.ones(WIDTH)))
        with pytest.raises(InputError, match=f"different models \\({next(iter(other))}"):
            a + self.steering(Add(torch.ones(WIDTH)), **other)

    def test_templates_are_compared_where_both_know_theirs(self):
        a, b, plain = (
            self.steering(Add(torch.ones(WIDTH)), template_fingerprint=fingerprint) for fingerprint in ("a", "b", None)
        )
        with pytest.raises(InputError, match="different chat templates"):
            a + b
        assert (a + plain).template_fingerprint == (plain + a).template_fingerprint == "a"
        assert (plain + plain).template_fingerprint is None

    def test_edits_of_different_width_at_one_site(self):
        with pytest.raises(InputError, match=r"edits of widths \[3, 12\] cannot meet"):
            Steering((on(Clamp(torch.ones(3), torch.ones(1))), on(Clamp(torch.ones(WIDTH), torch.ones(1)))))

    def test_no_edits_at_all(self):
        assert Steering(()).interventions == ()
