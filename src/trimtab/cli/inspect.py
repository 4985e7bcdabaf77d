"""`trimtab inspect`: what a saved vector or baseline is, where it came from, whether it fits a model."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli.describe import edits_json, factor_words, multipliers
from trimtab.cli.options import Device, Dtype, Json
from trimtab.cli.output import emit_json, number, one_line, print_table, say
from trimtab.cli.progress import show_progress
from trimtab.cli.quiet import at_work
from trimtab.errors import InputError

if TYPE_CHECKING:
    from trimtab.data import PairSet
    from trimtab.methods import Baseline
    from trimtab.models import Model
    from trimtab.steering import ModelCard, SteeringVector

_TOKENS = 10
"""Promoted and demoted tokens shown."""

_BAR = 24
"""Columns of the longest bar of a histogram."""


def inspect(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="A saved vector's directory.")],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="M", help="Say whether it fits this model, and which tokens it moves."),
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(
            "--pairs", metavar="P", help="With --model: interchange accuracy on these pairs, named as for fit."
        ),
    ] = None,
    concept: Annotated[
        str | None, typer.Option("--concept", metavar="NAME", help="Only the pairs of this concept.")
    ] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut pairs longer than the model's context.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    json_output: Json = False,
) -> None:
    """Say what a saved vector is, where it came from, whether it fits a model, and whether it carries its concept."""
    if pairs is not None and model is None:
        raise InputError("--pairs needs --model: interchange accuracy is measured on the model the vector was made for")
    if pairs is None and (concept is not None or truncate):
        raise InputError("--concept and --truncate are about the pairs of --pairs; give it too, or leave them out")
    from trimtab.methods import Baseline, load_steerable

    vector = load_steerable(path)
    if isinstance(vector, Baseline):
        if pairs is not None:
            raise InputError(f"--pairs: {vector.method} is a baseline and has no coordinates to be interchanged")
        described = _described_baseline(vector, path, model, device, dtype)
        if json_output:
            emit_json(described)
        else:
            _print(described)
        return
    found = describe(vector, path)
    if model is not None:
        with at_work():
            from trimtab.data import load_pairs
            from trimtab.models import load_model

            contrast = None if pairs is None else load_pairs(pairs, concept=concept)
            loaded = load_model(model, device=device, dtype=dtype)
            found |= against(vector, loaded, model)
        if contrast is not None:
            found["interchange"] = interchange(vector, loaded, contrast, truncate=truncate)
    if json_output:
        emit_json(found)
    else:
        _print(found)


def _described_baseline(
    baseline: "Baseline", path: Path, model: str | None, device: str | None, dtype: str | None
) -> dict[str, Any]:
    """What a baseline's directory tells, under the keys of a vector's, and what a model adds."""
    found = {
        "vector": str(path),
        "method": baseline.method,
        "settings": dict(baseline.settings),
        "model": _card_json(baseline.model),
        "directions": list(baseline.directions),
        "multiplier": dict.fromkeys(baseline.directions, 1.0),
        "edits": [],
        "edit_ratio": None,
        "provenance": dict(baseline.provenance),
        "content_hash": None,
    }
    if model is not None:
        with at_work():
            from trimtab.models import load_model

            problems = baseline.check_fits(load_model(model, device=device, dtype=dtype))
        found["compatibility"] = {"model": model, "fits": not problems, "problems": problems}
    return found


def _card_json(card: "ModelCard") -> dict[str, Any]:
    return {
        "id": card.id,
        "revision": card.revision,
        "model_type": card.model_type,
        "hidden_size": card.hidden_size,
        "n_blocks": card.n_blocks,
        "prefix_ids": list(card.prefix_ids),
        "template_fingerprint": card.template_fingerprint,
        "source_tokens": card.source_tokens,
    }


def describe(vector: "SteeringVector", path: Path) -> dict[str, Any]:
    """What the directory alone tells."""
    return {
        "vector": str(path),
        "method": vector.method,
        "settings": dict(vector.settings),
        "model": _card_json(vector.model),
        "directions": list(vector.directions),
        "multiplier": multipliers(vector),
        "edits": edits_json(vector),
        "edit_ratio": vector.provenance.get("edit_ratio"),
        "provenance": {name: value for name, value in vector.provenance.items() if name != "edit_ratio"},
        "content_hash": vector.content_hash,
    }


def against(vector: "SteeringVector", model: "Model", name: str) -> dict[str, Any]:
    """What a model adds: whether the vector fits it, and the tokens it promotes and demotes there."""
    from trimtab.models.compat import check_fits, same_size
    from trimtab.models.lens import promoted_tokens

    problems = check_fits(model, vector)
    fit = {"model": name, "fits": not problems, "problems": problems}
    if not same_size(model, vector):
        return {"compatibility": fit}
    try:
        promoted, demoted = promoted_tokens(model, vector, _TOKENS)
    except InputError as error:
        return {"compatibility": fit, "no_tokens": str(error)}
    return {"compatibility": fit, "promoted": _scored(promoted), "demoted": _scored(demoted)}


def interchange(vector: "SteeringVector", model: "Model", pairs: "PairSet", *, truncate: bool) -> dict[str, Any]:
    """What pairs add: for each direction the interchange accuracy and its floor."""
    with at_work(), show_progress() as progress:
        from trimtab.evaluation import interchange_accuracy

        found = interchange_accuracy(model, vector, pairs, truncate=truncate, progress=progress)
    return {direction: dataclasses.asdict(figures) for direction, figures in found.items()}


def _scored(tokens: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"token": token, "score": score} for token, score in tokens]


def _print(found: dict[str, Any]) -> None:
    card = found["model"]
    say(
        f"{found['vector']}: {found['method']}, {' and '.join(found['directions'])}",
        f"made for {card['id']}{'@' + card['revision'] if card['revision'] else ''}"
        f" ({card['n_blocks']} blocks, width {card['hidden_size']}, {len(card['prefix_ids'])} prefix tokens)",
        f"multiplier unless typed: {', '.join(f'{name} {number(m)}' for name, m in found['multiplier'].items())}",
    )
    _print_flat("settings", found["settings"])
    shown_below = ("calibration", "layers", "readings")
    _print_flat("provenance", {name: value for name, value in found["provenance"].items() if name not in shown_below})
    _print_search(found["provenance"])
    if found["edit_ratio"]:
        ratios = ", ".join(f"{name} {number(ratio)}" for name, ratio in found["edit_ratio"].items())
        say(f"norm of the edit over the state's: {ratios}")
    for edit in found["edits"]:
        _print_edit(edit, found["directions"])
    if "compatibility" in found:
        fit = found["compatibility"]
        say("", f"fits {fit['model']}" if fit["fits"] else f"does not fit {fit['model']}:", *fit["problems"])
    if "no_tokens" in found:
        say(f"promoted: {found['no_tokens']}")
    for name in ("promoted", "demoted"):
        if name in found:
            say(f"{name}: " + "  ".join(f"{entry['token']!r} {number(entry['score'])}" for entry in found[name]))
    if "interchange" in found:
        _print_interchange(found["interchange"])
    if found["content_hash"] is not None:
        say(f"content hash {found['content_hash']}")


def _print_interchange(found: dict[str, dict[str, Any]]) -> None:
    """Two rows a direction: with the interchange, and what agrees without it."""
    n = max(figures["n_pairs"] for figures in found.values())
    say("", f"interchange accuracy on {n} pairs, next tokens that are those behind the other prompt:")
    rows = []
    for direction, figures in found.items():
        differing = "" if figures["differing"] is None else f"{figures['differing']:.1%} of {figures['n_differing']}"
        for name, shares, rest in (
            (direction, ("accuracy", "first", "whole"), differing or "-"),
            (f"{direction}, no edit", ("floor", "floor_first", "floor_whole"), ""),
        ):
            rows.append([name, *(f"{figures[share]:.1%}" for share in shares), rest])
    print_table(("", "tokens", "first tokens", "whole answers", "where the prompts differ"), rows)


def _print_search(provenance: dict[str, Any]) -> None:
    """The readings and layers that competed and the curves behind the multipliers, where a fit looked for them."""
    if provenance.get("readings"):
        tried = ", ".join(
            f"{row['reading']} {_percent(row.get('effect')) or 'refused'}" for row in provenance["readings"]
        )
        say(f"readings tried, share of answers turned: {tried}")
    if provenance.get("layers"):
        say("layers tried, share of answers turned:")
        columns = ("layer", "inputs", "elicit", "suppress")
        rows = [[*(str(row[name]) for name in columns[:2]), *(_percent(row.get(name)) for name in columns[2:])]
                for row in provenance["layers"]]  # fmt: skip
        print_table(columns, rows)
    calibration = provenance.get("calibration")
    if calibration is None:
        return
    held = "held-out" if calibration["held_out"] else "training"
    inputs = f"{calibration['inputs']} {held} inputs (contrast {calibration['contrast']:.2f})"
    say(f"calibrated on {inputs}; shares of the answers:")
    for direction, found in calibration["directions"].items():
        print_table(
            (f"{direction} x", "count", "are turned", "are likely"),
            [[number(m), *map(_percent, shares)] for m, *shares in found["curve"]],
        )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _print_flat(title: str, values: dict[str, Any], before: str = "") -> None:
    """Names and values, an object within an object under a dotted name."""
    if title:
        say(f"{title}:" if values else f"{title}: none recorded")
    for name, value in values.items():
        if isinstance(value, dict):
            _print_flat("", value, f"{before}{name}.")
        else:
            say(f"  {before}{name} = {number(value) if isinstance(value, float) else one_line(str(value))}")


def _print_edit(edit: dict[str, Any], directions: list[str]) -> None:
    """One edit: where, what, whereto if not for all directions, its classes, and their histogram per coordinate."""
    serves = "" if edit["directions"] == directions else f", to {' and '.join(edit['directions'])}"
    say("", f"{edit['transform']} of rank {edit['rank']} at {edit['site']}, positions {edit['positions']}{serves}")
    if edit["factors"] is None:
        return
    for name in ("positive", "negative"):
        say(f"  {name} factor {factor_words(edit['factors'][name])}")
    for index, entry in enumerate(edit["coordinates"]):
        say(f"  coordinate {index}: {_separation_words(entry['d_prime'], entry['auroc'])}")
        if entry["histogram"] is not None:
            _print_histogram(**entry["histogram"])


def _separation_words(d_prime: float, auroc: float | None) -> str:
    """How far the classes lie apart, whichever lies higher: the sign of a direction means nothing."""
    lower = d_prime < 0
    area = "" if auroc is None else f", AUROC {number(1 - auroc if lower else auroc)}"
    return f"d' {number(abs(d_prime))}{area}; the positive class lies {'lower' if lower else 'higher'}"


def _print_histogram(edges: list[float], positive: list[int], negative: list[int]) -> None:
    """Both classes side by side over shared bins, the largest count filling the bar."""
    unit = _BAR / max(*positive, *negative, 1)
    rows = [
        (f"  {number(low)}", "#" * round(n * unit), str(n), "#" * round(p * unit), str(p))
        for low, n, p in zip(edges[:-1], negative, positive, strict=True)
    ]
    print_table(("  from", "negative".ljust(_BAR), "", "positive".ljust(_BAR), ""), rows)
