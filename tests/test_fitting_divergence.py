"""Jensen-Shannon divergence against a float64 oracle: values, gradients, extremes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.fitting.divergence import jensen_shannon

many = settings(max_examples=60)
seeds = st.integers(0, 2**31 - 1)
LOG2 = math.log(2)


def random(seed, *shape, scale=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def oracle(logits, teacher_logits):
    """JS a row and its gradient on the logits, float64, by automatic differentiation."""
    x = logits.double().clone().requires_grad_()
    log_p, log_q = torch.log_softmax(x, dim=-1), torch.log_softmax(teacher_logits.double(), dim=-1)
    log_m = torch.logaddexp(log_p, log_q) - LOG2
    kl_p = torch.where(log_p.isneginf(), 0, log_p.exp() * (log_p - log_m))
    kl_q = torch.where(log_q.isneginf(), 0, log_q.exp() * (log_q - log_m))
    value = 0.5 * (kl_p + kl_q).sum(dim=-1)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def exact(logits, teacher_logits):
    """JS a row in plain Python, with 0 log 0 = 0."""

    def softmax(row):
        top = max(row)
        powers = [math.exp(x - top) for x in row]
        return [power / math.fsum(powers) for power in powers]

    values = []
    for row, other in zip(logits.tolist(), teacher_logits.tolist(), strict=True):
        p, q = softmax(row), softmax(other)
        terms = [0.5 * a * math.log(2 * a / (a + b)) for a, b in zip(p + q, q + p, strict=True) if a > 0]
        values.append(math.fsum(terms))
    return torch.tensor(values, dtype=torch.float64)


def of(logits, teacher_logits):
    return jensen_shannon(logits, torch.log_softmax(teacher_logits.float(), dim=-1))


@many
@given(seeds, st.integers(1, 6), st.sampled_from([2, 3, 50, 1000]), st.sampled_from([0.01, 1.0, 10.0]))
def test_values_and_gradients_are_those_of_float64(seed, n, v, scale):
    logits, teacher = random(seed, n, v, scale=scale), random(seed + 1, n, v, scale=scale)
    loss = of(logits, teacher)
    value, gradient = oracle(logits, teacher)
    assert (value - exact(logits, teacher)).abs().max() < 1e-12
    assert loss.value.dtype == loss.gradient.dtype == torch.float32
    assert (loss.value - value).abs().max() < 1e-6
    assert (loss.gradient - gradient).abs().max() < 1e-6


@many
@given(seeds, st.sampled_from([1e-4, 1e-3, 1e-2]))
def test_near_agreement_the_error_stays_that_of_float32(seed, step):
    teacher = random(seed, 4, 200)
    logits = teacher + step * random(seed + 1, 4, 200)
    loss = of(logits, teacher)
    value, gradient = oracle(logits, teacher)
    assert (loss.value - value).abs().max() < 5e-7 + 1e-3 * value.max()
    assert (loss.gradient - gradient).abs().max() < 2e-8 + 1e-3 * gradient.abs().max()


def test_gradient_by_finite_differences():
    logits, teacher = random(0, 1, 12).double(), random(1, 1, 12).double()
    gradient = of(logits, teacher).gradient[0].double()
    step = 1e-5
    for k in range(12):
        up, down = logits.clone(), logits.clone()
        up[0, k] += step
        down[0, k] -= step
        slope = (exact(up, teacher) - exact(down, teacher)) / (2 * step)
        assert abs(slope.item() - gradient[k].item()) < 1e-6


@many
@given(seeds)
def test_is_symmetric_bounded_and_zero_for_equal_distributions(seed):
    a, b = random(seed, 5, 300, scale=4.0), random(seed + 1, 5, 300, scale=4.0)
    there, back = of(a, b).value, of(b, a).value
    assert (there - back).abs().max() < 1e-6
    assert there.min() >= -5e-7
    assert there.max() <= LOG2 + 1e-6
    same = of(a, a + 3.0)  # a constant added to the logits changes no distribution
    assert same.value.abs().max() < 1e-6
    assert same.gradient.abs().max() < 1e-6
    assert of(a, a).value.abs().max() < 5e-7


@many
@given(seeds)
def test_the_gradient_of_a_row_sums_to_zero(seed):
    gradient = of(random(seed, 5, 100, scale=3.0), random(seed + 1, 5, 100)).gradient
    assert gradient.sum(dim=-1).abs().max() < 1e-6


@many
@given(seeds, st.integers(2, 6))
def test_rows_do_not_know_of_each_other(seed, n):
    logits, teacher = random(seed, n, 77, scale=3.0), random(seed + 1, n, 77)
    whole = of(logits, teacher)
    for k in range(n):
        alone = of(logits[k : k + 1], teacher[k : k + 1])
        assert torch.allclose(alone.value[0], whole.value[k], rtol=0, atol=1e-7)
        assert torch.allclose(alone.gradient[0], whole.gradient[k], rtol=0, atol=1e-7)


@pytest.mark.parametrize("gap", [20.0, 90.0, 120.0, 1e3, 1e4, 1e30])
def test_extreme_gaps_give_no_nan(gap):
    v = 30
    logits, teacher = torch.zeros(4, v), torch.zeros(4, v)
    logits[0, 0], teacher[0, 1] = gap, gap  # each sure of another token
    logits[1, 0], teacher[1, 0] = gap, gap  # both sure of one token
    logits[2, 0] = gap
    teacher[3, 0] = -gap
    loss = of(logits, teacher)
    value, gradient = oracle(logits, teacher)
    assert torch.isfinite(loss.value).all()
    assert torch.isfinite(loss.gradient).all()
    assert (loss.value - value).abs().max() < 1e-6
    assert (loss.gradient - gradient).abs().max() < 1e-6
    if gap > 50:
        assert loss.value[0].item() == pytest.approx(LOG2, abs=1e-6)


@pytest.mark.parametrize("side", ["student", "teacher", "both", "each its own", "all but one"])
def test_ruled_out_tokens_have_minus_infinity(side):
    logits, teacher = random(0, 3, 40), random(1, 3, 40)
    out = float("-inf")
    if side in ("student", "both"):
        logits[:, 5:9] = out
    if side in ("teacher", "both"):
        teacher[:, 5:9] = out
    if side == "each its own":
        logits[:, :20], teacher[:, 20:] = out, out
    if side == "all but one":
        logits[:, 1:], teacher[:, :-1] = out, out
    loss = of(logits, teacher)
    wanted = exact(logits, teacher)
    assert torch.isfinite(loss.gradient).all()
    assert (loss.value - wanted).abs().max() < 1e-6
    assert loss.gradient[logits == out].abs().max().item() == 0.0 if (logits == out).any() else True
    low, low_teacher = logits.clamp_min(-300.0), teacher.clamp_min(-300.0)
    assert (loss.gradient - oracle(low, low_teacher)[1]).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_computed_in_float32(dtype):
    logits, teacher = random(0, 6, 500, scale=5.0).to(dtype), random(1, 6, 500)
    loss = of(logits, teacher)
    again = of(logits.float(), teacher)
    assert loss.value.dtype == torch.float32
    assert torch.allclose(loss.value, again.value, rtol=0, atol=1e-7)
    assert torch.allclose(loss.gradient, again.gradient, rtol=0, atol=1e-7)


def test_inputs_are_not_changed():
    logits, teacher = random(0, 3, 9), torch.log_softmax(random(1, 3, 9), dim=-1)
    before = logits.clone(), teacher.clone()
    jensen_shannon(logits, teacher)
    assert torch.equal(logits, before[0])
    assert torch.equal(teacher, before[1])


def test_nan_stays_nan():
    """A broken model must not look like one that agrees with its teacher."""
    logits = random(0, 2, 9)
    logits[0, 3] = math.nan
    loss = of(logits, random(1, 2, 9))
    assert loss.value.isnan().tolist() == [True, False]
    assert of(random(1, 2, 9), logits).value.isnan().tolist() == [True, False]


def test_a_large_vocabulary():
    logits, teacher = random(0, 2, 256_000, scale=3.0), random(1, 2, 256_000, scale=3.0)
    loss = of(logits, teacher)
    value, gradient = oracle(logits, teacher)
    assert (loss.value - value).abs().max() < 1e-5
    assert (loss.gradient - gradient).abs().max() < 1e-7
