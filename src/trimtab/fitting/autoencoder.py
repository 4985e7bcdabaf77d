"""Sparse autoencoders read from a file on this machine, in the spellings that are common.

Letters: m features, d hidden, n states.

| who writes it | tensors |
| --- | --- |
| SAELens (safetensors, `cfg.json` beside it), GemmaScope (`.npz`) | `W_enc` (d, m), `b_enc`, `W_dec` (m, d), `b_dec`, `threshold` |
| EleutherAI's sparsify | `encoder.weight` (m, d), `encoder.bias`, `W_dec` (m, d), `b_dec`; `k` in `cfg.json` |
| dictionary_learning | `encoder.weight` (m, d), `encoder.bias`, `decoder.weight` (d, m), `bias` or `b_dec`, `k` |
"""  # noqa: E501 a table

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trimtab.errors import InputError
from trimtab.steering import FeatureClamp

ENCODERS = ("W_enc", "encoder.weight")
DECODERS = ("W_dec", "decoder.weight")
ENCODER_BIASES = ("b_enc", "encoder.bias")
DECODER_BIASES = ("b_dec", "decoder.bias", "bias")
GATED = ("b_gate", "r_mag", "b_mag", "gate_bias")
"""Tensors of autoencoders whose features do not depend on one product each."""
CENTRING = "encoder.weight"
"""Who calls the encoder so takes the decoder's bias off a state before encoding it."""
_HOOK = re.compile(r"blocks\.(?P<block>[0-9]+)\.hook_(?P<kind>[a-z_]+)")


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """f(h) = act(E (h - c) + b), h ~ D^T f + b_dec.

    Attributes:
        source: Where it was read.
        encoder: E, (m, d) float32.
        encoder_bias: b, (m,), with -E c folded in.
        decoder: D, (m, d).
        decoder_bias: b_dec, (d,).
        threshold: (m,), at least 0: features at or below it are 0; 0 for ReLU.
        top_k: Only so many features of a state are not 0; None for all above the threshold.
    """

    source: str
    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    threshold: Tensor
    top_k: int | None = None

    @property
    def n_features(self) -> int:
        """Number of features m."""
        return self.encoder.shape[0]

    def encode(self, states: Tensor) -> Tensor:
        """f: (n, d) -> (n, m) float32."""
        z = states.float() @ self.encoder.T + self.encoder_bias
        found = torch.where(z > self.threshold, z, torch.zeros_like(z))
        if self.top_k is None or self.top_k >= self.n_features:
            return found
        values, places = found.topk(self.top_k, dim=-1)
        return torch.zeros_like(found).scatter(-1, places, values)

    def decode(self, features: Tensor) -> Tensor:
        """(n, m) -> (n, d)."""
        return features @ self.decoder + self.decoder_bias

    def clamp(self, feature: int, value: float) -> FeatureClamp:
        """The edit that sets a feature to a value and keeps all else of a state.

        Raises:
            InputError: Of a state only the k greatest features count, so that one of them depends on all others.
        """
        if self.top_k is not None:
            raise InputError(
                f"{self.source} keeps the {self.top_k} greatest features of a state: whether a feature is on depends "
                "on all others, and clamping one would need them all; use mode 'add'"
            )
        return FeatureClamp(
            self.encoder[feature],
            self.encoder_bias[feature],
            self.threshold[feature],
            self.decoder[feature],
            torch.tensor(value),
        )


def read_autoencoder(
    path: str | Path,
    width: int,
    *,
    layer: int | None = None,
    top_k: int | None = None,
    subtract_bias: bool | None = None,
) -> Autoencoder:
    """A sparse autoencoder of block outputs, from a `.safetensors` or `.npz` file (which is read without pickle).

    A matrix that lies the other way round is turned; where it is square, its name decides.

    Args:
        path: The file, or a folder that holds one.
        width: Width d of the model's states.
        layer: The block whose output it is to read; refused if a `cfg.json` beside the file names another one.
        top_k: Only so many features of a state are not 0; None = as the file or its `cfg.json` says.
        subtract_bias: Whether the decoder's bias is taken off a state before it is encoded; None = as `cfg.json` says,
            else as is usual where the tensors have these names.

    Raises:
        InputError: No such file, one that cannot be read, tensors that are missing or do not fit each other or the
            model, an autoencoder of a kind that is not known here, or one of another place in the model.
    """
    file = _file(Path(path))
    tensors, config = _tensors(file), _config(file.parent / "cfg.json")
    _check_kind(file, tensors, config, layer)
    encoder_name, encoder = _named(file, tensors, ENCODERS)
    decoder_name, decoder = _named(file, tensors, DECODERS)
    encoder = _rows(file, encoder_name, encoder, width, features_first=encoder_name == "encoder.weight")
    decoder = _rows(file, decoder_name, decoder, width, features_first=decoder_name == "W_dec")
    m = len(encoder)
    if len(decoder) != m:
        raise InputError(f"{file}: {encoder_name} has {m} features and {decoder_name} {len(decoder)}")
    encoder_bias = _vector(file, tensors, ENCODER_BIASES, m)
    decoder_bias = _vector(file, tensors, DECODER_BIASES, width)
    centred = subtract_bias
    if centred is None:
        said = config.get("apply_b_dec_to_input")
        centred = said if isinstance(said, bool) else encoder_name == CENTRING
    if centred:
        encoder_bias = encoder_bias - encoder @ decoder_bias
    threshold, k = _threshold(file, tensors, m), _top_k(tensors, config) if top_k is None else top_k
    if threshold is not None and top_k is None:
        k = None  # trained with the k greatest, but used with a threshold, which its file brings
    found = Autoencoder(
        str(file), encoder, encoder_bias, decoder, decoder_bias, torch.zeros(m) if threshold is None else threshold, k
    )
    for name in ("encoder", "encoder_bias", "decoder", "decoder_bias", "threshold"):
        if not bool(torch.isfinite(getattr(found, name)).all()):
            raise InputError(f"{file}: the {name.replace('_', ' ')} holds NaN or infinite values; load an intact copy")
    return found


def _file(path: Path) -> Path:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".safetensors", ".npz"))
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise InputError(f"{path} holds {len(files)} .safetensors or .npz files ({names}); name the one to read")
        return files[0]
    if not path.is_file():
        raise InputError(f"no autoencoder at {path}; give the path of a .safetensors or .npz file on this machine")
    if path.suffix not in (".safetensors", ".npz"):
        raise InputError(f"{path} is no .safetensors or .npz file; convert it, as pickles are not read")
    return path


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays.files}
    except (SafetensorError, ValueError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {file}: {' '.join(str(error).split())}") from error


def _config(file: Path) -> Mapping[str, object]:
    """What a `cfg.json` beside the weights says, the part about its place in the model included."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} holds no JSON object")
    place = found.get("metadata")
    return {**place, **found} if isinstance(place, dict) else found


def _check_kind(file: Path, tensors: Mapping[str, Tensor], config: Mapping[str, object], layer: int | None) -> None:
    gated = [name for name in GATED if name in tensors]
    if gated or config.get("architecture") in ("gated", "transcoder", "skip_transcoder") or config.get("transcode"):
        kind = config.get("architecture") or ("gated" if gated else "transcoder")
        raise InputError(f"{file} is a {kind}; only ReLU, JumpReLU and TopK autoencoders can be used")
    scaled = config.get("normalize_activations")
    if scaled not in (None, "none"):
        raise InputError(
            f"{file} reads states that were normalised ({scaled}); fold the scale into its weights (SAELens does with "
            "fold_activation_norm_scaling_factor) and set normalize_activations to none"
        )
    place = _HOOK.fullmatch(str(config.get("hook_name", "")))
    if place is None or layer is None:
        return
    block = int(place["block"]) - (place["kind"] == "resid_pre")
    if place["kind"] not in ("resid_pre", "resid_post"):
        raise InputError(f"{file} reads {place['kind']}, not what a block puts out; take one of the residual stream")
    if block != layer:
        raise InputError(f"{file} was trained on the output of block {block}, not {layer}; give layer {block}")


def _named(file: Path, tensors: Mapping[str, Tensor], names: Sequence[str]) -> tuple[str, Tensor]:
    for name in names:
        if name in tensors:
            return name, tensors[name].float()
    raise InputError(f"{file} holds no {' or '.join(names)}, but {', '.join(sorted(tensors)) or 'nothing'}")


def _rows(file: Path, name: str, matrix: Tensor, width: int, *, features_first: bool) -> Tensor:
    """The matrix as (m, d), whichever way round it lies; InputError if neither side is d wide."""
    if matrix.dim() != 2:
        raise InputError(f"{file}: {name} has shape {tuple(matrix.shape)}; it must be a matrix")
    read, other = (1, 0) if features_first else (0, 1)
    side = next((side for side in (read, other) if matrix.shape[side] == width), None)
    if side is None:
        raise InputError(
            f"{file}: its states are {matrix.shape[read]} wide ({name} has shape {tuple(matrix.shape)}), those of the "
            f"model {width}; take an autoencoder of this model"
        )
    return (matrix if side == 1 else matrix.T).contiguous()


def _vector(file: Path, tensors: Mapping[str, Tensor], names: Sequence[str], size: int) -> Tensor:
    name = next((name for name in names if name in tensors), None)
    if name is None:
        return torch.zeros(size)
    if tensors[name].numel() != size:
        raise InputError(f"{file}: {name} has shape {tuple(tensors[name].shape)}; it must have {size} entries")
    return tensors[name].float().reshape(size)


def _threshold(file: Path, tensors: Mapping[str, Tensor], m: int) -> Tensor | None:
    """(m,), or None where there is none, or one that was never set (dictionary_learning writes -1)."""
    if "threshold" not in tensors:
        return None
    threshold = tensors["threshold"].float().reshape(-1)
    if threshold.numel() not in (1, m):
        raise InputError(f"{file}: threshold has shape {tuple(threshold.shape)}; it must have {m} entries, or one")
    return None if bool((threshold < 0).any()) else threshold.expand(m).contiguous()


def _top_k(tensors: Mapping[str, Tensor], config: Mapping[str, object]) -> int | None:
    if "k" in tensors and tensors["k"].numel() == 1:
        return int(tensors["k"])
    said = config.get("k")
    return said if isinstance(said, int) and not isinstance(said, bool) and said > 0 else None
