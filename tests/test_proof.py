"""What is taken for the same but for rounding."""

import pytest
import torch

from trimtab.models.proof import TOLERANCE, agrees


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rounding_passes(dtype):
    plain = torch.randn(200, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert agrees("rounded", plain * (1 + TOLERANCE[dtype] / 2), plain)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_one_wrong_token_among_many_does_not(dtype):
    """As where one row reaches a token beyond a window: lost in the norm of all, and wrong all the same."""
    plain = torch.randn(20_000, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    short = plain.clone()
    short[77] *= 1.5
    assert float((short - plain).float().norm() / plain.float().norm()) < 0.02
    assert not agrees("one", short, plain)


def test_a_large_token_does_not_hide_the_others():
    """The first token of trained models has states a hundred times as long as the rest."""
    plain = torch.randn(100, 64, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    plain[0] *= 300
    short = plain.clone()
    short[1:] *= 1.3
    assert not agrees("hidden", short, plain)


def test_what_is_not_finite_does_not_pass():
    plain = torch.ones(3, 4)
    assert not agrees("broken", torch.full((3, 4), torch.nan), plain)
