"""`trimtab pairs build` and `trimtab pairs check`: contrast pairs made, and looked at before a fit."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from trimtab.cli.options import Device, Dtype, Json, SourceTokens
from trimtab.cli.output import emit_json, number, print_table, say
from trimtab.cli.progress import show_progress
from trimtab.cli.quiet import at_work
from trimtab.errors import InputError

if TYPE_CHECKING:
    from trimtab.clients.cost import Estimate
    from trimtab.data.building.builder import Built
    from trimtab.data.building.plan import BuildSettings, Plan
    from trimtab.data.building.sift import Presence
    from trimtab.data.building.writing import AnswerWriter, EndpointWriter
    from trimtab.data.check.checking import Checked
    from trimtab.data.check.findings import Finding
    from trimtab.data.wanted import WantedConcept
    from trimtab.models.text_side import TextSide

ORGANISM = "organism"
OPENAI = "openai:"
DRAWN = 72
"""Instructions that are drawn from the organism's world if `--limit` does not say: as many as AxBench has."""
SHOWN = 20
"""Concepts that a check's table shows."""

pairs = typer.Typer(
    no_args_is_help=True, help="Contrast pairs: build them from concepts and instructions, and check what a file holds."
)

ModelOption = Annotated[
    str | None, typer.Option("--model", metavar="M", help="A Hugging Face model id, a directory, or organism.")
]


@pairs.command()
def build(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Pairs as .jsonl, .json, .parquet or .csv.")],
    concept: Annotated[
        list[str] | None,
        typer.Option("--concept", metavar="NAME", help="Or NAME=DESCRIPTION; repeatable. With --from-axbench: which."),
    ] = None,
    concepts: Annotated[
        Path | None, typer.Option("--concepts", metavar="FILE", help="Concepts: .txt, .jsonl, .yaml, .csv, ...")
    ] = None,
    instructions: Annotated[
        str | None,
        typer.Option("--instructions", metavar="FILE", help="Instructions: .txt, .jsonl, .csv, ...; or organism."),
    ] = None,
    column: Annotated[
        str | None, typer.Option("--column", metavar="NAME", help="Where the instructions stand in their table.")
    ] = None,
    from_axbench: Annotated[
        Path | None,
        typer.Option("--from-axbench", metavar="DIR", help="Take positive answers from AxBench's training table."),
    ] = None,
    negatives: Annotated[
        Literal["model", "shared"] | None,
        typer.Option("--negatives", help="With --from-axbench: written (the default), or the table's shared rows."),
    ] = None,
    model: ModelOption = None,
    writer: Annotated[
        str, typer.Option("--writer", metavar="model|openai:NAME", help="Who writes the answers.")
    ] = "model",
    base_url: Annotated[
        str | None, typer.Option("--base-url", metavar="URL", help="Of the endpoint, up to /v1.")
    ] = None,
    key_env: Annotated[
        str, typer.Option("--key-env", metavar="NAME", help="Environment variable with the endpoint's key.")
    ] = "OPENAI_API_KEY",
    place: Annotated[
        Literal["system", "user"],
        typer.Option("--place", help="Ask for the concept in a system message, or behind the instruction."),
    ] = "system",
    wordings: Annotated[
        Literal["auto", "general", "organism"],
        typer.Option("--wordings", help="How a concept is asked for; auto: the organism's own way for its concepts."),
    ] = "auto",
    avoid: Annotated[
        bool, typer.Option("--avoid", help="Tell the writer of concept-free answers to avoid the concept.")
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="Most pairs a concept.")] = None,
    max_response_tokens: Annotated[
        int, typer.Option("--max-response-tokens", metavar="N", help="Longest answer, in tokens of --model.")
    ] = 128,
    reply_tokens: Annotated[
        int | None,
        typer.Option("--reply-tokens", metavar="N", help="What an endpoint may spend on an answer, thoughts included."),
    ] = None,
    temperature: Annotated[
        str, typer.Option("--temperature", metavar="X|own", help="0 = greedy; own: what the endpoint sets itself.")
    ] = "0",
    seed: Annotated[int, typer.Option("--seed", help="Of wordings and answers.")] = 0,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Answers at a time: 8 of a model, 64 of an endpoint.")
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", help="Requests under way at a time.")] = 8,
    requests_per_minute: Annotated[
        float | None, typer.Option("--requests-per-minute", metavar="X", help="Most requests a minute.")
    ] = None,
    prices: Annotated[
        str | None, typer.Option("--prices", metavar="IN,OUT", help="Of a million tokens sent and received.")
    ] = None,
    check: Annotated[
        Literal["auto", "none"],
        typer.Option("--check", help="Is the concept there? auto: the organism's judge reads answers of its world."),
    ] = "auto",
    allow_refusals: Annotated[
        bool, typer.Option("--allow-refusals", help="Keep answers that read as refusals.")
    ] = False,
    min_kept: Annotated[int, typer.Option("--min-kept", metavar="N", help="Fewest good pairs a concept.")] = 1,
    device: Device = None,
    dtype: Dtype = None,
    source_tokens: SourceTokens = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be asked and what it costs; write nothing.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that --out names.")] = False,
    json_output: Json = False,
) -> None:
    """Write contrast pairs for concepts: instructions answered with the concept, and without it."""
    with at_work():
        from trimtab.data.building.builder import build_pairs, check_plan, to_write
        from trimtab.data.building.plan import BuildSettings
        from trimtab.data.building.sift import Sieve

        settings = BuildSettings(
            place=place,
            wordings=_wordings(wordings, concept, concepts, model, instructions),
            avoid=avoid,
            temperature=_temperature(temperature),
            max_response_tokens=max_response_tokens,
            reply_tokens=reply_tokens,
            seed=seed,
        )
        _check_counts(limit, min_kept)
        if from_axbench is not None:
            _refuse_beside_axbench(concepts, instructions, column)
            planned = Planned(_axbench_plan(from_axbench, concept or [], settings, negatives or "model", limit), None)
        else:
            if negatives is not None:
                raise InputError(f"--negatives {negatives}: goes with --from-axbench DIR; leave it out")
            planned = _plan(_wanted(concept, concepts), instructions, column, settings, limit)
        check_plan(planned.plan, out, overwrite=overwrite)
        asked = Asked(writer, model, base_url, key_env, batch_size, concurrency, requests_per_minute, prices)
        left = to_write(planned.plan, out) if dry_run else ()
        estimate = _estimate(left, asked, settings, out, source_tokens) if dry_run else None
    if dry_run:
        _print_estimate(planned.plan, estimate, len(left), json_output)
        return
    with at_work():
        side, writes = _writer(planned.plan, asked, settings, out, device, dtype, source_tokens)
        sieve = Sieve(side, planned.presence if check == "auto" else None, allow_refusals)
    with at_work(), show_progress() as progress:
        built = build_pairs(
            planned.plan,
            writes,
            out,
            sieve=sieve,
            side=side,
            max_response_tokens=max_response_tokens,
            min_kept=min_kept,
            overwrite=overwrite,
            progress=progress,
        )
    _print_built(built, out, model, json_output)


class Planned(NamedTuple):
    """What is to be built, and who can tell whether a concept is there."""

    plan: "Plan"
    presence: "Presence | None"


class Asked(NamedTuple):
    """What the command line says of the one who writes."""

    writer: str
    model: str | None
    base_url: str | None
    key_env: str
    batch_size: int | None
    concurrency: int
    requests_per_minute: float | None
    prices: str | None


def _check_counts(limit: int | None, min_kept: int) -> None:
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: give at least 1")
    if min_kept < 0:
        raise InputError(f"--min-kept {min_kept}: give 0 or more")


def _refuse_beside_axbench(concepts: Path | None, instructions: str | None, column: str | None) -> None:
    for name, value in (("--concepts", concepts), ("--instructions", instructions), ("--column", column)):
        if value is not None:
            raise InputError(f"{name} {value}: --from-axbench brings its own; leave it out (--concept chooses)")


def _wanted(words: list[str] | None, path: Path | None) -> "tuple[WantedConcept, ...]":
    from trimtab.data.wanted import parse_concepts, read_concepts

    if words and path is not None:
        raise InputError("--concept and --concepts: give one of them")
    if words:
        return parse_concepts(words)
    if path is not None:
        return read_concepts(path)
    raise InputError("no concept given; name one with --concept NAME, or give --concepts FILE or --from-axbench DIR")


def _wordings(
    typed: str, words: list[str] | None, path: Path | None, model: str | None, instructions: str | None
) -> Literal["general", "organism"]:
    """The organism's own wordings for its own concepts, where it writes or its world is asked about."""
    from trimtab.organism import CONCEPTS

    if typed != "auto":
        return "organism" if typed == ORGANISM else "general"
    if ORGANISM not in (model, instructions) or not (words or path):
        return "general"
    names = [concept.name for concept in _wanted(words, path)]
    return "organism" if all(name in CONCEPTS for name in names) else "general"


def _temperature(text: str) -> float | None:
    if text == "own":
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--temperature {text}: takes 0 (greedy), a positive number, or own") from None


def _plan(
    concepts: "tuple[WantedConcept, ...]",
    instructions: str | None,
    column: str | None,
    settings: "BuildSettings",
    limit: int | None,
) -> Planned:
    from trimtab.data.building.organism import draw_instructions
    from trimtab.data.building.plan import plan_pairs
    from trimtab.data.wanted import Assignment, read_instructions

    if instructions is None:
        raise InputError("no instructions given; give --instructions FILE, one a line, or --instructions organism")
    if instructions == ORGANISM:
        if column is not None:
            raise InputError(f"--column {column}: goes with a file of instructions; leave it out")
        world = draw_instructions(concepts, DRAWN if limit is None else limit, settings.seed)
        return Planned(plan_pairs(world.assignments, settings), world.presence)
    texts = read_instructions(Path(instructions), column)[:limit]
    return Planned(plan_pairs([Assignment(concept, texts) for concept in concepts], settings), None)


def _axbench_plan(
    folder: Path,
    words: list[str],
    settings: "BuildSettings",
    negatives: Literal["model", "shared"],
    limit: int | None,
) -> "Plan":
    from trimtab.data.axbench import axbench_concepts, choose_concepts, read_training
    from trimtab.data.building.from_axbench import plan_axbench

    chosen = choose_concepts(axbench_concepts(folder), words)
    return plan_axbench(read_training(folder), chosen, settings, negatives=negatives, limit=limit)


def _endpoint(asked: Asked, settings: "BuildSettings", out: Path) -> "EndpointWriter":
    from trimtab.clients.cost import Prices
    from trimtab.clients.endpoint import Endpoint
    from trimtab.data.building.answers import REPLIES, partial_folder
    from trimtab.data.building.writing import EndpointWriter

    found = None
    if asked.prices is not None:
        try:
            found = Prices(*(float(part) for part in asked.prices.split(",")))
        except (ValueError, TypeError):
            raise InputError(f"--prices {asked.prices}: takes two numbers, 0 or more, such as 0.15,0.60") from None
    endpoint = Endpoint(
        asked.writer.removeprefix(OPENAI),
        asked.base_url,
        asked.key_env,
        concurrency=asked.concurrency,
        requests_per_minute=asked.requests_per_minute,
        cache_dir=partial_folder(out) / REPLIES,
        prices=found,
    )
    return EndpointWriter(endpoint, settings, 64 if asked.batch_size is None else asked.batch_size)


def _check_writer(asked: Asked) -> None:
    if asked.writer != "model" and not asked.writer.startswith(OPENAI):
        raise InputError(f"--writer {asked.writer}: takes model, or openai:NAME such as openai:gpt-4o-mini")
    if asked.writer == "model" and asked.base_url is not None:
        raise InputError(f"--base-url {asked.base_url}: goes with --writer openai:NAME; leave it out")


def _writer(
    plan: "Plan",
    asked: Asked,
    settings: "BuildSettings",
    out: Path,
    device: str | None,
    dtype: str | None,
    source_tokens: str | None,
) -> "tuple[TextSide | None, AnswerWriter | None]":
    """How the model reads, if there is one, and who writes, if anybody has to."""
    _check_writer(asked)
    from trimtab.data.building.writing import ModelWriter
    from trimtab.models import load_model
    from trimtab.models.text_side import load_text_side, text_side

    if asked.writer != "model" or not plan.asks:
        side = None if asked.model is None else load_text_side(asked.model, source_tokens=source_tokens)
        return side, _endpoint(asked, settings, out) if plan.asks else None
    if asked.model is None:
        raise InputError("nobody writes the answers; give --model M, or --writer openai:NAME")
    loaded = load_model(asked.model, device=device, dtype=dtype, source_tokens=source_tokens)
    size = 8 if asked.batch_size is None else asked.batch_size
    return text_side(loaded), ModelWriter(loaded, settings, size)


def _estimate(
    left: Any, asked: Asked, settings: "BuildSettings", out: Path, source_tokens: str | None
) -> "Estimate | None":
    """What the answers that are missing would take; None where nothing is known of how the model counts."""
    _check_writer(asked)
    from trimtab.data.building.writing import estimate_tokens
    from trimtab.models.text_side import load_text_side

    if asked.writer != "model":
        return _endpoint(asked, settings, out).estimate(left)
    if asked.model is None:
        if left:
            raise InputError("nobody writes the answers; give --model M, or --writer openai:NAME")
        return None
    return estimate_tokens(load_text_side(asked.model, source_tokens=source_tokens), left, settings)


def _print_estimate(plan: "Plan", estimate: "Estimate | None", left: int, json_output: bool) -> None:
    summary: dict[str, Any] = {
        "concepts": len(plan.concepts),
        "pairs": len(plan.drafts),
        "answers": len(plan.asks),
        "written_before": len(plan.asks) - left,
        "estimate": None if estimate is None else asdict(estimate),
    }
    if json_output:
        emit_json(summary)
        return
    of_concepts = "1 concept" if len(plan.concepts) == 1 else f"{len(plan.concepts)} concepts"
    say(f"{summary['pairs']} pairs of {of_concepts}, {summary['answers']} answers to be written")
    if left < len(plan.asks):
        say(f"{summary['written_before']} of them were written before; {left} are left")
    if estimate is not None:
        cached = f", {estimate.cached} of them answered already" if estimate.cached else ""
        cost = "" if estimate.price is None else f"; at most {number(estimate.price)} at the prices given"
        say(
            f"{estimate.calls} calls{cached}: about {estimate.input_tokens} tokens to read, "
            f"at most {estimate.output_tokens} to write{cost}"
        )
    say("nothing was written")


def _print_built(built: "Built", out: Path, model: str | None, json_output: bool) -> None:
    if json_output:
        emit_json(
            {
                "out": str(out),
                "pairs": len(built.pairs),
                "planned": built.planned,
                "kept": built.kept,
                "dropped": built.reasons,
                "examples": [asdict(row) for row in built.dropped],
                "answers": {"written": built.written, "found": built.found, "cut": built.cut},
            }
        )
        return
    before = f", {built.found} of an earlier run taken" if built.found else ""
    cut = f", {built.cut} cut" if built.cut else ""
    say(f"{len(built.pairs)} of {sum(built.planned.values())} pairs kept; {built.written} answers written{before}{cut}")
    for reason, times in built.reasons.items():
        say(f"  dropped {times}: {reason}")
    for name, kept in built.kept.items():
        if len(built.kept) > 1 and kept < built.planned[name]:
            say(f"  {name}: {kept} of {built.planned[name]}")
    say(f"saved in {out}")
    with_model = f" --model {shlex.quote(model)}" if model else ""
    say(f"next: trimtab pairs check {shlex.quote(str(out))}{with_model}")


@pairs.command()
def check(
    source: Annotated[str, typer.Argument(metavar="FILE", help="Pairs, a name of `datasets`, or hub:owner/name.")],
    model: ModelOption = None,
    concept: Annotated[str | None, typer.Option("--concept", metavar="NAME", help="Only this concept.")] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="FILE", help="Other pairs that should share no text with these.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 2 on warnings too.")] = False,
    source_tokens: SourceTokens = None,
    json_output: Json = False,
) -> None:
    """Say what is wrong or doubtful in contrast pairs, with line numbers."""
    with at_work():
        from trimtab.data.check.checking import check_pairs

        side = None
        if model is not None:
            from trimtab.models.text_side import load_text_side

            side = load_text_side(model, source_tokens=source_tokens)
        checked = check_pairs(source, side=side, concept=concept, against=against)
    if json_output:
        emit_json({**asdict(checked), "loadable": checked.loadable, "warnings": checked.warnings})
    else:
        _print_checked(checked)
    if not checked.loadable:
        errors = sum(finding.count for finding in checked.findings if finding.level == "error")
        raise InputError(f"{source}: cannot be loaded, {errors} of its rows are wrong; mend the lines named")
    if strict and checked.warnings:
        raise InputError(f"{source}: {checked.warnings} warnings, and --strict was given")


def _print_checked(checked: "Checked") -> None:
    skipped = f", {checked.skipped} rows with a negative concept id left out" if checked.skipped else ""
    say(f"{checked.source}: {checked.pairs} pairs of {checked.rows} rows{skipped}")
    if checked.concepts:
        unit = checked.concepts[0].lengths.unit
        columns = ("concept", "pairs", f"{unit} +", f"{unit} -", "d", "same request", "best tell", "AUROC")
        rows = []
        for look in checked.concepts[:SHOWN]:
            tell = look.tells[0] if look.tells else None
            rows.append(
                (
                    look.concept or "-",
                    str(look.pairs),
                    f"{look.lengths.positive:.1f}",
                    f"{look.lengths.negative:.1f}",
                    "-" if look.lengths.effect is None else f"{look.lengths.effect:+.2f}",
                    f"{look.same_request:.0%}",
                    "-" if tell is None else f"{tell.ngram} ({tell.side})",
                    "-" if tell is None else f"{tell.auroc:.2f}",
                )
            )
        print_table(columns, rows)
        if len(checked.concepts) > SHOWN:
            say(f"and {len(checked.concepts) - SHOWN} more concepts (--json shows all)")
    for finding in checked.findings:
        say(_finding_line(finding))
    if not checked.findings:
        say("nothing wrong or doubtful was found")


def _finding_line(finding: "Finding") -> str:
    more = finding.count - len(finding.places)
    places = "; ".join(finding.places) + (f"; and {more} more" if more > 0 and finding.places else "")
    # a row's error names its line already
    tail = f": {places}" if places and finding.topic != "row" else ""
    times = f" ({finding.count})" if finding.count > 1 else ""
    return f"{finding.level:<8} {finding.topic}: {finding.text}{times}{tail}"
