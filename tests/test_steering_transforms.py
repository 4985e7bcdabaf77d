"""The algebra of the transforms: what each sets, what it leaves alone, and what it refuses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import InputError
from trimtab.steering import Ablate, Add, Affine, Clamp, NullOut, ProjectionGate, probe_directions
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
        ],
    )
    def test_shapes(self, make):
        with pytest.raises(InputError) as error:
            make()
        assert any(word in one_line(error) for word in ("shape", "directions"))

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


def test_every_kind_is_read_back_from_its_tensors():
    w = random(0, 2, 6)
    for transform in (Add(w[0]), Clamp(w, w[0, :2]), Ablate(w), NullOut(w[0], w[0, 0]), Affine(w[0], w[1])):
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
