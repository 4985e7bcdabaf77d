"""The tiny models: every family runs, depends on its context, repeats with its seed, and survives saving."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trimtab.cli.tiny import main
from trimtab.errors import InputError
from trimtab.models.tiny import FAMILIES, make_tiny_model, tiny_model
from trimtab.models.tiny_text import SPECIAL_TOKENS, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def logits_of(hf, ids):
    with torch.no_grad():
        return hf(torch.tensor(ids)).logits


class TestTokenizer:
    def test_special_tokens_have_the_first_ids(self, tokenizer):
        assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
        assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == SPECIAL_TOKENS[:3]

    def test_has_exactly_the_vocabulary_asked_for(self, tokenizer):
        assert len(tokenizer) == 512
        assert len(tiny_tokenizer(vocab_size=300)) == 300

    def test_a_large_vocabulary_ends_where_the_sentences_do(self):
        assert 512 < len(tiny_tokenizer(vocab_size=100_000)) < 2000

    def test_puts_bos_in_front_and_nothing_behind(self, tokenizer):
        ids = tokenizer("Hello there")["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert ids[1:] == tokenizer("Hello there", add_special_tokens=False)["input_ids"]

    @pytest.mark.parametrize("text", ["plain words", "  two  blanks ", "ünï 😀\n\ttab", "<|user|>\nhi<|end|>", ""])
    def test_reads_every_text_without_loss(self, tokenizer, text):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text

    def test_words_of_its_sentences_are_few_tokens(self, tokenizer):
        text = "The little girl played in the park"
        assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) < len(text) / 2

    def test_is_the_same_in_another_process(self, tokenizer):
        code = "from trimtab.models.tiny_text import tiny_tokenizer as t; print(t().backend_tokenizer.to_str())"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == tokenizer.backend_tokenizer.to_str()

    def test_template_spells_out_the_turns(self, tokenizer):
        turns = [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": " Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Bye"},
        ]
        assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
            "<bos><|system|>\nBe kind.<|end|>\n<|user|>\n Hi<|end|>\n<|assistant|>\nHello<|end|>\n"
            "<|user|>\nBye<|end|>\n<|assistant|>\n"
        )

    def test_a_base_tokenizer_has_no_template(self):
        assert tiny_tokenizer(chat=False).chat_template is None

    def test_further_special_tokens_follow(self):
        tokenizer = tiny_tokenizer(extra_special_tokens=("[INST]",))
        assert tokenizer("[INST]", add_special_tokens=False)["input_ids"] == [len(SPECIAL_TOKENS)]

    def test_a_vocabulary_below_the_bytes_is_refused(self):
        with pytest.raises(InputError, match=r"vocab_size 100 is too small; 7 special tokens and 256 bytes need 263"):
            tiny_tokenizer(vocab_size=100)


class TestModels:
    @pytest.mark.parametrize("family", sorted(FAMILIES))
    def test_outputs_depend_on_the_whole_context(self, family):
        hf, tokenizer = tiny_model(family)
        ids = tokenizer("Tell me a story about the sea")["input_ids"]
        other = [*ids]
        other[1] += 1
        first, second = logits_of(hf, [ids, other])
        assert hf.config.model_type == family
        assert first.shape == (len(ids), hf.config.vocab_size)
        assert torch.isfinite(first).all()
        assert first.std() > 0.5
        assert torch.allclose(first[0], second[0], atol=1e-5)
        assert (first[-1] - second[-1]).abs().max() > 0.05

    @pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
    def test_shape_is_as_asked(self, family):
        hf, tokenizer = tiny_model(family, hidden_size=32, n_blocks=3, vocab_size=600, context_length=128)
        assert hf.config.hidden_size == 32
        assert hf.config.num_hidden_layers == 3
        assert hf.get_input_embeddings().weight.shape == (600, 32)
        assert hf.config.max_position_embeddings == 128
        assert tokenizer.model_max_length == 128
        assert (hf.config.bos_token_id, hf.config.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert not hf.training

    def test_seed_decides_the_weights_and_the_random_state_is_left_alone(self):
        before = torch.get_rng_state()
        first, again, other = (tiny_model(seed=seed).hf.lm_head.weight for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(torch.get_rng_state(), before)

    def test_dtype(self):
        assert tiny_model(dtype=torch.bfloat16).hf.dtype == torch.bfloat16

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"family": "lama"}, r"unknown model family 'lama'; allowed: bitnet, .*llama"),
            ({"hidden_size": 60}, r"hidden_size 60 does not fit; give a multiple of 8"),
            ({"hidden_size": 0}, r"hidden_size 0"),
            ({"n_blocks": 0}, r"n_blocks 0"),
        ],
    )
    def test_impossible_sizes_are_refused(self, settings, message):
        with pytest.raises(InputError, match=message):
            tiny_model(**settings)


class TestDirectory:
    def test_reads_back_the_same(self, tmp_path):
        path = make_tiny_model(tmp_path / "model", family="gemma2", seed=3)
        made, tokenizer = tiny_model("gemma2", seed=3)
        hf = AutoModelForCausalLM.from_pretrained(path)
        read = AutoTokenizer.from_pretrained(path)
        assert read.chat_template == tokenizer.chat_template
        ids = read("Once there was")["input_ids"]
        assert ids == tokenizer("Once there was")["input_ids"]
        assert torch.equal(logits_of(hf, [ids]), logits_of(made, [ids]))

    def test_a_base_model_has_no_template(self, tmp_path):
        path = make_tiny_model(tmp_path / "model", chat=False)
        assert AutoTokenizer.from_pretrained(path).chat_template is None

    def test_a_directory_that_holds_something_is_kept(self, tmp_path):
        (tmp_path / "note.txt").write_text("mine")
        with pytest.raises(InputError, match="exists already"):
            make_tiny_model(tmp_path)
        assert make_tiny_model(tmp_path, overwrite=True) == tmp_path
        assert (tmp_path / "note.txt").exists()


class TestCommand:
    def test_writes_the_path_and_nothing_else(self, tmp_path, capfd):
        assert main([str(tmp_path / "model"), "--family", "gpt2", "--n-blocks", "2", "--no-chat"]) == 0
        out, err = capfd.readouterr()
        assert out == f"{tmp_path / 'model'}\n"
        assert err == ""
        assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").config.n_layer == 2

    def test_a_wrong_family_is_one_line_and_exit_2(self, tmp_path, capfd):
        assert main([str(tmp_path / "model"), "--family", "lama"]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert "unknown model family 'lama'" in err
        assert not (tmp_path / "model").exists()
