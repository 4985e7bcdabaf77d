"""From what a user types, `concept=rules,openai:gpt-4o-mini`, to a judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.errors import InputError
from trimtab.evaluation.judges.combined import CombinedJudge
from trimtab.evaluation.judges.judge import ASPECTS, Judge

if TYPE_CHECKING:
    from trimtab.clients.cost import Prices
    from trimtab.models import Model

FORMS = ("exact", "rules", "openai:MODEL", "local:MODEL")
"""What a judge can be called."""


def build_judge(
    spec: str,
    *,
    base_url: str | None = None,
    cache_dir: str | Path | None = None,
    temperature: float | None = None,
    concurrency: int = 8,
    requests_per_minute: float | None = None,
    prices: Prices | None = None,
    load_model: Callable[[str], Model] | None = None,
) -> Judge:
    """The judge of a specification. Nothing is sent, and only `local:` loads a model.

    Args:
        spec: One of `FORMS`; or several with commas between, each but one with the aspect it is for:
            `concept=rules,openai:gpt-4o-mini`. The one without an aspect has all others that it can rate.
        base_url: Of `openai:`; by default `OPENAI_BASE_URL`, else OpenAI's own.
        cache_dir: Of `openai:`; None = nothing is kept.
        temperature: Of `openai:` and `local:`; None = 0.
        concurrency: Of `openai:`, requests under way at a time.
        requests_per_minute: Of `openai:`; None = no limit.
        prices: Of `openai:`, for estimates.
        load_model: From the name behind `local:` to the model; `trimtab.models.load_model` by default.

    Raises:
        InputError: No such judge or aspect, an aspect given twice or to a judge that does not rate it, or what the
            judge refuses.
    """

    def openai(model: str) -> Judge:
        from trimtab.clients.endpoint import Endpoint
        from trimtab.evaluation.judges.endpoint import EndpointJudge

        endpoint = Endpoint(
            model,
            base_url,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            cache_dir=cache_dir,
            prices=prices,
        )
        return EndpointJudge(endpoint, temperature=temperature or 0.0)

    def local(model: str) -> Judge:
        from trimtab.evaluation.judges.local import LocalJudge

        return LocalJudge((load_model or _load)(model), temperature=temperature or 0.0)

    wanted, rest = _parse(spec)
    named = [*wanted.values(), *([] if rest is None else [rest])]
    built = {one: _build(one, openai, local) for one in sorted({*named})}
    if rest is None:
        return CombinedJudge({aspect: built[one] for aspect, one in wanted.items()})
    if not wanted:
        return built[rest]
    others = {aspect: built[rest] for aspect in ASPECTS if aspect in built[rest].aspects}
    return CombinedJudge({**others, **{aspect: built[one] for aspect, one in wanted.items()}})


def _build(one: str, openai: Callable[[str], Judge], local: Callable[[str], Judge]) -> Judge:
    """The judge of one of `FORMS`; rooms are imported when they are asked for."""
    kind, _, model = one.partition(":")
    if one == "exact":
        from trimtab.evaluation.judges.exact import ExactJudge

        return ExactJudge()
    if one == "rules":
        from trimtab.evaluation.judges.rules import RuleJudge

        return RuleJudge()
    if kind == "openai" and model:
        return openai(model)
    if kind == "local" and model:
        return local(model)
    raise InputError(f"there is no judge {one!r}; allowed: {', '.join(FORMS)}, or ASPECT=JUDGE with commas between")


def _parse(spec: str) -> tuple[dict[str, str], str | None]:
    """The judges by aspect, and the one for the rest."""
    wanted: dict[str, str] = {}
    rest: str | None = None
    for part in (part.strip() for part in spec.split(",")):
        aspect, equals, one = part.partition("=")
        if not equals or ":" in aspect:  # a path behind `local:` may have a sign of equality
            if rest is not None:
                raise InputError(f"the judges {rest!r} and {part!r} are both for all aspects; write ASPECT=JUDGE")
            rest = part
            continue
        if aspect not in ASPECTS:
            raise InputError(f"there is no aspect {aspect!r} to judge; allowed: {', '.join(ASPECTS)}")
        if aspect in wanted:
            raise InputError(f"the aspect {aspect!r} has two judges, {wanted[aspect]!r} and {one!r}; give one")
        wanted[aspect] = one
    return wanted, rest


def _load(name: str) -> Model:
    from trimtab.models import load_model

    return load_model(name)
