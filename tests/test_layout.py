"""Blocks, norm and head are found by structure; what is no causal stack of blocks is refused in one line."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedConfig,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.families import (
    DEPTH,
    FAMILIES,
    FURTHER,
    HEAD,
    WIDTH,
    blocks_of,
    edit,
    ids_of,
    model_of,
    normal,
    run,
    steering,
    tiny,
)
from trimtab.errors import InputError
from trimtab.models import Model, families, steer
from trimtab.models.families import BlockParts, hook_point
from trimtab.models.layout import check_layout, evaluating, find_layout, state_of, with_state
from trimtab.models.tiny import tiny_model
from trimtab.steering import Add, Site


class TestFinding:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_family(self, family):
        hf = model_of(family)
        layout = check_layout(hf, find_layout(hf))
        assert layout.model is hf
        assert layout.path == FAMILIES[family].blocks
        assert layout.blocks is blocks_of(hf, family)
        assert (layout.n_blocks, layout.hidden_size, layout.head_size) == (DEPTH, WIDTH, HEAD)
        assert layout.model_type == family
        returned = []
        handle = layout.blocks[0].register_forward_hook(lambda _, __, output: returned.append(type(output)))
        run(hf, ids_of(1, 2))
        handle.remove()
        assert layout.tuple_output == (returned == [tuple])
        assert layout.head_is_whole == (family != "gemma2")  # Gemma 2 caps its logits after the head
        assert layout.head is hf.get_output_embeddings()
        assert "norm" in type(layout.norm).__name__.lower()

    @pytest.mark.parametrize("family", FAMILIES)
    def test_norm_and_head_give_the_logits(self, family):
        hf = model_of(family)
        layout = check_layout(hf, find_layout(hf))
        last = []
        handle = layout.blocks[-1].register_forward_hook(lambda _, __, output: last.append(state_of(output)))
        logits = run(hf, ids_of(2, 5))
        handle.remove()
        with torch.no_grad():
            found = layout.head(layout.norm(last[0]))
        if not layout.head_is_whole:
            cap = hf.config.final_logit_softcapping
            found = cap * torch.tanh(found / cap)
        torch.testing.assert_close(found, logits)

    @pytest.mark.parametrize("family", FURTHER)
    def test_models_that_no_table_names(self, family):
        hf = model_of(family)
        layout = check_layout(hf, find_layout(hf))
        assert layout.blocks is blocks_of(hf, family)
        assert layout.head_is_whole == (family not in ("cohere", "granite"))
        assert layout.norm is not None

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("family", FAMILIES)
    def test_in_half_precision(self, family, dtype):
        hf, _ = tiny_model(family, dtype=dtype)
        layout = check_layout(hf, find_layout(hf))
        assert layout.norm is not None
        assert layout.head_is_whole == (family != "gemma2")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("family", ["gemma2", "llama"])
    def test_small_logits_hide_no_soft_cap(self, family, dtype):
        """At a hundredth of the cap it moves them by less than any tolerance."""
        hf, _ = tiny_model(family, dtype=dtype)
        hf.lm_head.weight = nn.Parameter(hf.lm_head.weight.detach() * 0.01)
        assert run(hf, ids_of(1, 8)).abs().max() < 0.5
        assert check_layout(hf, find_layout(hf)).head_is_whole == (family != "gemma2")

    def test_shapes_other_than_the_usual(self):
        hf, _ = tiny_model("llama", n_blocks=1, hidden_size=16)
        layout = check_layout(hf, find_layout(hf))
        assert (layout.n_blocks, layout.hidden_size, layout.head_size) == (1, 16, 4)

    def test_leaves_the_model_as_it_was(self):
        hf, _ = tiny_model("gpt2")
        hf.train()
        hf.transformer.h[2].eval()
        modes = [module.training for module in hf.modules()]
        hooks = [len(module._forward_hooks) for module in hf.modules()]
        check_layout(hf, find_layout(hf))
        assert [module.training for module in hf.modules()] == modes
        assert [len(module._forward_hooks) for module in hf.modules()] == hooks
        with pytest.raises(KeyError), evaluating(hf):
            raise KeyError
        assert [module.training for module in hf.modules()] == modes

    def test_gives_a_mask(self, monkeypatch):
        """Without one GPT-2 warns the user of ids that look like pads."""
        hf, masks = model_of("gpt2"), []
        monkeypatch.setattr(
            hf.transformer, "warn_if_padding_and_no_attention_mask", lambda ids, mask: masks.append(mask)
        )
        check_layout(hf, find_layout(hf))
        assert masks
        assert all(mask.all() for mask in masks)

    def test_a_tuple_and_a_tensor(self):
        a, b = torch.zeros(1), torch.ones(1)
        assert state_of(a) is a
        assert state_of((a, b)) is a
        assert with_state(a, b) is b
        assert with_state((a, b), b) == (b, b)


def small_llama(**settings):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaConfig(vocab_size=32, **sizes | settings)


def bert(cls, **settings):
    return cls(BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **settings))


class Strange(PreTrainedModel):
    """A causal model by name; the arguments decide what its blocks do."""

    config_class = PreTrainedConfig

    def __init__(self, order=(0, 1), causal=True, between=1.0, after=False):
        super().__init__(PreTrainedConfig(num_hidden_layers=2, hidden_size=8, vocab_size=16))
        self.embed, self.head = nn.Embedding(16, 8), nn.Linear(8, 16, bias=False)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.order, self.causal, self.between, self.after = order, causal, between, after

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask=None, use_cache=None):
        h = self.embed(input_ids)
        for k in self.order:
            mixed = h.cumsum(1) if self.causal else h + h.sum(1, keepdim=True)
            h = self.layers[k](mixed if k == 0 else h) * (self.between if k == 0 else 1.0)
        logits = self.head(2 * h if self.after else h)
        return type("Output", (), {"logits": logits, "__getitem__": lambda _, __: h})()


class TestRefusals:
    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda: nn.Linear(2, 2), "Linear is no Hugging Face model and holds none"),
            (lambda: Model(*tiny("llama")), r"Model is no torch module; give the Hugging Face model (model.hf"),
            (
                lambda: T5ForConditionalGeneration(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=2)),
                "T5ForConditionalGeneration is an encoder-decoder; trimtab steers decoder-only language models",
            ),
            (lambda: bert(BertForMaskedLM), "BertForMaskedLM: the module around bert.encoder.layer reads no token ids"),
            (lambda: bert(BertLMHeadModel, is_decoder=True), "reads no token ids"),
            (lambda: LlamaModel(small_llama()), "LlamaModel has no language-model head"),
            (lambda: Strange(causal=False), "Strange is not causal: a later token changes earlier states"),
            (lambda: Strange(order=(1, 0)), "Strange: the modules in layers do not run once each in order"),
            (lambda: Strange(order=(0, 1, 0, 1)), "do not run once each in order"),
            (lambda: Strange(order=(0,)), "do not run once each in order"),
            (lambda: Strange(between=2.0), "a block's input is not the block before's output"),
            (lambda: Strange(after=True), "the head does not read the output of layers"),
        ],
    )
    def test_in_one_line(self, build, message):
        hf = build()
        with pytest.raises(InputError, match=re.escape(message)) as error:
            check_layout(hf, find_layout(hf))
        assert "\n" not in str(error.value)

    def test_a_depth_that_no_list_has(self):
        hf, _ = tiny_model("llama")
        hf.config.num_hidden_layers = 7
        with pytest.raises(InputError, match="no module list of 7 blocks"):
            find_layout(hf)

    def test_a_model_that_fails_on_plain_tokens(self):
        hf, _ = tiny_model("llama")
        hf.model.layers[1].mlp.down_proj = nn.Linear(3, 3)
        with pytest.raises(InputError, match="failed on eight plain tokens") as error:
            check_layout(hf, find_layout(hf))
        assert "\n" not in str(error.value)


class TestParts:
    def test_a_family_outside_the_table_is_tried_with_llama_s_names(self):
        block = nn.Module()
        block.self_attn, block.mlp = nn.Module(), nn.Module()
        block.self_attn.o_proj = nn.Linear(2, 2)
        assert hook_point(block, Site(0, "attn_in"), "novel").module is block.self_attn.o_proj
        assert hook_point(block, Site(0, "mlp_out"), "novel").module is block.mlp
        with pytest.raises(InputError, match=r"this 'novel' block has no 'mlp.down_proj'; .* known for llama"):
            hook_point(block, Site(0, "mlp_act"), "novel")

    def test_but_not_where_the_same_names_mean_other_norms(self):
        """Behind a branch, Llama's second name would be found and be wrong (as in OLMo 2 and Gemma)."""
        block = blocks_of(model_of("gemma2"), "gemma2")[0]
        assert hook_point(block, Site(0, "norm_out", part=1), "gemma2").module is block.pre_feedforward_layernorm
        with pytest.raises(InputError, match="has norms of another kind"):
            hook_point(block, Site(0, "norm_out", part=1), "gemma9")
        with pytest.raises(InputError, match="0 norms at the entrance"):
            hook_point(blocks_of(model_of("olmo2"), "olmo2")[0], Site(0, "norm_out", part=1), "olmo2")

    def test_states_with_the_tokens_before_the_rows_are_refused(self):
        """XLNet's are (tokens, rows, width), with nothing else to show it."""
        sizes = {"d_model": WIDTH, "n_layer": DEPTH, "n_head": 4, "d_inner": WIDTH}
        hf = AutoModelForCausalLM.from_config(AutoConfig.for_model("xlnet", vocab_size=512, **sizes)).eval()
        with pytest.raises(InputError, match=r"state is \(8, 1, 64\), not \(rows, tokens, width\)"):
            check_layout(hf, find_layout(hf))
        with (
            pytest.raises(InputError, match=r"is \(5, 2, 64\), not \(rows, tokens, width\)"),
            steer(hf, steering(Add(normal(WIDTH)))),
        ):
            run(hf, ids_of(2, 5))

    def test_a_part_that_sees_all_tokens_in_one_row_is_refused(self, monkeypatch):
        """OPT flattens the batch for its MLP: rows and positions cannot be told apart there."""
        parts = replace(BlockParts(), mlp="fc2", mlp_projection="fc2")
        monkeypatch.setattr(families, "FAMILIES", {"opt": parts})
        hf = model_of("opt")
        for rows in (1, 2):
            with (
                pytest.raises(InputError, match=r"not \(rows, tokens, width\)"),
                steer(hf, steering(edit(Add(normal(WIDTH)), Site(1, "mlp_out")))),
            ):
                run(hf, ids_of(rows, 5))
