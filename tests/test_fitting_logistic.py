"""The logistic probe: at its minimum, folded back, balanced, and the same by way of the rows' span."""

import pytest
import torch
import torch.nn.functional as F

from trimtab.errors import InputError
from trimtab.fitting import logistic
from trimtab.fitting.logistic import fit_probe
from trimtab.fitting.ridge import split_pairs, tune_probe


def rows(n, m, d, *, shift=1.0, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    positive = torch.randn(n, d, generator=generator, dtype=torch.float64) * 1.5 + shift
    negative = torch.randn(m, d, generator=generator, dtype=torch.float64) - shift
    return positive.to(dtype), negative.to(dtype)


def objective(positive, negative, weight, bias, c, *, balanced=True):
    """sum_i k_i log(1 + exp(-y_i z_i)) + |w|^2 / (2 c), written out."""
    n = len(positive) + len(negative)
    k = (n / (2 * len(positive)), n / (2 * len(negative))) if balanced else (1.0, 1.0)
    up, down = positive.double() @ weight + bias, negative.double() @ weight + bias
    return k[0] * F.softplus(-up).sum() + k[1] * F.softplus(down).sum() + weight @ weight / (2 * c)


@pytest.mark.parametrize(("n", "m", "d"), [(30, 30, 5), (40, 9, 5), (6, 9, 50), (1, 1, 3)])
@pytest.mark.parametrize("c", [1e-3, 1.0, 1e2])
def test_the_gradient_is_zero_at_the_minimum(n, m, d, c):
    positive, negative = rows(n, m, d, shift=0.3)
    probe = fit_probe(positive, negative, c=c, standardise=False)
    weight = probe.weight.double().requires_grad_()
    bias = torch.tensor(probe.bias, dtype=torch.float64, requires_grad=True)
    gradients = torch.autograd.grad(objective(positive, negative, weight, bias, c), [weight, bias])
    scale = max(1.0, 1 / c) * (n + m)  # the weight itself is kept in float32
    assert max(float(gradient.abs().max()) for gradient in gradients) < 3e-6 * scale


def test_standardised_it_is_the_probe_of_standardised_rows_folded_back():
    positive, negative = rows(20, 30, 6)
    both = torch.cat([positive, negative]).double() * torch.tensor([1.0, 10, 0.1, 3, 1, 1e3]) + 5
    positive, negative = both[:20], both[20:]
    mean, scale = both.mean(dim=0), both.std(dim=0, correction=0)
    plain = fit_probe((positive - mean) / scale, (negative - mean) / scale, standardise=False)
    folded = fit_probe(positive, negative)
    torch.testing.assert_close(folded.logits(both), plain.logits((both - mean) / scale), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("standardise", [True, False])
def test_by_way_of_the_span_it_is_the_same(standardise, monkeypatch):
    """With fewer rows than columns the minimum is looked for in their span; all columns at once give the same."""
    positive, negative = rows(7, 8, 40, shift=0.2)
    short = fit_probe(positive, negative, standardise=standardise)
    doubled = [torch.cat([side] * 4) for side in (positive, negative)]  # 60 rows: no span, the data term weighs 4 times
    whole = fit_probe(*doubled, c=0.25, standardise=standardise)
    torch.testing.assert_close(short.weight, whole.weight, rtol=1e-4, atol=1e-6)
    assert short.bias == pytest.approx(whole.bias, abs=1e-5)


def test_both_classes_weigh_alike():
    """Three times as many rows of one class change the scale of the loss and nothing else."""
    positive, negative = rows(12, 12, 3, shift=0.2)
    once = fit_probe(positive, negative, c=1.0, standardise=False)
    tripled = fit_probe(torch.cat([positive] * 3), negative, c=0.5, standardise=False)  # n doubles, and so does k's sum
    torch.testing.assert_close(once.weight, tripled.weight, rtol=1e-4, atol=1e-6)
    lopsided = objective(positive, negative[:3], once.weight.double(), once.bias, 1.0)
    plain = objective(positive, negative[:3], once.weight.double(), once.bias, 1.0, balanced=False)
    assert lopsided != plain


def test_swapped_classes_swap_its_sign():
    positive, negative = rows(15, 11, 4, shift=0.3)
    probe, swapped = fit_probe(positive, negative), fit_probe(negative, positive)
    torch.testing.assert_close(probe.weight, -swapped.weight, rtol=1e-5, atol=1e-7)
    assert probe.bias == pytest.approx(-swapped.bias, abs=1e-6)


def test_columns_that_are_constant_take_no_part():
    positive, negative = rows(10, 10, 3, shift=0.3)
    wide = [torch.cat([1e-3 * side, torch.full((10, 1), 1000.1)], dim=1) for side in (positive, negative)]
    probe, plain = fit_probe(*wide), fit_probe(1e-3 * positive, 1e-3 * negative)
    assert float(probe.weight[-1]) == 0
    torch.testing.assert_close(probe.weight[:-1], plain.weight)


def test_accuracy_is_the_mean_of_the_classes():
    probe = logistic.Probe(torch.tensor([1.0]), 0.0, 0.0)
    assert probe.balanced_accuracy(torch.tensor([[1.0], [-1.0]]), torch.tensor([[-1.0]] * 5)) == 0.75


@pytest.mark.parametrize(
    ("positive", "negative", "given", "said"),
    [
        (torch.zeros(0, 3), torch.ones(2, 3), {}, "0 and 2"),
        (torch.ones(2, 3), torch.ones(4, 3), {}, "all 6 states"),
        (torch.full((2, 3), torch.nan), torch.ones(2, 3), {}, "not finite"),
        (torch.zeros(2, 3), torch.ones(2, 3), {"c": 0.0}, "c is 0.0"),
    ],
)
def test_what_it_cannot_use_is_refused(positive, negative, given, said):
    with pytest.raises(InputError, match=said):
        fit_probe(positive, negative, **given)


class TestTuned:
    STRENGTHS = torch.logspace(-4, 2, 13, dtype=torch.float64).tolist()

    @pytest.mark.parametrize("n", [5, 6, 11, 100])
    def test_every_pair_is_in_one_part(self, n):
        parts = split_pairs(n, 0)
        assert sorted(torch.cat(parts).tolist()) == list(range(n))
        assert min(map(len, parts)) >= 1
        assert (len(parts.test), len(parts.validation)) == (
            max(1, round(n / 5)),
            max(1, round((n - len(parts.test)) / 5)),
        )

    @pytest.mark.parametrize("d", [4, 60])
    def test_folded_back_it_gives_the_standardised_logits(self, d):
        positive, negative = rows(20, 20, d)
        tuned = tune_probe(positive * 3 + 7, negative * 3 + 7, self.STRENGTHS, seed=0)
        states = torch.cat([positive, negative]) * 3 + 7
        standard = tuned.standard.logits((states.double() - tuned.mean) / tuned.scale)
        torch.testing.assert_close(tuned.probe.logits(states), standard, rtol=1e-5, atol=1e-5)

    def test_of_ties_it_takes_the_smallest(self):
        positive, negative = rows(30, 30, 4, shift=30.0)  # every c separates these
        tuned = tune_probe(positive, negative, self.STRENGTHS, seed=0)
        assert (tuned.c, tuned.validation, tuned.test) == (self.STRENGTHS[0], 1.0, 1.0)

    def test_it_is_the_fit_to_training_and_validation_rows(self):
        positive, negative = rows(25, 25, 30, shift=0.2)
        tuned = tune_probe(positive, negative, [0.3], seed=1)
        parts = split_pairs(25, 1)
        known = torch.cat([parts.train, parts.validation])
        train = torch.cat([side[parts.train] for side in (positive, negative)]).double()
        mean, scale = train.mean(dim=0), train.std(dim=0, correction=0)
        wanted = fit_probe((positive[known] - mean) / scale, (negative[known] - mean) / scale, c=0.3, standardise=False)
        torch.testing.assert_close(tuned.standard.weight, wanted.weight, rtol=1e-4, atol=1e-6)
        assert tuned.test == tuned.probe.balanced_accuracy(positive[parts.test], negative[parts.test])

    def test_too_few_pairs_and_constant_states_are_refused(self):
        with pytest.raises(InputError, match="4 pairs"):
            tune_probe(*rows(4, 4, 3), self.STRENGTHS, seed=0)
        with pytest.raises(InputError, match="are the same"):
            tune_probe(torch.ones(6, 3), torch.ones(6, 3), self.STRENGTHS, seed=0)
