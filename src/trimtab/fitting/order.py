"""Start vectors and example orders: seeded, or given so that another implementation's run can be replayed."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.steering.checks import check_gram, own_float32

Array = np.ndarray | Tensor | str | Path


def start_sites(
    init: Array | None, sites: int, rank: int, hidden: int, seed: int, *, is_orthonormal: bool = True
) -> Tensor:
    """Orthonormal start rows of several sites (sites, rank, hidden), float32; otherwise as `start_directions`.

    Args:
        init: (sites, rank, hidden) or its path, or for one site whatever `start_directions` takes. None = random: the
            first site's rows are those that it has alone, others follow from the same generator.
        sites: m.
        rank: r.
        hidden: d.
        seed: Seed of the generator.
        is_orthonormal: Whether given rows are brought to orthonormal ones; else they are taken as they are.

    Raises:
        InputError: As `start_directions`.
    """
    if init is None:
        generator = torch.Generator().manual_seed(seed)
        return torch.stack([retract(torch.randn((rank, hidden), generator=generator)) for _ in range(sites)])
    if sites == 1:
        array = read_array("init", init)
        one = array[0] if array.ndim == 3 and array.shape[0] == 1 else array
        return start_directions(one, rank, hidden, seed, is_orthonormal=is_orthonormal)[None]
    array = read_array("init", init)
    if array.ndim != 3 or array.shape[0] != sites:
        raise InputError(f"init has shape {array.shape}; {sites} sites need ({sites}, {rank}, {hidden})")
    return torch.stack([start_directions(rows, rank, hidden, seed, is_orthonormal=is_orthonormal) for rows in array])


def start_directions(init: Array | None, rank: int, hidden: int, seed: int, *, is_orthonormal: bool = True) -> Tensor:
    """Orthonormal start rows W (rank, hidden), float32.

    Args:
        init: (hidden,) or (rank, hidden), or the path of a `.npy`; taken as it is if its rows are orthonormal, else
            brought there first. None = random, from `seed`.
        rank: r.
        hidden: d.
        seed: Seed of the explicit generator used when `init` is None.
        is_orthonormal: As in `start_sites`; rows that are taken as they are may also be zero or parallel.

    Raises:
        InputError: An unreadable file, another shape, values that are not finite, zero or nearly parallel rows.
    """
    if init is None:
        generator = torch.Generator().manual_seed(seed)
        return retract(torch.randn((rank, hidden), generator=generator, dtype=torch.float32))
    array = read_array("init", init)
    array = array[None] if array.ndim == 1 else array
    if array.dtype.kind not in "fiu" or array.shape != (rank, hidden):
        raise InputError(
            f"init has shape {array.shape} and dtype {array.dtype}; this model and rank need numbers ({rank}, {hidden})"
        )
    rows = own_float32("init", torch.from_numpy(array.astype(np.float64)))
    if not is_orthonormal:
        return rows
    check_gram("init", rows)
    is_ready = torch.allclose(rows @ rows.T, torch.eye(rank), rtol=0, atol=1e-5)
    return rows if is_ready else retract(rows)


def retract(rows: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows (polar factor); for one row w / (||w|| + eps), as published."""
    if rows.shape[0] == 1:
        return rows / (rows.norm(dim=1, keepdim=True) + torch.finfo(torch.float32).eps)
    u, _, vh = torch.linalg.svd(rows.double(), full_matrices=False)
    return (u @ vh).to(rows.dtype)


def example_order(order: Array | None, epochs: int, n: int, seed: int) -> Tensor:
    """Indices of the pairs in the order they are used: (epochs, n) int64.

    A given order may also be flat, (epochs * n,). Without one it is the one that the published loader draws from a
    generator seeded with `seed`: an epoch takes one int64, a permutation that is used, and another that is thrown away.

    Raises:
        InputError: An unreadable file, another shape, or a row that is no permutation of 0 .. n - 1.
    """
    if order is not None:
        array = read_array("order", order)
        if array.dtype.kind not in "iu" or array.shape not in ((epochs, n), (epochs * n,)):
            raise InputError(
                f"order has shape {tuple(array.shape)} and dtype {array.dtype}; need integers ({epochs}, {n})"
            )
        given = torch.from_numpy(array.astype(np.int64)).view(epochs, n)
        if not (given.sort(dim=1).values == torch.arange(n)).all():
            raise InputError(f"order: every row must hold each of 0 to {n - 1} once")
        return given
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(epochs):
        torch.empty((), dtype=torch.int64).random_(generator=generator)
        rows.append(torch.randperm(n, generator=generator))
        torch.randperm(n, generator=generator)
    return torch.stack(rows)


def array_hash(values: Tensor) -> str:
    """sha256 (hex) of a tensor's bytes, row by row."""
    return sha256(values.contiguous().numpy().tobytes()).hexdigest()


def read_array(name: str, value: Array) -> np.ndarray:
    """An array, or the one in a `.npy` file (never a pickled one)."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.double() if value.is_floating_point() else value).numpy()
    if not isinstance(value, (str, Path)):
        return np.asarray(value)
    try:
        array = np.load(Path(value), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{name}: cannot read {value} as a .npy array ({error}); save it with numpy.save") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{name}: {value} holds several arrays; save the one that is meant with numpy.save")
    return array
