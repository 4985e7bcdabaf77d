"""Hooks are exact: below a site nothing moves, at it the state is the formula's, above it the model runs on that."""

import pytest
import torch

from tests.families import (
    DEPTH,
    FAMILIES,
    HEAD,
    HEADS,
    TRANSFORMS,
    WIDTH,
    blocks_of,
    edit,
    editing,
    ids_of,
    model_of,
    place_of,
    run,
    steering,
    trace,
)
from trimtab.errors import InputError
from trimtab.models import capture, steer, tiny
from trimtab.models.families import FAMILIES as KNOWN
from trimtab.steering import Site

IDS = ids_of(2, 7)

INNER = [
    (family, site)
    for family, known in FAMILIES.items()
    for site in (
        Site(2, "resid_pre"),
        Site(1, "attn_in"),
        Site(1, "attn_in", head=2),
        Site(2, "attn_out"),
        Site(1, "mlp_act"),
        Site(1, "mlp_out"),
        Site(1, "norm_out"),
        Site(2, "norm_out", part=1),
    )
    if site.kind == "resid_pre" or (f"{site.kind}.{site.part}" if site.part else site.kind) in known.parts
]


def width_at(hf, family, site):
    """Width of the state that the edit sees."""
    if site.head is not None:
        return HEAD
    module, side = place_of(hf, family, site)
    seen = []
    with editing(module, side, lambda state: seen.append(state.shape[-1]) or state):
        run(hf, IDS)
    return seen[0]


def prove(family, site, name, strength=1.0):
    """Three runs: plain, steered, and the model with only the site's state replaced by what steering made of it."""
    hf = model_of(family)
    module, side = place_of(hf, family, site)
    path = next(path for path, other in hf.named_modules() if other is module)
    formula = TRANSFORMS[name](width_at(hf, family, site))
    plain = trace(hf, IDS)
    with steer(hf, steering(edit(formula.transform, site, strength=strength))):
        steered = trace(hf, IDS)
    here = next(k for k, (where, at, _) in enumerate(plain) if (where, at) == (path, side))

    assert [entry[:2] for entry in steered] == [entry[:2] for entry in plain]
    for (_, _, before), (_, _, after) in zip(plain[:here], steered[:here], strict=True):
        assert torch.equal(before, after)

    # The formula's sums run in another order than the library's: float32 rounding of numbers up to about 100.
    expected, part = plain[here][2].clone(), slice(None)
    if site.head is not None:
        part = slice(HEAD * site.head, HEAD * (site.head + 1))
    expected[..., part] += strength * (formula.plain(expected[..., part]) - expected[..., part])
    torch.testing.assert_close(steered[here][2], expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(steered[here][2], plain[here][2])

    with editing(module, side, lambda _: steered[here][2].clone()):
        oracle = trace(hf, IDS)
    for (where, at, theirs), (_, _, ours) in zip(oracle[here:], steered[here:], strict=True):
        if (where, at) != (path, side):  # there the oracle's own hook came before or after the trace's
            assert torch.equal(theirs, ours), where
    assert not torch.equal(steered[-1][2], plain[-1][2])


def test_every_tiny_family_is_in_the_matrix():
    assert set(FAMILIES) == set(tiny.FAMILIES)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_transform_at_the_residual_stream(family, name):
    prove(family, Site(1), name)


@pytest.mark.parametrize("layer", range(DEPTH))
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer(family, layer):
    prove(family, Site(layer), "clamp_1", strength=0.5)


@pytest.mark.parametrize(("family", "site"), INNER, ids=lambda value: str(value))
def test_every_kind_of_site(family, site):
    prove(family, site, "clamp_2")
    prove(family, site, "add", strength=-0.5)


@pytest.mark.parametrize("name", ["ablate", "null_out", "affine"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_other_transforms_inside_a_block(family, name):
    for site in (Site(1, "attn_in", head=3), Site(2, "mlp_act"), Site(0, "norm_out", part=1)):
        prove(family, site, name)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox", "falcon", "gemma3_text", "olmo2"])
def test_sites_are_what_their_names_say(family):
    """The sums of a block hold between the states of its sites: each is the right module on the right side."""
    hf = model_of(family)
    block = blocks_of(hf, family)[1]
    sites = {kind: Site(1, kind) for kind in ("resid_pre", "resid_post", "attn_in", "attn_out", "mlp_act", "mlp_out")}
    (row,) = capture(hf, [IDS[0].tolist()], list(sites.values()))
    h = {kind: row[site] for kind, site in sites.items()}
    parts = KNOWN[family]
    with torch.no_grad():
        out = {"attn_out": block.get_submodule(parts.attention_projection)(h["attn_in"])}
        out["mlp_out"] = block.get_submodule(parts.mlp_projection)(h["mlp_act"])
        attention, mlp = h["attn_out"], h["mlp_out"]
        if family in ("gemma2", "gemma3_text", "olmo2"):
            attention, mlp = block.post_attention_layernorm(attention), block.post_feedforward_layernorm(mlp)
        torch.testing.assert_close(out["attn_out"], h["attn_out"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(out["mlp_out"], h["mlp_out"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(h["resid_pre"] + attention + mlp, h["resid_post"], rtol=1e-4, atol=1e-4)
        parallel = family in ("gpt_neox", "falcon")  # their two branches read the same stream
        entrances = [h["resid_pre"], h["resid_pre"] if parallel else h["resid_pre"] + attention]
        for number, path in enumerate(parts.norms):
            (row,) = capture(hf, [IDS[0].tolist()], [Site(1, "norm_out", part=number)])
            expected = block.get_submodule(path)(entrances[number])
            torch.testing.assert_close(row[Site(1, "norm_out", part=number)], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_site_that_the_family_lacks_is_refused_in_one_line(family):
    hf = model_of(family)
    lacking = [
        Site(1, kind, part=part)
        for kind in ("attn_in", "mlp_act", "mlp_out", "norm_out")
        for part in range(3 if kind == "norm_out" else 1)
        if (f"{kind}.{part}" if part else kind) not in FAMILIES[family].parts
    ]
    for site in lacking:
        with pytest.raises(InputError) as error, steer(hf, steering(edit(TRANSFORMS["add"](WIDTH).transform, site))):
            run(hf, IDS)
        assert str(site) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_one_head_leaves_the_others_alone(family):
    hf = model_of(family)
    formula = TRANSFORMS["ablate"](HEAD)
    module, side = place_of(hf, family, Site(1, "attn_in"))
    seen = []
    with (
        steer(hf, steering(edit(formula.transform, Site(1, "attn_in", head=1)))),
        editing(module, side, lambda state: seen.append(state.clone()) or state),
    ):
        run(hf, IDS)
    with editing(module, side, lambda state: seen.append(state.clone()) or state):
        run(hf, IDS)
    heads = [state.unflatten(-1, (HEADS, HEAD)) for state in seen]
    same = [torch.equal(heads[0][..., k, :], heads[1][..., k, :]) for k in range(HEADS)]
    assert same == [True, False, True, True]
    with (
        pytest.raises(InputError, match=r"attn_in#4@1 does not exist: the model has 4 heads"),
        steer(hf, steering(edit(formula.transform, Site(1, "attn_in", head=4)))),
    ):
        run(hf, IDS)
