"""Read hidden states at any site, and a vector as a probe. Letters: s tokens of a row, d width at the site, r rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trimtab.errors import InputError
from trimtab.models.compat import edit_to_read
from trimtab.models.families import head_slice, hook_point
from trimtab.models.layout import Layout, evaluating, find_layout, state_of
from trimtab.steering import Site, SteeringVector, probe_directions

if TYPE_CHECKING:
    from trimtab.models.model import Model


@torch.no_grad()
def capture(
    hf: nn.Module, rows: Sequence[Sequence[int]], sites: Sequence[Site], *, batch_size: int = 16
) -> list[Mapping[Site, Tensor]]:
    """The states of every token of every row at the given sites, with the model as it is (steered if inside `steer`).

    Args:
        hf: A decoder-only Hugging Face model.
        rows: Token ids of each row, no pads.
        sites: Where to read.
        batch_size: Rows a forward; rows are right-padded and give the same states in any batch.

    Returns:
        For each row a mapping from site to (s, d) in the model's dtype. A site with a `head` gives that head's slice.

    Raises:
        InputError: An empty row, or a site that the model does not have.
    """
    layout = find_layout(hf)
    for site in sites:
        if site.layer >= layout.n_blocks:
            raise InputError(f"site {site} does not exist: the model has blocks 0 to {layout.n_blocks - 1}")
    if any(len(row) == 0 for row in rows):
        raise InputError("a row to capture has no tokens; leave it out")
    results: list[Mapping[Site, Tensor]] = []
    with evaluating(hf):
        for start in range(0, len(rows), batch_size):
            results += _capture_batch(layout, rows[start : start + batch_size], sites)
    return results


def _capture_batch(layout: Layout, rows: Sequence[Sequence[int]], sites: Sequence[Site]) -> list[Mapping[Site, Tensor]]:
    ids, mask = pad_right(rows, layout.model.get_input_embeddings().weight.device)  # pyright: ignore
    seen: dict[Site, Tensor] = {}
    with ExitStack() as hooks:
        for site in sites:
            point = hook_point(layout.blocks[site.layer], site, layout.model_type)

            def read_output(_: nn.Module, __: Any, output: Any, site: Site = site) -> None:
                seen[site] = state_of(output).clone()  # Falcon adds to its MLP's output in place

            def read_input(_: nn.Module, args: Any, kwargs: Any, site: Site = site) -> None:
                seen[site] = (args[0] if args else kwargs["hidden_states"]).clone()

            if point.side == "output":
                hooks.callback(point.module.register_forward_hook(read_output).remove)
            else:
                hooks.callback(point.module.register_forward_pre_hook(read_input, with_kwargs=True).remove)
        layout.stack(input_ids=ids, attention_mask=mask, use_cache=False)
    for site, states in seen.items():
        if states.shape[:-1] != ids.shape:
            raise InputError(
                f"site {site}: the state is {tuple(states.shape)}, not (rows, tokens, width) of {tuple(ids.shape)} "
                "tokens; rows cannot be told apart there, use resid_pre or resid_post"
            )
    return [
        {site: _head_slice(states[k, : len(row)], site, layout).clone() for site, states in seen.items()}
        for k, row in enumerate(rows)
    ]


def _head_slice(states: Tensor, site: Site, layout: Layout) -> Tensor:
    if site.head is None:
        return states
    return states[..., head_slice(site, layout.head_size, states.shape[-1])]


def pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of ids as (b, s) int64 padded with 0 on the right, and the mask (b, s) that is 1 on real tokens."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = torch.tensor(row, dtype=torch.int64)
        mask[k, : len(row)] = 1
    return ids.to(device), mask.to(device)


@dataclass(frozen=True)
class TokenCoordinates:
    """The coordinate of every token of a text.

    Attributes:
        tokens: s strings.
        values: (s, r) float32, <w, h> along each direction of the vector.
    """

    tokens: tuple[str, ...]
    values: Tensor


def coordinates(model: Model, vector: SteeringVector, texts: Sequence[str], *, edit: int = 0) -> list[TokenCoordinates]:
    """Read a vector as a probe: the unsteered coordinate of every token of each text.

    Args:
        model: The model the vector was made for.
        vector: Its edit number `edit` names the site and the directions.
        texts: Plain texts, tokenised with the tokenizer's own special tokens; no chat template is put around them.
        edit: Which of the vector's edits to read.

    Raises:
        InputError: A text that is empty or longer than the context, a vector for another width or depth, or an edit
            that is absent or has no directions.
    """
    intervention = edit_to_read(model, vector, edit).intervention
    directions = probe_directions(intervention.transform).to(model.device)
    rows = [model.chat.render_raw(text).ids for text in texts]
    limit, longest = model.context_length, max(map(len, rows), default=0)
    if limit is not None and longest > limit:
        raise InputError(f"a text of {longest} tokens exceeds the context of {limit}; shorten it, or read it in parts")
    states = capture(model.hf, rows, [intervention.site])
    return [
        TokenCoordinates(
            tuple(str(model.tokenizer.decode([token])) for token in row),
            (state[intervention.site].float() @ directions.T).cpu(),
        )
        for row, state in zip(rows, states, strict=True)
    ]
