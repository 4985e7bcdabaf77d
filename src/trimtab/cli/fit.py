"""`trimtab fit`: a steering vector, or a baseline, from contrast pairs."""

import itertools
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from trimtab.cli.describe import factor_words, layer_words, multipliers, sites
from trimtab.cli.options import (
    LAYER,
    Device,
    Dtype,
    Json,
    ModelName,
    NoCalibrate,
    SetOption,
    SourceTokens,
    given,
    named_settings,
    parse_layer,
)
from trimtab.cli.output import emit_json, number, say
from trimtab.cli.progress import show_progress
from trimtab.cli.quiet import at_work
from trimtab.errors import FitDivergedError, InputError

if TYPE_CHECKING:
    from trimtab.methods import Baseline
    from trimtab.steering import SteeringVector


def fit(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="A method of `trimtab methods`, such as cdas.")],
    model: ModelName,
    pairs: Annotated[
        str,
        typer.Option(
            "--pairs", metavar="P", help="A .jsonl, .parquet or .csv file, a name of `datasets`, or hub:owner/name."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory to save the vector in.")],
    layer: Annotated[
        str,
        typer.Option(
            "--layer", metavar=LAYER, help="0-based block whose output is edited; auto finds it, for both directions."
        ),
    ] = "auto",
    concept: Annotated[
        str | None, typer.Option("--concept", metavar="NAME", help="Only the pairs of this concept.")
    ] = None,
    positions: Annotated[
        str | None, typer.Option("--positions", metavar="WHERE", help="all, prompt, response, last, or f2+l2.")
    ] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="Dimensions of the edited subspace.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the pairs.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate of the first step.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Pairs a step.")] = None,
    weighting: Annotated[
        Literal["minibatch", "response"] | None,
        typer.Option("--weighting", help="What counts alike: tokens of a minibatch (published), or responses."),
    ] = None,
    start: Annotated[
        Literal["random", "means"] | None,
        typer.Option("--start", help="Where training begins: random (published), or the difference of the means."),
    ] = None,
    max_response_tokens: Annotated[
        int | None, typer.Option("--max-response-tokens", help="Cut responses to so many tokens.")
    ] = None,
    cache_bytes: Annotated[
        int | None, typer.Option("--cache-bytes", help="Memory for the states and teacher distributions kept.")
    ] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut pairs longer than the model's context.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Start vector and order of the pairs.")] = None,
    more: SetOption = None,
    init: Annotated[Path | None, typer.Option("--init", metavar="V.npy", help="Start vector, to replay a run.")] = None,
    order: Annotated[
        Path | None, typer.Option("--order", metavar="O.npy", help="Order of the pairs (epochs x n), to replay a run.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="T.npz", help="Write the vector and loss of every step here.")
    ] = None,
    no_calibrate: NoCalibrate = False,
    calibration_pairs: Annotated[
        str | None,
        typer.Option("--calibration-pairs", metavar="P", help="Calibrate on these instead of holding some out."),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    source_tokens: SourceTokens = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the vector that --out holds, and an existing --trace.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Fit a steering vector, or a baseline to compare it with, to contrast pairs and save it."""
    block = parse_layer(layer)
    from trimtab.steering.folders import check_free

    check_free(out, overwrite=overwrite)
    settings = given(
        positions=positions,
        rank=rank,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        weighting=weighting,
        start=start,
        max_response_tokens=max_response_tokens,
        cache_bytes=cache_bytes,
        truncate=truncate or None,
        seed=seed,
    )
    settings |= named_settings(more or [], settings)
    replay = given(init=init, order=order, trace=trace)
    with at_work():
        from trimtab.data import load_pairs
        from trimtab.fitting.traces import check_trace
        from trimtab.methods import Baseline, check_fit, fit_steerable
        from trimtab.models import load_model

        if trace is not None:
            check_trace(trace, overwrite=overwrite, out=out)
        check_fit(method, block, settings)
        held = None if calibration_pairs is None else load_pairs(calibration_pairs, concept=concept)
        contrast = load_pairs(pairs, concept=concept)
        loaded = load_model(model, device=device, dtype=dtype, source_tokens=source_tokens)
    try:
        with at_work(), show_progress() as progress:
            made = fit_steerable(
                method,
                loaded,
                contrast,
                layer=block,
                calibrate=not no_calibrate,
                calibration_pairs=held,
                progress=progress,
                **replay,
                **settings,
            )
    except FitDivergedError as error:
        raise InputError(diverged(error, out, trace, overwrite=overwrite)) from error
    made.save(out, overwrite=overwrite)
    is_baseline = isinstance(made, Baseline)
    summary = _baseline_summary(made, out) if is_baseline else _summary(made, method, out)
    if json_output:
        emit_json(summary)
    else:
        training = cast("dict[str, Any]", made.provenance["training"])
        where = "on all pairs" if is_baseline else f"at {layer_words(made)}"
        found = made.provenance.get("calibration")
        _print_summary(summary, where, training.get("loss_last_epoch"), found, model)


def diverged(error: FitDivergedError, out: Path, trace: Path | None = None, *, overwrite: bool) -> str:
    """Saves the last good vector or baseline beside `out`, under a number if that name is taken, and says so."""
    from trimtab.methods import Baseline

    what = error.last_good.method if isinstance(error.last_good, Baseline) else "vector"
    if error.last_good is None:
        return f"{error}; there is no vector to keep, {out} was not written"
    name = f"{out.name}.last-good"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    try:
        kept = next(path for path in map(out.with_name, names) if overwrite or not path.exists())
        error.last_good.save(kept, overwrite=overwrite)
    except (InputError, OSError) as failure:
        return f"{error}; nor could the {what} of the last good step be kept: {failure}"
    has_trace = trace is not None and error.step > 0 and trace.exists()
    traced = f", the trace up to there in {trace}" if has_trace else ""
    return f"{error}; the {what} of the last good step is kept in {kept}{traced}, {out} was not written"


def _summary(vector: "SteeringVector", method: str, out: Path) -> dict[str, Any]:
    """The object that `--json` prints."""
    training = cast("dict[str, Any]", vector.provenance["training"])
    of_sites = sites(vector)
    summary = {
        "vector": str(out),
        "method": method,
        "layer": vector.edits[0].intervention.site.layer,
        "loss_first": training.get("loss_first"),
        "loss_last": training.get("loss_last"),
        "factors": of_sites[0]["factors"] if of_sites else None,
        "multiplier": multipliers(vector),
        "seconds": training["seconds"],
        "steps": training["steps"],
    }
    return summary | ({"sites": of_sites} if len(of_sites) > 1 else {})


def _baseline_summary(baseline: "Baseline", out: Path) -> dict[str, Any]:
    """The object that `--json` prints of a baseline, which has neither layer nor factors."""
    training = cast("dict[str, Any]", baseline.provenance["training"])
    return {
        "vector": str(out),
        "method": baseline.method,
        "layer": None,
        "loss_first": training.get("loss_first"),
        "loss_last": training.get("loss_last"),
        "factors": None,
        "multiplier": dict.fromkeys(baseline.directions, 1.0),
        "seconds": training["seconds"],
        "steps": training["steps"],
    }


def _print_summary(summary: dict[str, Any], where: str, loss: float | None, calibration: Any, model: str) -> None:
    """The same for people, and what to type next; `loss` is the mean of the last epoch, steadier than one batch."""
    out, steps = summary["vector"], summary["steps"]
    if summary["loss_first"] is not None:
        last = summary["loss_last"] if loss is None else loss
        losses = f"loss {number(summary['loss_first'])} -> {number(last)}"
        say(f"{summary['method']} {where}: {losses} in {steps} steps, {summary['seconds']:.1f} s")
    else:
        word = "made" if summary["layer"] is None else "solved"
        say(f"{summary['method']} {where}: {word} in {summary['seconds']:.1f} s")
    several = summary.get("sites", [])
    for site in several or ([summary] if summary["factors"] is not None else []):
        at = f" at layer {site['layer']}" if several else ""
        say(
            f"positive factor{at}  {factor_words(site['factors']['positive'])}",
            f"negative factor{at}  {factor_words(site['factors']['negative'])}",
        )
    if calibration is not None:
        say(_calibration_words(summary["multiplier"], calibration))
    say(
        f"saved in {out}",
        f"next: trimtab inspect {shlex.quote(out)}",
        f"      trimtab generate --model {shlex.quote(model)} --vector {shlex.quote(out)} 'Your prompt'",
    )


def _calibration_words(multiplier: dict[str, float], found: dict[str, Any]) -> str:
    """The multipliers and what they do, such as `multiplier: elicit 1.5 (turns 94 %), suppress 1 (none helps)`."""
    if not found["directions"]:
        return "multiplier: 1, not calibrated"
    held = "held-out" if found["held_out"] else "training"
    chosen = []
    for direction, entry in found["directions"].items():
        shares = {m: share for m, share, *_ in entry["curve"]}
        does = f"turns {shares[multiplier[direction]]:.0%}" if "side_effects" in entry else "none helps"
        chosen.append(f"{direction} {number(multiplier[direction])} ({does})")
    return f"multiplier: {', '.join(chosen)} of the answers to {found['inputs']} {held} inputs"
