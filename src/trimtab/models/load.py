"""Load any Hugging Face causal language model by name or path."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of the Hub's own client: httpx in huggingface_hub 1, httpx2 in 2
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from trimtab.errors import InputError, NetworkError
from trimtab.models.model import Model
from trimtab.organism import model as organism

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

logger = logging.getLogger(__name__)

_SHOWN_KEYS = 3
"""How many of a checkpoint's missing weights an error names."""

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
        name_or_path: A directory, a model id on the Hub, or `organism` for the built-in model (a directory of that name
            is `./organism`).
        device: `cuda`, `mps`, `cpu`, ...; by default the first of cuda, mps and cpu that is there.
        dtype: `float32`, `bfloat16` or `float16`; by default the checkpoint's own on an accelerator and float32 on a
            CPU (where half precision is several times slower).
        revision: Commit, tag or branch on the Hub.
        attn_implementation: Handed to transformers; by default the family's own choice.
        trust_remote_code: Let the checkpoint bring its own Python code. Off unless asked for.
        source_tokens: See `Model`.

    Raises:
        InputError: No such model, files that cannot be read, weights that are missing or have another shape, or a model
            trimtab cannot work with.
        NetworkError: The Hub could not be reached, or failed.
    """
    name = str(name_or_path)
    wanted_device = _device(device)
    wanted_dtype = _dtype(dtype, wanted_device)
    if name == organism.NAME and not organism.is_there():
        raise InputError(
            "the built-in model is not part of this installation; train it with "
            "`python -m trimtab.cli.organism train --out DIR` and give DIR/model"
        )
    path = str(organism.model_path()) if name == organism.NAME else name
    if name != organism.NAME and Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise InputError(f"{name} is no model: no config.json there; give a Hugging Face model directory or a Hub id")

    def load(loader: Callable[..., Any], **options: object) -> Any:
        try:
            return loader(path, revision=revision, trust_remote_code=trust_remote_code, **options)
        except MemoryError:
            raise
        except Exception as error:  # safetensors, tokenizers and the HTTP client each have bare Exceptions of their own
            raise _explained(name, error) from error

    load(AutoConfig.from_pretrained)
    tokenizer = load(AutoTokenizer.from_pretrained)
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    # Without ignore_mismatched_sizes transformers raises too, but the names are then only in its log.
    hf, report = load(
        AutoModelForCausalLM.from_pretrained,
        dtype=wanted_dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    _check_complete(name, report)
    hf.to(wanted_device).eval()
    return Model(hf, tokenizer, name=name, revision=_commit(path, revision), source_tokens=source_tokens)


def _commit(name: str, revision: str | None) -> str | None:
    """The commit that was loaded, as the Hub's cache files it; of a local directory, the revision as given.

    The model does not tell: newer releases of transformers keep no commit in the configuration.
    """
    if Path(name).exists():
        return revision
    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else revision


def _check_complete(name: str, report: Mapping[str, Collection[Any]]) -> None:
    """Raise InputError unless the checkpoint had every weight; transformers would only warn, and draw them at random.

    Its report leaves out weights that are tied to others and those that the model's class says may be absent.
    """
    for problem, keys in (
        ("lacks weights", sorted(report["missing_keys"])),
        ("has weights of another shape than its config.json says", sorted(key[0] for key in report["mismatched_keys"])),
    ):
        if keys:
            shown = ", ".join(keys[:_SHOWN_KEYS]) + f" and {len(keys) - _SHOWN_KEYS} more" * (len(keys) > _SHOWN_KEYS)
            raise InputError(
                f"model {name!r} {problem} ({shown}); fetch or save it again, whole and with its language-model head"
            )


def _explained(name: str, error: Exception) -> InputError | NetworkError:
    """The error to show for one of transformers' own, judged by what the Hub's client raised beneath it."""
    first = " ".join(str(error).split())[:200] or type(error).__name__
    if Path(name).exists():
        return InputError(f"cannot load {name!r} as a causal language model: {first}")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        return InputError(f"unknown model {name!r}: there is no such directory; give a model directory or a Hub id")
    beneath = list(_chain(error))
    if any(isinstance(cause, GatedRepoError) for cause in beneath):
        return InputError(f"model {name!r} is gated: accept its terms on the Hub and log in with `hf auth login`")
    if any(isinstance(cause, (RepositoryNotFoundError, HFValidationError)) for cause in beneath):
        return InputError(f"unknown model {name!r}: neither a directory here nor a model on the Hub; check its name")
    out_of_reach = any(isinstance(cause, LocalEntryNotFoundError) for cause in beneath)
    if out_of_reach or any(_is_outage(cause) for cause in beneath):
        if is_offline_mode():
            return InputError(
                f"unknown model {name!r}: no directory here, not in the Hub's cache, and the Hub is switched off "
                "(HF_HUB_OFFLINE); give a model directory or switch it on"
            )
        if out_of_reach:
            return NetworkError(f"model {name!r} is no directory here, and the Hub cannot be reached to look for it")
        return NetworkError(f"the Hub failed while {name!r} was fetched ({first}); try again, what is there is kept")
    return InputError(f"cannot load {name!r} as a causal language model: {first}")


def _is_outage(error: BaseException) -> bool:
    """Whether the Hub or the way to it failed: no answer, one that broke off, too many requests, a fault of its own."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return isinstance(error, (HTTPError, ConnectionError, TimeoutError))


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
