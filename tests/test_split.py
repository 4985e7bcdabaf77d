"""A model in parts is the model: trunk and upper blocks, head and what comes after it, values and gradients."""

import pytest
import torch

from tests.families import DEPTH, FAMILIES, FURTHER, MAIN, WIDTH, blocks_of, editing, ids_of, model_of, normal, run
from trimtab.models.capture import capture
from trimtab.models.layout import check_layout, find_layout
from trimtab.models.split import SplitModel, frozen
from trimtab.models.tiny import tiny_model
from trimtab.steering import Site

IDS = ids_of(3, 9)


def split_of(hf):
    return SplitModel(hf, check_layout(hf, find_layout(hf)))


@pytest.fixture(params=[*FAMILIES, *FURTHER])
def family(request):
    return request.param


def modules_of(hf):
    return [(path, id(module), dict(module._forward_hooks), module.training) for path, module in hf.named_modules()]


class TestValues:
    @pytest.mark.parametrize("layer", range(DEPTH))
    def test_trunk_and_upper_are_the_whole(self, family, layer):
        hf = model_of(family)
        plain, split = run(hf, IDS), split_of(hf)
        (expected,) = (row[Site(layer)] for row in capture(hf, [IDS[0].tolist()], [Site(layer)]))
        with frozen(hf):
            states = split.trunk(IDS, layer)
            final = split.upper(states, layer)
            logits = split.logits(final.flatten(0, 1)).unflatten(0, IDS.shape)
            (whole_states,), whole_final = split.whole(IDS, [layer])
        torch.testing.assert_close(states[0], expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(whole_states, states)
        torch.testing.assert_close(final, whole_final, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits, plain, rtol=1e-5, atol=1e-5 * plain.abs().max().item())

    def test_pads_behind_a_sequence_reach_nothing_before_them(self, family):
        hf = model_of(family)
        split = split_of(hf)
        padded = torch.cat([IDS, torch.zeros(3, 4, dtype=torch.int64)], dim=1)
        with frozen(hf):
            for layer in (0, DEPTH - 1):
                for long, short in zip(
                    flat(split.whole(padded, [0, layer])), flat(split.whole(IDS, [0, layer])), strict=True
                ):
                    atol = 1e-5 * short.abs().max().item()
                    torch.testing.assert_close(long[:, :9], short, rtol=1e-5, atol=atol)

    def test_logits_of_chosen_tokens(self, family):
        hf = model_of(family)
        split, plain = split_of(hf), run(hf, IDS)
        with frozen(hf):
            _, final = split.whole(IDS, [])
            chosen = split.logits(final[[0, 2, 2], [8, 0, 3]])
            one = split.logits(final[1, :1])
        atol = 1e-5 * plain.abs().max().item()
        torch.testing.assert_close(chosen, plain[[0, 2, 2], [8, 0, 3]], rtol=1e-5, atol=atol)
        torch.testing.assert_close(one, plain[1, :1], rtol=1e-5, atol=atol)
        assert split.vocabulary == plain.shape[-1]

    def test_tokens_before_the_states_can_be_keys_and_values(self, family):
        """What the states of the first three tokens would have contributed; families of running states have no such."""
        if family in ("jamba", "mamba"):
            pytest.skip("no keys and values in every block")
        hf = model_of(family)
        split = split_of(hf)
        with frozen(hf):
            for layer in (0, 2):
                states = split.trunk(IDS, layer)
                expected = split.upper(states, layer)[:, 3:]
                found = split.upper(states[:, 3:], layer, split.keys_and_values(IDS[:, :3]))
                atol = 1e-5 * expected.abs().max().item()
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=atol)

    def test_the_cap_behind_the_head_counts(self):
        """Gemma 2's capped logits differ from the bare head's, which is what makes the other path necessary."""
        hf = model_of("gemma2")
        final = 30 * normal(4, WIDTH)
        capped = split_of(hf).logits(final)
        bare = hf.lm_head(final)
        cap = hf.config.final_logit_softcapping
        assert not torch.allclose(capped, bare)
        torch.testing.assert_close(capped, cap * torch.tanh(bare / cap))


class TestGradients:
    @pytest.mark.parametrize("layer", [0, 2, DEPTH - 1])
    def test_of_the_state_are_those_of_the_full_model(self, family, layer):
        hf = model_of(family)
        split, target = split_of(hf), normal(*IDS.shape, 512)
        found = []
        with frozen(hf):
            states = split.trunk(IDS, layer)
            state = states.clone().requires_grad_()
            logits = split.logits(split.upper(state, layer).flatten(0, 1)).unflatten(0, IDS.shape)
            (logits * target).sum().backward()
            found.append(state.grad)
            state = states.clone().requires_grad_()
            with editing(blocks_of(hf, family)[layer], "out", lambda _: state):
                logits = hf(input_ids=IDS, use_cache=False).logits
            (logits * target).sum().backward()
            found.append(state.grad)
        scale = found[1].abs().max().item()
        torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5 * scale)
        assert scale > 0
        assert all(p.grad is None for p in hf.parameters())


class TestTheModelAfterwards:
    @pytest.mark.parametrize("family", [*MAIN, "falcon"])
    def test_is_untouched_and_keeps_its_hooks(self, family):
        hf, _ = tiny_model(family)
        hf.train()
        block, calls = blocks_of(hf, family)[2], []
        handle = block.register_forward_hook(lambda *_: calls.append(1))
        frozen_before = hf.get_input_embeddings().weight.requires_grad_(False)
        before, grads = modules_of(hf), [p.requires_grad for p in hf.parameters()]
        split = split_of(hf)
        calls.clear()
        with frozen(hf):
            assert not any(p.requires_grad for p in hf.parameters())
            assert not any(module.training for module in hf.modules())
            split.logits(split.upper(split.trunk(IDS, 1), 1)[0])
        assert calls == [1]  # above the trunk of block 1 it ran, in the trunk it did not
        assert modules_of(hf) == before
        assert [p.requires_grad for p in hf.parameters()] == grads
        assert not frozen_before.requires_grad
        handle.remove()

    @pytest.mark.parametrize("family", ["llama", "gemma2"])
    def test_after_an_exception(self, family):
        hf, _ = tiny_model(family)
        split, before = split_of(hf), modules_of(hf)
        with pytest.raises(RuntimeError), frozen(hf):
            split.upper(torch.zeros(1, 3, WIDTH + 1), 1)
        with pytest.raises(RuntimeError), frozen(hf):
            split.logits(torch.zeros(3, WIDTH + 1))
        with pytest.raises(IndexError), frozen(hf):
            split.trunk(IDS + 10_000, 1)
        assert modules_of(hf) == before
        assert all(p.requires_grad for p in hf.parameters())

    def test_no_weight_is_owned_twice_meanwhile(self):
        hf, _ = tiny_model("llama")
        split, names = split_of(hf), set(dict(hf.named_parameters()))
        with frozen(hf), split._skipping(range(2)):
            left = {name for name in names if ".layers.0." not in name and ".layers.1." not in name}
            assert set(dict(hf.named_parameters())) == left
        assert set(dict(hf.named_parameters())) == names


def flat(found):
    """The states and the head's input of `SplitModel.whole` in one list."""
    states, final = found
    return [*states, final]
