"""Loading: what a wrong name, a wrong folder, or a Hub that cannot be reached is called."""

import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

import trimtab as tt
from trimtab.models import load as load_module


def raised(kind):
    """An error of the Hub's client without the HTTP answer that its constructor asks for."""
    return kind.__new__(kind)


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
        (None, False, tt.InputError, "could not load the files"),
    ],
)
def test_what_the_hub_says_decides_the_error(monkeypatch, cause, offline, kind, words):
    hub_answers(monkeypatch, cause, offline=offline)
    with pytest.raises(kind, match=words) as caught:
        tt.load_model("somebody/some-model")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, tt.InputError) == (kind is tt.InputError)


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
