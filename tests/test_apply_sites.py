"""Hooks are exact: below a site nothing moves, at it the state is the formula's, above it the model runs on that."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

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
    state_out,
    steering,
    trace,
)
from trimtab.errors import InputError
from trimtab.models import capture, steer, tiny
from trimtab.models.families import FAMILIES as KNOWN
from trimtab.models.families import hook_point
from trimtab.steering import Site

IDS = ids_of(2, 7)
POST_NORMS = ("gemma2", "gemma3_text", "olmo2")
"""Families that normalise what a branch puts out before it joins the stream."""

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


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_are_what_their_names_say(family):
    """The sums of a block hold between the states of its sites: each is the right module on the right side."""
    hf, parts = model_of(family), KNOWN[family]
    block = blocks_of(hf, family)[1]
    sites = {kind: Site.parse(f"{kind}@1") for kind in ("resid_pre", "resid_post", *FAMILIES[family].parts)}
    (row,) = capture(hf, [IDS[0].tolist()], list(sites.values()))
    h = {kind: row[site] for kind, site in sites.items()}

    def same(found, expected, tolerance=1e-5):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)

    with torch.no_grad():
        same(block.get_submodule(parts.attention_projection)(h["attn_in"]), h["attn_out"])
        attention = h["attn_out"]
        if family in POST_NORMS:
            attention = block.post_attention_layernorm(attention)
        between = h["resid_pre"] + attention
        parallel = family in ("gpt_neox", "falcon")  # their two branches read the same stream
        mlp_reads = h["resid_pre"] if parallel else between
        if family == "opt":  # no MLP module: its parts lie in the block
            mlp = block.fc2(block.activation_fn(block.fc1(block.final_layer_norm(mlp_reads))))
        else:
            norm = block.get_submodule(parts.norms[-1]) if parts.norms else torch.nn.Identity()  # Falcon's is for both
            same(state_out(block.get_submodule(parts.mlp)(norm(mlp_reads)[None]))[0], h["mlp_out"], 1e-4)
            mlp = block.post_feedforward_layernorm(h["mlp_out"]) if family in POST_NORMS else h["mlp_out"]
        if "mlp_act" in h:
            same(block.get_submodule(parts.mlp_projection)(h["mlp_act"]), h["mlp_out"])
        same(between + mlp, h["resid_post"], 1e-4)
        for path, kind, state in zip(
            parts.norms, ("norm_out", "norm_out.1"), (h["resid_pre"], mlp_reads), strict=False
        ):
            same(block.get_submodule(path)(state), h[kind], 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_site_that_the_family_lacks_is_refused_in_one_line(family):
    """Before anything runs, by steering and reading alike."""
    hf = model_of(family)
    lacking = [
        Site(1, kind, part=part)
        for kind in ("attn_in", "attn_out", "mlp_act", "mlp_out", "norm_out")
        for part in range(3 if kind == "norm_out" else 1)
        if (f"{kind}.{part}" if part else kind) not in FAMILIES[family].parts
    ]
    assert Site(1, "norm_out", part=2) in lacking
    for site in lacking:
        with pytest.raises(InputError) as error, steer(hf, steering(edit(TRANSFORMS["add"](WIDTH).transform, site))):
            pass
        with pytest.raises(InputError) as same:
            capture(hf, IDS.tolist(), [site])
        assert str(site) in str(error.value)
        assert "\n" not in str(error.value)
        assert str(same.value) == str(error.value)


class TestRefusals:
    @pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss"])
    def test_experts_have_no_one_projection(self, family):
        block = blocks_of(model_of(family), family)[1]
        wanted = rf"^site mlp_act@1: this '{family}' block has no 'mlp.down_proj', its experts have each their own; use"
        with pytest.raises(InputError, match=wanted):
            hook_point(block, Site(1, "mlp_act"), family)

    def test_a_block_without_experts_among_others_has_it(self):
        """Qwen3-MoE's configuration may leave some blocks dense."""
        config = copy.deepcopy(model_of("qwen3_moe").config)
        config.mlp_only_layers = [1]
        hf = AutoModelForCausalLM.from_config(config).eval()
        site, seen = Site(1, "mlp_act"), []
        with editing(hf.model.layers[1].mlp.down_proj, "in", lambda state: seen.append(state.clone()) or state):
            run(hf, IDS)
        found = capture(hf, IDS.tolist(), [site])
        assert torch.equal(torch.stack([row[site] for row in found]), seen[0])
        with pytest.raises(InputError, match=r"this 'qwen3_moe' block has no 'mlp.down_proj'"):
            capture(hf, IDS.tolist(), [Site(2, "mlp_act")])

    @pytest.mark.parametrize("kind", ["mlp_act", "mlp_out"])
    def test_opt_s_mlp_sees_all_rows_in_one_line(self, kind):
        hf = model_of("opt")
        block = blocks_of(hf, "opt")[1]
        seen = []
        with editing(block.fc2, "out", lambda state: seen.append(state.shape) or state):
            run(hf, IDS)
        assert seen == [(IDS.numel(), WIDTH)]
        with pytest.raises(InputError, match=rf"^site {kind}@1: the MLP of a 'opt' block sees .* use resid_pre or"):
            hook_point(block, Site(1, kind), "opt")

    def test_opt_may_have_its_norms_behind_the_branches(self):
        """As the checkpoint of 350 million weights does."""
        config = copy.deepcopy(model_of("opt").config)
        config.do_layer_norm_before = False
        hf = AutoModelForCausalLM.from_config(config).eval()
        for part in (0, 1):
            site = Site(1, "norm_out", part=part)
            with pytest.raises(InputError, match=rf"^site {site} does not exist: .* stand behind its branches"):
                capture(hf, IDS.tolist(), [site])
        (row,) = capture(hf, [IDS[0].tolist()], [Site(1, "attn_in"), Site(1, "attn_out")])
        with torch.no_grad():
            found = hf.model.decoder.layers[1].self_attn.out_proj(row[Site(1, "attn_in")])
        torch.testing.assert_close(found, row[Site(1, "attn_out")], rtol=1e-5, atol=1e-5)

    def test_falcon_s_two_norms_at_one_entrance_are_neither_first_nor_second(self):
        config = copy.deepcopy(model_of("falcon").config)
        config.new_decoder_architecture, config.num_ln_in_parallel_attn = True, 2
        hf = AutoModelForCausalLM.from_config(config).eval()
        assert {"ln_attn", "ln_mlp"} <= dict(hf.transformer.h[1].named_children()).keys()
        with pytest.raises(InputError, match=r"^site norm_out@1: this 'falcon' block has no 'input_layernorm'; use"):
            capture(hf, IDS.tolist(), [Site(1, "norm_out")])

    def test_reading_where_rows_cannot_be_told_apart(self, monkeypatch):
        """OPT's last linear map sees the tokens of all rows in one line: they would be read as if of one row."""
        monkeypatch.setitem(KNOWN, "opt", replace(KNOWN["opt"], flat_mlp=False))
        for kind in ("mlp_act", "mlp_out"):
            for rows in (IDS, IDS[:1]):
                with pytest.raises(
                    InputError, match=rf"^site {kind}@1: the state is \(.*, not \(rows, tokens, width\)"
                ):
                    capture(model_of("opt"), rows.tolist(), [Site(1, kind)])


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
