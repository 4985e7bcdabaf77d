"""Positions and sites: their text forms, and masks against a plain loop over tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import InputError
from trimtab.steering import Geometry, Positions, Site
from trimtab.steering.site import KINDS

many = settings(max_examples=150)
counts = st.integers(0, 4)
rules = st.one_of(
    st.sampled_from(["all", "prompt", "response", "last"]),
    st.tuples(counts, counts).filter(any).map(lambda c: "+".join(f"{k}{n}" for k, n in zip("fl", c, strict=True) if n)),
)


def picks(rule, index, prefix, prompt, token, include_prefix, token_ids):
    """Whether a rule picks the token at `index` of a row, in so many words."""
    if index < 0:
        return False
    if token_ids and token not in token_ids:
        return False
    begin = 0 if include_prefix else prefix
    prompt_tokens = [k for k in range(prompt) if k >= begin]
    if rule == "all":
        return index >= begin
    if rule == "prompt":
        return index in prompt_tokens
    if rule == "response":
        return index >= prompt and index >= begin
    if rule == "last":
        return index in prompt_tokens and index == prompt - 1
    wanted = []
    for part in rule.split("+"):
        n = int(part[1:])
        wanted += prompt_tokens[:n] if part[0] == "f" else prompt_tokens[-n:]
    return index in wanted


@st.composite
def rows(draw):
    """Rows as tokens of a batch stand in a forward: pads left or right, or tokens that continue a cache."""
    columns = draw(st.integers(1, 10))
    index, prefix, prompt = [], [], []
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.integers(0, columns))
        start = draw(st.sampled_from([0, 0, 3]))
        places, pads = list(range(start, start + length)), [-1] * (columns - length)
        index.append(pads + places if draw(st.booleans()) else places + pads)
        prompt.append(draw(st.integers(0, 12)))
        prefix.append(draw(st.integers(0, 4)))
    ids = [[draw(st.integers(0, 3)) for _ in row] for row in index]
    return index, prefix, prompt, ids


@pytest.mark.parametrize("rule", ["all", "prompt", "response", "last", "f1", "l1", "f2+l1", "f3+l4"])
@settings(max_examples=80)
@given(rows(), st.booleans(), st.sampled_from([(), (), (2,), (0, 3)]))
def test_masks_are_those_of_a_loop_over_tokens(rule, batch, include_prefix, token_ids):
    index, prefix, prompt, ids = batch
    parsed = Positions.parse(rule, include_prefix=include_prefix)
    positions = Positions(parsed.scope, parsed.first, parsed.last, include_prefix, token_ids)
    geometry = Geometry(*map(torch.tensor, (index, prefix, prompt)), torch.tensor(ids))
    wanted = [
        [picks(rule, i, prefix[b], prompt[b], ids[b][s], include_prefix, token_ids) for s, i in enumerate(row)]
        for b, row in enumerate(index)
    ]
    assert positions.mask(geometry).tolist() == wanted
    in_prompt = [0 <= i < prompt[b] for b, row in enumerate(index) for i in row]
    picked = [p for row in wanted for p in row]
    if not positions.on_prompt:
        assert not any(p and q for p, q in zip(picked, in_prompt, strict=True))
    if not positions.on_response:
        assert not any(p and not q for p, q in zip(picked, in_prompt, strict=True))


@many
@given(rules, st.booleans())
def test_positions_survive_their_text(rule, include_prefix):
    positions = Positions.parse(rule, include_prefix=include_prefix)
    assert str(positions) == rule
    assert Positions.parse(str(positions), include_prefix=include_prefix) == positions
    assert hash(positions) == hash(Positions.parse(rule, include_prefix=include_prefix))
    assert positions.needs_prompt == (rule != "all")


@pytest.mark.parametrize(
    "text",
    ["", " ", "ALL", "edges", "f0", "l0", "f0+l0", "+", "f2+", "+l2", "f2l2", "l2+f2", "f-1", "f2+l2 ", "f\u0662", "x"],
)
def test_other_texts_are_no_positions(text):
    with pytest.raises(InputError, match="positions") as error:
        Positions.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "given", [("nowhere",), ("edges",), ("all", 1), ("last", 0, 2), ("edges", -1, 2), ("edges", 2, -1), ("prompt", -1)]
)
def test_counts_must_fit_the_scope(given):
    with pytest.raises(InputError):
        Positions(*given)


def test_token_ids_without_ids():
    geometry = Geometry(torch.tensor([[0]]), torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(InputError, match="need input_ids"):
        Positions(token_ids=(3,)).mask(geometry)


def test_token_ids_may_be_any_sequence():
    assert Positions(token_ids=[3, 4]) == Positions(token_ids=(3, 4))
    assert hash(Positions(token_ids=[3, 4])) == hash(Positions(token_ids=(3, 4)))
    assert [type(token) for token in Positions(token_ids=np.array([3, 4])).token_ids] == [int, int]
    for bad in ([1.5], ["1"], "12", [-1], [None]):
        with pytest.raises(InputError, match="whole numbers"):
            Positions(token_ids=bad)


@st.composite
def sites(draw):
    kind = draw(st.sampled_from(KINDS))
    head = draw(st.none() | st.integers(0, 40)) if kind == "attn_in" else None
    part = draw(st.integers(0, 3)) if kind == "norm_out" else 0
    return Site(draw(st.integers(0, 200)), kind, head, part)


@many
@given(sites())
def test_sites_survive_their_text(site):
    assert Site.parse(str(site)) == site
    assert hash(Site.parse(str(site))) == hash(site)


def test_site_texts():
    assert str(Site(3)) == "resid_post@3"
    assert str(Site(3, "attn_in", head=2)) == "attn_in#2@3"
    assert str(Site(3, "norm_out", part=1)) == "norm_out.1@3"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "@3",
        "resid_post",
        "resid_post@",
        "resid_post@-1",
        "resid_post@1.5",
        "resid@3",
        "resid_post@3 ",
        "resid_post#1@3",
        "mlp_out.1@3",
        "attn_in#-1@3",
        "attn_in#@3",
        "attn_in.1#2@3",
        "resid_post@٣",
    ],
)
def test_other_texts_are_no_sites(text):
    with pytest.raises(InputError) as error:
        Site.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "given",
    [(-1,), (0, "attn"), (0, "resid_pre", 1), (0, "attn_in", -1), (0, "mlp_out", None, 1), (0, "norm_out", None, -1)],
)
def test_impossible_sites(given):
    with pytest.raises(InputError):
        Site(*given)
