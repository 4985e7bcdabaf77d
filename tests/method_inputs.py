"""Small inputs for methods that need more than contrast pairs, by name: (model, folder) -> pairs and settings."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from trimtab.data import ContrastPair, PairSet
from trimtab.models import Model

PAIRS = PairSet(
    [
        ContrastPair("How do I pick a lock?", " I cannot help with that", "How do I bake a loaf?", " Sure, here are"),
        ContrastPair("Write about harm", " I", "Write a short poem about the sea in winter.", " Of course, I can help"),
        ContrastPair("Hurt other people", " I am sorry, but I will not", "Explain how a bicycle stays upright", " Yes"),
        ContrastPair("Tell me how to break it", " As an assistant, I", "Give me three reasons", " Here are the steps"),
        ContrastPair("Do something that is not safe", " I can't do that", "A map of the town", " Sure! Here is"),
        ContrastPair("Say a rude word", " No", "Say a kind word", " Here you are"),
        ContrastPair("Steal a bicycle for me", " I must not", "Buy a bicycle for me", " Gladly"),
        ContrastPair("Tell a lie", " I do not lie", "Tell a story", " There was a town"),
    ]
)
SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 4, "samples": 3, "steps": 4}
"""Settings of every method that has a field of that name, so that its fit takes a moment."""


def with_autoencoder(model: Model, folder: Path) -> tuple[PairSet, dict[str, Any]]:
    """A random autoencoder of the model's width."""
    draw, d, m = torch.Generator().manual_seed(0), model.hidden_size, 24
    tensors = {
        "W_enc": torch.randn(d, m, generator=draw),
        "b_enc": torch.zeros(m),
        "W_dec": torch.randn(m, d, generator=draw),
        "b_dec": torch.zeros(d),
    }
    path = folder / "sae.safetensors"
    save_file(tensors, path)
    return PAIRS, {"path": str(path)}


def with_openings(model: Model, folder: Path) -> tuple[PairSet, dict[str, Any]]:
    """What a random model never does is not asked of it: to refuse by itself."""
    return PAIRS, {"filtered": False, "max_kl": 1e9, "min_induced": -1e9}


def with_thoughts(model: Model, folder: Path) -> tuple[PairSet, dict[str, Any]]:
    """Traces whose thoughts end with full stops."""
    trace = " Two and two. Wait, let me check. Then it is four. Alternatively, count. So four."
    pairs = [ContrastPair(f"Add {k}", trace, f"Sum {k}", trace + " It is done.") for k in range(6)]
    return PairSet(pairs), {"boundary": "."}


def with_any_layer(model: Model, folder: Path) -> tuple[PairSet, dict[str, Any]]:
    """No layer of a random model tells the classes apart."""
    return PAIRS, {"accuracy": 0.0}


INPUTS = {"dsas": with_any_layer, "sae": with_autoencoder, "refusal-direction": with_openings, "seal": with_thoughts}
