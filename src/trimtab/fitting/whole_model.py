"""Settings of methods that find by themselves where in the model they edit."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.errors import InputError
from trimtab.fitting.settings import MAX_SEED, check_number
from trimtab.steering import Positions


@dataclass(frozen=True)
class WholeModelSettings:
    """What every such method has to be told.

    Args:
        positions: Which tokens are edited: all, prompt, response, last, f<N>+l<M>.
        include_prefix: Edit the template prefix too.
        max_response_tokens: Cut responses to this many tokens; None = whole.
        truncate: Cut responses that do not fit the context instead of refusing them.
        seed: Seeds whatever is drawn.

    Raises:
        InputError: A setting outside its range.
    """

    positions: str = "all"
    include_prefix: bool = False
    max_response_tokens: int | None = None
    truncate: bool = False
    seed: int = 42

    def __post_init__(self) -> None:
        check_number("seed", self.seed, least=0, most=MAX_SEED, whole=True)
        if self.max_response_tokens is not None:
            check_number("max_response_tokens", self.max_response_tokens, least=1, whole=True)
        if not isinstance(self.include_prefix, bool):
            raise InputError(f"include_prefix is {self.include_prefix!r}; allowed: True, False")
        Positions.parse(self.positions)
