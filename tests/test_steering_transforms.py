"""The algebra of the transforms: what each sets, what it leaves alone, and what it refuses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import InputError
from trimtab.steering import (
    Ablate,
    Add,
    AddKeepNorm,
    Affine,
    Clamp,
    Edit,
    FeatureClamp,
    Intervention,
    LowRank,
    ModelCard,
    NullOut,
    ProjectionGate,
    PromptGate,
    RotateBy,
    RotateTo,
    Site,
    SteeringVector,
    probe_directions,
)
from trimtab.steering.checks import MAX_CONDITION, check_gram
from trimtab.steering.transforms import TRANSFORMS, build_transform

many = settings(max_examples=60)
seeds = st.integers(0, 2**31 - 1)
scales = st.sampled_from([1e-5, 1e-2, 1.0, 30.0, 1e4])


def random(seed, *shape, scale=1.0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype) * scale


def orthonormal(seed, rank, width):
    return torch.linalg.qr(random(seed, width, rank))[0].T


def skewed(seed, rank, width, condition):
    """Rows (rank, width) whose W W^T has the given condition number."""
    lengths = torch.logspace(0, 0.5 * math.log10(condition), rank, dtype=torch.float64)
    mix = torch.linalg.qr(random(seed + 1, rank, rank))[0]
    return mix @ (lengths[:, None] * orthonormal(seed, rank, width))


def one_line(error):
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


ranks = st.integers(1, 4)
widths = st.sampled_from([4, 7, 32])
conditions = st.sampled_from([1.0, 3.0, 100.0, 5000.0])


class TestClamp:
    @many
    @given(seeds, ranks, widths, conditions, scales)
    def test_sets_the_coordinates_and_leaves_the_complement(self, seed, rank, width, condition, scale):
        w = skewed(seed, rank, width, condition if rank > 1 else 1.0) * scale
        a = random(seed + 2, rank, scale=scale)
        clamp = Clamp(w, a)
        h = random(seed + 3, 3, 5, width)
        out = clamp(h)
        rows = clamp.directions.double()
        size = rows.norm() * h.norm() + a.norm()
        assert (out @ rows.T - clamp.values.double()).abs().max() < 1e-6 * condition * size
        null = torch.eye(width, dtype=torch.float64) - torch.linalg.pinv(rows) @ rows
        assert ((out - h) @ null).abs().max() < 1e-6 * condition * (h.norm() + a.norm() / scale)

    @many
    @given(seeds, ranks, widths)
    def test_twice_is_once(self, seed, rank, width):
        clamp = Clamp(skewed(seed, rank, width, 9.0 if rank > 1 else 1.0), random(seed + 1, rank, scale=3.0))
        once = clamp(random(seed + 2, 6, width, dtype=torch.float32))
        assert torch.allclose(clamp(once), once, rtol=0, atol=5e-5)

    @many
    @given(seeds, ranks, widths)
    def test_to_zero_is_ablation(self, seed, rank, width):
        w = skewed(seed, rank, width, 50.0 if rank > 1 else 1.0)
        h = random(seed + 1, 6, width, dtype=torch.float32)
        assert torch.allclose(Clamp(w, torch.zeros(rank))(h), Ablate(w)(h), rtol=0, atol=1e-6)
        assert Ablate(w)(Ablate(w)(h)).allclose(Ablate(w)(h), rtol=0, atol=1e-4)

    def test_is_the_formula_of_the_paper_for_one_unit_direction(self):
        w, h = orthonormal(0, 1, 16)[0].float(), random(1, 9, 16, dtype=torch.float32)
        a = 2.5
        paper = torch.stack([x + (a - w @ x) * w for x in h])
        assert Clamp(w, torch.tensor(a))(h).allclose(paper, rtol=0, atol=1e-6)

    def test_a_direction_that_is_not_of_unit_length_still_ends_at_the_value(self):
        w = 7.0 * orthonormal(0, 1, 8)[0]
        out = Clamp(w, torch.tensor([3.0]))(random(1, 5, 8))
        assert (out @ w.float().double()).allclose(torch.full((5,), 3.0, dtype=torch.float64), atol=1e-5)

    def test_a_state_that_is_there_already_does_not_move(self):
        w = torch.eye(6)[:2]
        h = torch.tensor([[1.5, -2.0, 3.0, 4.0, 5.0, 6.0]])
        assert torch.equal(Clamp(w, torch.tensor([1.5, -2.0]))(h), h)

    def test_other_values_keep_the_directions(self):
        clamp = Clamp(random(0, 2, 5), random(1, 2)).with_values(torch.tensor([1.0, 2.0]))
        assert clamp.values.tolist() == [1.0, 2.0]
        assert torch.equal(clamp.directions, random(0, 2, 5).float())


class TestNullOut:
    @many
    @given(seeds, widths, scales, st.sampled_from([-2.0, -0.1, 0.0, 0.1, 2.0]))
    def test_removes_the_positive_part_only_and_only_once(self, seed, width, scale, bias):
        v = random(seed, width, scale=scale, dtype=torch.float32)
        null = NullOut(v, torch.tensor(bias * scale))
        h = random(seed + 1, 40, width, dtype=torch.float64)
        excess = h @ null.vector.double() + null.bias.double()
        out = null(h)
        assert torch.equal(out[excess <= 0], h[excess <= 0])
        after = out @ null.vector.double() + null.bias.double()
        assert after[excess > 0].abs().max() < 1e-12 * scale * (1 + h.norm()) if (excess > 0).any() else True
        assert null(out).allclose(out, rtol=0, atol=1e-10)

    @many
    @given(seeds, widths)
    def test_after_addition_it_takes_the_addition_back_along_its_direction(self, seed, width):
        v = random(seed, width, dtype=torch.float32)
        h = random(seed + 1, 20, width)
        out = NullOut(v)(Add(10.0 * v)(h))
        w = torch.nn.functional.normalize(v.double(), dim=0)
        assert ((out - h) - ((out - h) @ w)[:, None] * w).abs().max() < 1e-5
        assert (out @ w).max() < 1e-5

    def test_bias_is_zero_by_default(self):
        assert NullOut(torch.ones(3)).bias.item() == 0.0


class TestAffine:
    @many
    @given(seeds, widths)
    def test_identity_map_is_the_identity(self, seed, width):
        h = random(seed, 7, width, dtype=torch.float32)
        zero = torch.zeros(width)
        assert torch.equal(Affine(torch.ones(width), zero)(h), h)
        assert torch.equal(Affine(torch.eye(width), zero)(h), h)

    @many
    @given(seeds, widths)
    def test_is_the_map_and_the_diagonal_form_is_the_full_one(self, seed, width):
        a, b, h = (
            random(seed + k, *s, dtype=torch.float32) for k, s in enumerate([(width,) * 2, (width,), (5, width)])
        )
        assert Affine(a, b)(h).allclose(torch.stack([a @ x + b for x in h]), atol=1e-5)
        assert Affine(a[0], b)(h).allclose(Affine(torch.diag(a[0]), b)(h), atol=1e-5)


turns = st.sampled_from([-400.0, -180.0, -33.0, 0.0, 1e-3, 45.0, 90.0, 179.0, 180.0, 350.0])


def radians(degrees):
    return torch.tensor(math.radians(degrees))


def in_plane(plane, h):
    """Angle and length of the part of h that lies in the plane, and the rest."""
    inside = h @ plane.double().T
    return torch.atan2(inside[..., 1], inside[..., 0]), inside.norm(dim=-1), h - inside @ plane.double()


def apart(a, b):
    """How far two angles are from each other, the shorter way."""
    return torch.atan2(torch.sin(a - b), torch.cos(a - b)).abs()


class TestRotateTo:
    @many
    @given(seeds, widths, turns, scales)
    def test_every_state_gets_the_angle_and_keeps_norm_and_the_rest(self, seed, width, degrees, scale):
        rotate = RotateTo(orthonormal(seed, 2, width), radians(degrees))
        h = random(seed + 1, 5, width, scale=scale)
        out = rotate(h)
        before, after = in_plane(rotate.plane, h), in_plane(rotate.plane, out)
        assert apart(after[0], rotate.angle.double()).max() < 1e-5
        assert torch.allclose(after[1], before[1], rtol=1e-5)
        assert torch.allclose(after[2], before[2], rtol=0, atol=1e-5 * scale)
        assert torch.allclose(out.norm(dim=-1), h.norm(dim=-1), rtol=1e-5)

    @many
    @given(seeds, widths, turns, turns)
    def test_the_last_one_wins(self, seed, width, first, second):
        plane, h = orthonormal(seed, 2, width), random(seed + 1, 5, width)
        a, b = RotateTo(plane, radians(first)), RotateTo(plane, radians(second))
        assert torch.allclose(b(a(h)), b(h), rtol=0, atol=1e-5)

    def test_the_angle_0_is_not_the_identity_and_yet_keeps_the_norm(self):
        """What "Proposition 1" of arXiv 2601.19375 takes for a broken norm."""
        rotate, h = RotateTo(orthonormal(0, 2, 8), radians(0.0)), random(1, 50, 8)
        assert (rotate(h) - h).norm(dim=-1).min() > 1e-3
        assert torch.allclose(rotate(h).norm(dim=-1), h.norm(dim=-1), rtol=1e-6)

    def test_a_state_outside_the_plane_stays(self):
        rotate = RotateTo(torch.eye(4)[:2], radians(77.0))
        h = torch.tensor([[0.0, 0.0, 1.0, 2.0]])
        assert torch.equal(rotate(h), h)


class TestRotateBy:
    def matrix(self, rotate):
        return rotate(torch.eye(rotate.width, dtype=torch.float64)).T

    @many
    @given(seeds, widths, turns)
    def test_is_orthogonal_and_the_formula(self, seed, width, degrees):
        rotate = RotateBy(orthonormal(seed, 2, width), radians(degrees))
        r, (b1, b2) = self.matrix(rotate), rotate.plane.double()
        eye, a = torch.eye(width, dtype=torch.float64), rotate.angle.double()
        p = torch.outer(b1, b1) + torch.outer(b2, b2)
        wanted = eye - p + a.cos() * p + a.sin() * (torch.outer(b2, b1) - torch.outer(b1, b2))
        assert torch.allclose(r, wanted, rtol=0, atol=1e-5)
        assert torch.allclose(r @ r.T, eye, rtol=0, atol=1e-5)
        assert torch.linalg.det(r) == pytest.approx(1, abs=1e-5)

    @many
    @given(seeds, widths, turns, turns)
    def test_turns_add_up_and_leave_the_rest_alone(self, seed, width, first, second):
        plane, h = orthonormal(seed, 2, width), random(seed + 1, 5, width)
        a, b, both = (RotateBy(plane, radians(x)) for x in (first, second, first + second))
        assert torch.allclose(b(a(h)), both(h), rtol=0, atol=1e-5)
        assert torch.allclose(in_plane(a.plane, a(h))[2], in_plane(a.plane, h)[2], rtol=0, atol=1e-6)
        before, after = in_plane(a.plane, h)[0], in_plane(a.plane, a(h))[0]
        assert apart(after - before, a.angle.double()).max() < 1e-4

    @many
    @given(seeds, widths)
    def test_no_turn_is_the_identity_and_so_is_a_whole_one(self, seed, width):
        plane, h = orthonormal(seed, 2, width), random(seed + 1, 5, width)
        assert torch.equal(RotateBy(plane, radians(0.0))(h), h)
        assert torch.allclose(RotateBy(plane, radians(360.0))(h), h, rtol=0, atol=1e-5)

    @many
    @given(seeds, turns, st.sampled_from([-2.0, 0.0, 0.5, 1.0, 3.0]))
    def test_the_multiplier_scales_the_angle(self, seed, degrees, multiplier):
        for kind in (RotateBy, RotateTo):
            turned = kind(orthonormal(seed, 2, 6), radians(degrees)).scaled(multiplier)
            assert turned.angle == pytest.approx(multiplier * math.radians(degrees), rel=1e-6)


class TestAddKeepNorm:
    @many
    @given(seeds, widths, scales, scales)
    def test_keeps_every_norm_and_points_where_the_sum_points(self, seed, width, scale, size):
        v, h = random(seed, width, scale=size), random(seed + 1, 6, width, scale=scale)
        out, moved = AddKeepNorm(v)(h), h + v.float().double()
        assert torch.allclose(out.norm(dim=-1), h.norm(dim=-1), rtol=1e-9)
        assert torch.allclose(torch.nn.functional.cosine_similarity(out, moved, dim=-1), torch.ones(6).double())

    @many
    @given(seeds, widths)
    def test_nothing_added_is_the_identity(self, seed, width):
        h = random(seed, 6, width)
        assert torch.allclose(AddKeepNorm(random(seed + 1, width)).scaled(0.0)(h), h, rtol=1e-12)

    def test_a_sum_of_0_leaves_the_state(self):
        h = torch.tensor([[1.0, -2.0, 3.0], [1.0, 1.0, 1.0]])
        out = AddKeepNorm(-h[0])(h)
        assert torch.equal(out[0], h[0])
        assert torch.isfinite(out).all()
        assert torch.equal(AddKeepNorm(-h[0])(torch.zeros(3)), torch.zeros(3))


class TestFeatureClamp:
    def autoencoder(self, seed, width, threshold, features=9):
        e, d = random(seed, features, width), random(seed + 1, features, width)
        return e.float().double(), random(seed + 2, features).float().double(), d.float().double(), threshold

    @many
    @given(seeds, widths, st.sampled_from([0.0, 0.7]), st.sampled_from([-1.0, 0.0, 4.0]))
    def test_sets_one_feature_and_keeps_the_error_term(self, seed, width, threshold, value):
        e, b, d, t = self.autoencoder(seed, width, threshold)
        h = random(seed + 3, 5, width)
        z = h @ e.T + b
        f = torch.where(z > t, z, 0.0)
        error = h - f @ d
        f[:, 2] = value
        clamp = FeatureClamp(e[2], b[2], torch.tensor(t), d[2], torch.tensor(value))
        assert torch.allclose(clamp(h), f @ d + error, rtol=0, atol=1e-5 * (1 + h.norm()))

    @many
    @given(seeds, widths, st.sampled_from([0.0, 0.7]))
    def test_to_0_it_leaves_states_without_the_feature_alone(self, seed, width, threshold):
        e, b, d, t = self.autoencoder(seed, width, threshold)
        clamp = FeatureClamp(e[0], b[0], torch.tensor(t), d[0], torch.tensor(0.0))
        h = random(seed + 3, 30, width)
        off = clamp.activation(h) == 0
        assert torch.equal(clamp(h)[off], h[off])
        assert (clamp.activation(h)[~off] > t).all()

    def test_the_multiplier_scales_the_value(self):
        clamp = FeatureClamp(GOOD, torch.tensor(0.0), torch.tensor(0.0), GOOD, torch.tensor(3.0))
        assert clamp.scaled(2.0).value == 6.0
        assert torch.equal(clamp.scaled(1.0)(GOOD), clamp(GOOD))


def test_add_adds():
    h, v = random(0, 3, 4, 8, dtype=torch.float32), random(1, 8, dtype=torch.float32)
    assert torch.equal(Add(v)(h), h + v)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_tensors_are_kept_in_float32(dtype):
    ones = torch.ones(4, dtype=dtype)
    made = [Add(ones), Clamp(ones, ones[:1]), Ablate(ones), NullOut(ones, ones[0]), Affine(ones, ones)]
    gate = ProjectionGate(ones)
    for tensor in [tensor for part in (*made, gate) for tensor in part.tensors().values()]:
        assert tensor.dtype == torch.float32


def test_nobody_else_can_change_a_transform():
    w, a = torch.ones(4, requires_grad=True), torch.ones(1)
    clamp, gate = Clamp(w, a), ProjectionGate(w)
    with torch.no_grad():
        w.zero_(), a.zero_()
    assert clamp.directions.tolist() == [[1.0] * 4]
    assert clamp.values.tolist() == [1.0]
    assert gate.direction.tolist() == [1.0] * 4
    assert not clamp.directions.requires_grad


NAN, INF = math.nan, math.inf
GOOD = torch.tensor([1.0, 2.0])


class TestRefusals:
    @pytest.mark.parametrize(
        "make",
        [
            lambda v: Add(v),
            lambda v: Clamp(v, torch.ones(1)),
            lambda v: Clamp(GOOD, v[:1]),
            lambda v: Ablate(v),
            lambda v: NullOut(v),
            lambda v: NullOut(GOOD, v[0]),
            lambda v: Affine(v, GOOD),
            lambda v: Affine(GOOD, v),
            lambda v: ProjectionGate(v),
            lambda v: ProjectionGate(GOOD, float(v[0])),
            lambda v: ProjectionGate(GOOD, 0.0, float(v[0])),
        ],
    )
    @pytest.mark.parametrize("bad", [NAN, INF, -INF, 1e300])
    def test_what_is_not_finite_in_float32(self, make, bad):
        with pytest.raises(InputError) as error:
            make(torch.tensor([bad, 1.0], dtype=torch.float64))
        assert "NaN or infinite" in one_line(error)

    @pytest.mark.parametrize("make", [lambda v: Clamp(v, torch.ones(1)), Ablate, NullOut])
    def test_the_zero_direction(self, make):
        with pytest.raises(InputError) as error:
            make(torch.zeros(5))
        assert "zero" in one_line(error)

    @pytest.mark.parametrize("make", [lambda v: Clamp(v, torch.ones(1)), Ablate, NullOut])
    @pytest.mark.parametrize("length", [1e-25, 1e25])
    def test_a_direction_whose_square_float32_cannot_hold(self, make, length):
        """Such a clamp would divide by zero or by infinity: NaN, or no edit at all."""
        with pytest.raises(InputError) as error:
            make(torch.full((4,), length))
        assert "scale them to length 1" in one_line(error)

    @pytest.mark.parametrize("make", [lambda v: Clamp(v, torch.ones(1)), Ablate, NullOut])
    @pytest.mark.parametrize("length", [1e-15, 1e15])
    def test_directions_of_any_other_length_work(self, make, length):
        v = torch.tensor([1.0, 1.0]) * length
        out = make(v)(torch.tensor([[5.0, 1.0]]))
        assert torch.isfinite(out).all()
        assert (out - torch.tensor([[5.0, 1.0]])).abs().max() > 1

    @pytest.mark.parametrize(
        "make",
        [
            lambda: Add(torch.ones(2, 2)),
            lambda: Add(torch.ones(0)),
            lambda: Add(torch.tensor(1.0)),
            lambda: Clamp(torch.ones(1, 1, 2), torch.ones(1)),
            lambda: Clamp(GOOD, torch.ones(2)),
            lambda: Clamp(torch.eye(2), torch.ones(1)),
            lambda: Clamp(torch.eye(2), torch.ones(2, 1)),
            lambda: Clamp(torch.ones(0, 4), torch.ones(0)),
            lambda: Clamp(torch.eye(2), torch.ones(2)).with_values(torch.ones(3)),
            lambda: Ablate(torch.tensor(1.0)),
            lambda: NullOut(torch.ones(1, 2)),
            lambda: NullOut(GOOD, torch.zeros(1)),
            lambda: Affine(torch.ones(3), GOOD),
            lambda: Affine(torch.ones(2, 3), GOOD),
            lambda: Affine(torch.ones(2, 2, 2), GOOD),
            lambda: ProjectionGate(torch.ones(1, 2)),
            lambda: ProjectionGate(torch.ones(0)),
            lambda: PromptGate(torch.ones(1, 2), 0, 0.0),
            lambda: RotateTo(torch.ones(4), torch.tensor(0.0)),
            lambda: RotateBy(torch.eye(2), torch.zeros(1)),
            lambda: AddKeepNorm(torch.ones(2, 2)),
            lambda: FeatureClamp(GOOD[None], torch.tensor(0.0), torch.tensor(0.0), GOOD, torch.tensor(0.0)),
        ],
    )
    def test_shapes(self, make):
        with pytest.raises(InputError) as error:
            make()
        assert any(word in one_line(error) for word in ("shape", "directions"))

    def test_planes_and_features(self):
        zero = torch.tensor(0.0)
        with pytest.raises(InputError, match="orthonormal; their products are off by 2"):
            RotateTo(torch.ones(2, 2), zero)
        with pytest.raises(InputError, match="a plane has 2 rows, not 3"):
            RotateBy(torch.eye(3), zero)
        with pytest.raises(InputError, match="width 2 and its decoder 3"):
            FeatureClamp(GOOD, zero, zero, torch.ones(3), zero)
        with pytest.raises(InputError, match="at least 0"):
            FeatureClamp(GOOD, zero, torch.tensor(-1.0), GOOD, zero)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"direction": torch.zeros(2)}, "condition direction is zero"),
            ({"direction": torch.tensor([NAN, 1.0])}, "NaN or infinite"),
            ({"threshold": INF}, "NaN or infinite"),
            ({"side": 0}, r"side of a prompt gate is 0; allowed: \(1, -1\)"),
            ({"similarity": 3}, r"similarity of a prompt gate is 3"),
            ({"layer": -1}, "negative"),
            ({"layer": 1.5}, "must be a block number"),
        ],
    )
    def test_conditions(self, given, said):
        with pytest.raises(InputError, match=said):
            PromptGate(**{"direction": GOOD, "layer": 0, "threshold": 0.0} | given)

    def test_more_directions_than_dimensions(self):
        with pytest.raises(InputError, match="nearly parallel"):
            Clamp(random(0, 3, 2), torch.ones(3))

    @many
    @given(seeds, st.integers(2, 4), st.sampled_from([0.5, 0.9, 1.1, 2.0, 1e3]))
    def test_the_condition_number_decides(self, seed, rank, part):
        w = skewed(seed, rank, 16, part * MAX_CONDITION)
        if part < 1:
            Clamp(w, torch.ones(rank)), Ablate(w)
        else:
            for make in (lambda: Clamp(w, torch.ones(rank)), lambda: Ablate(w)):
                with pytest.raises(InputError, match=r"condition number of W W\^T above 10000"):
                    make()

    def test_unknown_kind_and_wrong_tensors_of_a_file(self):
        with pytest.raises(InputError, match="unknown transform 'rotate'"):
            build_transform("rotate", {})
        with pytest.raises(InputError, match=r"needs tensors \['directions', 'values'\]"):
            build_transform("clamp", {"directions": GOOD})
        with pytest.raises(InputError, match="gram_inverse"):
            build_transform("ablate", {"directions": GOOD, "gram_inverse": GOOD})


@many
@given(seeds, st.integers(1, 5))
def test_the_gram_inverse_is_the_inverse(seed, rank):
    w = skewed(seed, rank, 12, 1000.0 if rank > 1 else 1.0)
    assert (check_gram("w", w) @ w @ w.T - torch.eye(rank)).abs().max() < 1e-9


def one_of_each(w):
    """Every kind of transform, of rows (2, 6)."""
    plane = orthonormal(4, 2, 6)
    return (
        *(Add(w[0]), AddKeepNorm(w[0]), Clamp(w, w[0, :2]), Ablate(w), NullOut(w[0], w[0, 0]), Affine(w[0], w[1])),
        *(LowRank(plane, w, w[0, :2]), RotateTo(plane, w[0, 0]), RotateBy(plane, w[0, 1])),
        FeatureClamp(w[0], w[1, 0], w[1, 1].abs(), w[1], w[0, 2]),
    )


def test_every_kind_is_read_back_from_its_tensors():
    w = random(0, 2, 6)
    assert {transform.kind for transform in one_of_each(w)} == {*TRANSFORMS}
    for transform in one_of_each(w):
        again = build_transform(transform.kind, transform.tensors())
        assert type(again) is type(transform) is TRANSFORMS[transform.kind]
        assert (again.width, again.rank) == (transform.width, transform.rank)
        assert again.tensors().keys() == transform.tensors().keys()
        assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in transform.tensors().items())
        assert all(
            torch.equal(t, transform.tensors()[n]) for n, t in transform.to(torch.device("cpu")).tensors().items()
        )


def test_directions_to_read():
    w = random(0, 2, 6).float()
    assert torch.equal(probe_directions(Clamp(w, w[0, :2])), w)
    assert torch.equal(probe_directions(Ablate(w)), w)
    for transform in (Add(w[0]), NullOut(w[0])):
        assert probe_directions(transform).allclose(w[:1] / w[0].norm())
    with pytest.raises(InputError, match="no direction to read"):
        probe_directions(Affine(w[0], w[1]))


def test_every_kind_survives_saving(tmp_path):
    edits = []
    for transform in one_of_each(random(0, 2, 6)):
        gate = (
            PromptGate(random(1, 6), 1, 0.1 + 0.2, -1, 2)
            if transform.kind == "rotate_by"
            else ProjectionGate(torch.arange(6.0))
        )
        scales = "transform" if transform.kind.startswith(("rotate", "feature")) else "strength"
        edits.append(Edit(Intervention(Site(1), transform, gate=gate), scales=scales))
    vector = SteeringVector("made", ModelCard("m", 6, 2), tuple(edits))
    vector.save(tmp_path / "v")
    again = SteeringVector.load(tmp_path / "v")
    assert again.content_hash == vector.content_hash
    for edit, read in zip(vector.edits, again.edits, strict=True):
        first, second = (e.resolve("elicit", 0.7, "gap") for e in (edit, read))
        h = random(3, 9, 6)
        assert torch.equal(first.transform(h), second.transform(h))
        assert first.gate.settings() == second.gate.settings()
        assert type(first.gate) is type(second.gate)
