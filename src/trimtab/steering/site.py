"""Where in a decoder an intervention reads and writes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trimtab.errors import InputError

KINDS = ("resid_pre", "resid_post", "attn_in", "attn_out", "mlp_act", "mlp_out", "norm_out")
"""Kinds of site of one block.

`resid_pre` / `resid_post`: the residual stream entering / leaving the block; `attn_in`: the input of the attention's
output projection (heads side by side); `attn_out`, `mlp_out`: what each branch hands on; `mlp_act`: the input of the
MLP's last projection; `norm_out`: the output of a norm at the entrance of a branch (`part` 0 attention, 1 MLP).
"""

_TEXT = re.compile(r"(?P<kind>[a-z_]+)(?:\.(?P<part>[0-9]+))?(?:#(?P<head>[0-9]+))?@(?P<layer>[0-9]+)")


@dataclass(frozen=True, order=True)
class Site:
    """One place in one block; read and written on the same side.

    Args:
        layer: 0-based index of the block. For `resid_post` the state is Hugging Face's `hidden_states[layer + 1]`.
        kind: One of `KINDS`.
        head: Query head, for `attn_in` only: the edit then sees the slice (..., head_dim) of that head.
        part: Which norm of the block, for `norm_out` only, in order of execution.

    Raises:
        InputError: Unknown kind, negative number, or `head` / `part` on a kind that has none.
    """

    layer: int
    kind: str = "resid_post"
    head: int | None = None
    part: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"unknown site kind {self.kind!r}; allowed: {', '.join(KINDS)}")
        if self.layer < 0:
            raise InputError(f"layer {self.layer} is negative; layers count blocks from 0")
        if self.head is not None and (self.kind != "attn_in" or self.head < 0):
            raise InputError(f"head {self.head} given for site kind {self.kind!r}; only attn_in has heads (0 and up)")
        if self.part and self.kind != "norm_out":
            raise InputError(f"part {self.part} given for site kind {self.kind!r}; only norm_out has parts")
        if self.part < 0:
            raise InputError(f"part {self.part} is negative; parts count the block's norms from 0")

    def __str__(self) -> str:
        part = f".{self.part}" if self.part else ""
        head = "" if self.head is None else f"#{self.head}"
        return f"{self.kind}{part}{head}@{self.layer}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read the text form; the inverse of `str(site)`.

        Args:
            text: KIND@LAYER, with the part after a dot and the head after a hash where the kind has them:
                `resid_post@3`, `attn_in#2@3` (head 2), `norm_out.1@3` (the second norm).

        Raises:
            InputError: A text of another form, or a site that `Site` refuses.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise InputError(f"cannot read site {text!r}; write KIND@LAYER, e.g. resid_post@3 or attn_in#2@3")
        head = match["head"]
        return cls(
            layer=int(match["layer"]),
            kind=match["kind"],
            head=None if head is None else int(head),
            part=int(match["part"] or 0),
        )
