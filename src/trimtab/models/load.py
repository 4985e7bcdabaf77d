"""Load any Hugging Face causal language model by name or path."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import is_offline_mode
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from trimtab.errors import InputError, NetworkError
from trimtab.models.model import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    name_or_path: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    source_tokens: str | None = None,
) -> Model:
    """Load a causal language model with its tokenizer and check that trimtab can work with it.

    Args:
        name_or_path: A directory, or a model id on the Hub.
        device: `cuda`, `mps`, `cpu`, ...; by default the first of cuda, mps and cpu that is there.
        dtype: `float32`, `bfloat16` or `float16`; by default the checkpoint's own on an accelerator and float32 on a
            CPU (where half precision is several times slower).
        revision: Commit, tag or branch on the Hub.
        attn_implementation: Handed to transformers; by default the family's own choice.
        trust_remote_code: Let the checkpoint bring its own Python code. Off unless asked for.
        source_tokens: See `Model`.

    Raises:
        InputError: No such model, files that cannot be read, or a model trimtab cannot work with.
        NetworkError: The Hub could not be reached.
    """
    name = str(name_or_path)
    wanted_device = _device(device)
    wanted_dtype = _dtype(dtype, wanted_device)
    if Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise InputError(f"{name} is no model: no config.json there; give a Hugging Face model directory or a Hub id")

    def load(loader: Callable[..., object], **options: object) -> object:
        try:
            return loader(name, revision=revision, trust_remote_code=trust_remote_code, **options)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise _explained(name, error) from error

    load(AutoConfig.from_pretrained)
    tokenizer = load(AutoTokenizer.from_pretrained)
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    hf = load(AutoModelForCausalLM.from_pretrained, dtype=wanted_dtype, **options)
    hf.to(wanted_device).eval()  # pyright: ignore[reportAttributeAccessIssue]
    return Model(hf, tokenizer, name=name, revision=revision, source_tokens=source_tokens)  # pyright: ignore[reportArgumentType]


def _explained(name: str, error: Exception) -> InputError | NetworkError:
    """The error to show for one of transformers' own, judged by what the Hub's client raised beneath it."""
    first = " ".join(str(error).split())[:200]
    if Path(name).exists():
        return InputError(f"cannot load {name!r} as a causal language model: {first}")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        return InputError(f"unknown model {name!r}: there is no such directory; give a model directory or a Hub id")
    beneath = list(_chain(error))
    if any(isinstance(cause, GatedRepoError) for cause in beneath):
        return InputError(f"model {name!r} is gated: accept its terms on the Hub and log in with `hf auth login`")
    if any(isinstance(cause, (RepositoryNotFoundError, HFValidationError)) for cause in beneath):
        return InputError(f"unknown model {name!r}: neither a directory here nor a model on the Hub; check its name")
    if any(isinstance(cause, LocalEntryNotFoundError) for cause in beneath):
        if is_offline_mode():
            return InputError(
                f"unknown model {name!r}: no directory here, not in the Hub's cache, and the Hub is switched off "
                "(HF_HUB_OFFLINE); give a model directory or switch it on"
            )
        return NetworkError(f"model {name!r} is no directory here, and the Hub cannot be reached to look for it")
    return InputError(f"cannot load {name!r} as a causal language model: {first}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        wanted = torch.device(device)
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {device!r} is not there ({str(error).splitlines()[0]}); try cpu") from error
    return wanted


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | str:
    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    return DTYPES[dtype]
