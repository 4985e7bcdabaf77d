"""Loading: what a wrong name, a wrong folder, or a Hub that cannot be reached is called."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file

import trimtab as tt
from trimtab.models import load as load_module
from trimtab.models.tiny import FAMILIES, make_tiny_model, tiny_model


def raised(kind):
    """An error of the Hub's client without the HTTP answer that its constructor asks for."""
    return kind.__new__(kind)


def answered(status, kind=HfHubHTTPError):
    """An error of the Hub's client above an HTTP answer."""
    error = raised(kind)
    error.response = SimpleNamespace(status_code=status)
    return error


def hub_answers(monkeypatch, cause, *, offline=False):
    """Let transformers fail as it does: an OSError of its own above the Hub client's error."""

    def refuse(*_, **__):
        raise OSError("could not load the files") from cause

    monkeypatch.setattr(load_module.AutoConfig, "from_pretrained", refuse)
    monkeypatch.setattr(load_module, "is_offline_mode", lambda: offline)


@pytest.mark.parametrize(
    ("cause", "offline", "kind", "words"),
    [
        (raised(LocalEntryNotFoundError), False, tt.NetworkError, "cannot be reached"),
        (raised(LocalEntryNotFoundError), True, tt.InputError, "HF_HUB_OFFLINE"),
        (raised(RepositoryNotFoundError), False, tt.InputError, "check its name"),
        (raised(GatedRepoError), False, tt.InputError, "hf auth login"),
        (answered(404, RevisionNotFoundError), False, tt.InputError, "could not load the files"),
        (answered(404, RemoteEntryNotFoundError), False, tt.InputError, "could not load the files"),
        (answered(400), False, tt.InputError, "could not load the files"),
        (answered(429), False, tt.NetworkError, "try again"),
        (answered(503), False, tt.NetworkError, "try again"),
        (HTTPError("the connection broke off"), False, tt.NetworkError, "try again"),
        (TimeoutError(), False, tt.NetworkError, "try again"),
        (None, False, tt.InputError, "could not load the files"),
    ],
)
def test_what_the_hub_says_decides_the_error(monkeypatch, cause, offline, kind, words):
    hub_answers(monkeypatch, cause, offline=offline)
    with pytest.raises(kind, match=words) as caught:
        tt.load_model("somebody/some-model")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, tt.InputError) == (kind is tt.InputError)


def test_a_connection_that_breaks_off_while_weights_come(monkeypatch):
    """The client's own error arrives as it is, with nothing of transformers' around it."""

    def break_off(*_, **__):
        raise HTTPError("peer closed the connection\nwithout a word")

    monkeypatch.setattr(load_module.AutoConfig, "from_pretrained", break_off)
    monkeypatch.setattr(load_module, "is_offline_mode", lambda: False)
    with pytest.raises(tt.NetworkError, match="peer closed the connection without a word") as caught:
        tt.load_model("somebody/some-model")
    assert "\n" not in str(caught.value)


@pytest.fixture
def spoiled(tiny_path, tmp_path):
    """A copy of a model, to be spoiled."""
    return shutil.copytree(tiny_path, tmp_path / "spoiled")


def change_weights(path, change):
    weights = load_file(path / "model.safetensors")
    change(weights)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


class TestWeights:
    @pytest.mark.parametrize("tied", [False, True])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_family_comes_back_as_it_was_saved(self, tmp_path, family, tied):
        hf, tokenizer = tiny_model(family, hidden_size=32, n_blocks=2)
        if tied:
            hf.config.tie_word_embeddings = True
            hf.tie_weights()
        hf.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        loaded = tt.load_model(tmp_path).hf.state_dict()
        assert all(torch.equal(loaded[name], weight) for name, weight in hf.state_dict().items())

    @pytest.mark.parametrize("lost", ["model.layers.2.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight"])
    def test_one_that_is_missing(self, spoiled, lost):
        change_weights(spoiled, lambda weights: weights.pop(lost))
        with pytest.raises(tt.InputError, match=f"lacks weights .{lost}.; fetch") as caught:
            tt.load_model(spoiled)
        assert "\n" not in str(caught.value)

    def test_many_that_are_missing(self, spoiled):
        change_weights(spoiled, lambda weights: [weights.pop(name) for name in list(weights) if "layers.1" in name])
        with pytest.raises(tt.InputError, match=r"model.layers.1.input_layernorm.weight, .* and 6 more\)"):
            tt.load_model(spoiled)

    def test_one_of_another_shape(self, spoiled):
        change_weights(spoiled, lambda weights: weights.update({"model.norm.weight": torch.ones(3)}))
        with pytest.raises(tt.InputError, match=r"another shape .*model.norm.weight") as caught:
            tt.load_model(spoiled)
        assert "\n" not in str(caught.value)

    def test_those_that_the_class_lets_be_absent(self, spoiled, monkeypatch):
        change_weights(spoiled, lambda weights: weights.pop("model.norm.weight"))
        from transformers import LlamaForCausalLM

        monkeypatch.setattr(LlamaForCausalLM, "_keys_to_ignore_on_load_missing", [r"model\.norm\.weight"])
        assert tt.load_model(spoiled).n_blocks == 4


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("text", ["", "{", "{}"])
def test_a_damaged_file(spoiled, file, text):
    (spoiled / file).write_text(text)
    with pytest.raises(tt.InputError, match="cannot load") as caught:
        tt.load_model(spoiled)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_cannot_be_built(spoiled):
    """The tokenizers library raises an Exception and nothing narrower."""
    parts = json.loads((spoiled / "tokenizer.json").read_text())
    (spoiled / "tokenizer.json").write_text(json.dumps(parts | {"pre_tokenizer": {"type": "Unheard"}}))
    with pytest.raises(tt.InputError, match=r"cannot load .*PreTokenizer") as caught:
        tt.load_model(spoiled)
    assert "\n" not in str(caught.value)


def test_weights_that_were_cut_off(spoiled):
    whole = (spoiled / "model.safetensors").read_bytes()
    (spoiled / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(tt.InputError, match=r"cannot load .*spoiled") as caught:
        tt.load_model(spoiled)
    assert "\n" not in str(caught.value)


def test_a_model_of_the_hub_knows_its_commit(monkeypatch, tmp_path):
    """Filed as the Hub's cache files it; a branch says less than the commit it stood at."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--somebody--some-model"
    make_tiny_model(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    for name in ("main", "branch"):
        (repository / "refs" / name).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for revision in (None, "branch", commit):
        assert tt.load_model("somebody/some-model", revision=revision).card().revision == commit


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_a_path_that_is_not_there(name):
    with pytest.raises(tt.InputError, match="there is no such directory"):
        tt.load_model(name)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(tt.InputError, match=r"no config\.json"):
        tt.load_model(tmp_path)


def test_dtype_and_device(tiny_path):
    assert str(tt.load_model(tiny_path, dtype="bfloat16").dtype) == "torch.bfloat16"
    with pytest.raises(tt.InputError, match="unknown dtype 'float8'; allowed: float32"):
        tt.load_model(tiny_path, dtype="float8")
    with pytest.raises(tt.InputError, match="device 'warp' is not there"):
        tt.load_model(tiny_path, device="warp")


def test_a_model_is_ready_to_use_and_untouched(tiny_path):
    model = tt.load_model(tiny_path)
    assert not model.hf.training
    assert all(parameter.requires_grad for parameter in model.hf.parameters())
    assert model.name == str(tiny_path)


def test_a_built_in_model_that_is_not_there_says_how_to_make_it(monkeypatch):
    monkeypatch.setattr("trimtab.organism.model.is_there", lambda: False)
    with pytest.raises(tt.InputError, match=r"train it with `python -m trimtab\.cli\.organism train"):
        tt.load_model("organism")
