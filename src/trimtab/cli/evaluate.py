"""`trimtab eval`: a claim checked by one of the field's protocols, on record."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from trimtab.cli.options import Device, Dtype, Json, ModelName, SourceTokens, given, named_settings
from trimtab.cli.output import emit_json
from trimtab.cli.progress import show_progress
from trimtab.cli.quiet import at_work
from trimtab.cli.summary import print_cost, print_summary
from trimtab.errors import InputError

if TYPE_CHECKING:
    from trimtab.models import Model

ORGANISM = "organism"
app = typer.Typer(
    name="eval",
    help="Check a claim by one of the field's protocols; killed and started again, it goes on where it was.",
    no_args_is_help=True,
)

Vectors = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[LABEL=]DIR...", help="Saved vectors and baselines, or folders that hold such, at any depth."
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The run's directory.")]
Concept = Annotated[
    str | None, typer.Option("--concept", metavar="NAME", help="What the vectors are for, if they do not know it.")
]
Multipliers = Annotated[
    str | None, typer.Option("--multipliers", metavar="M,M,...", help="Multipliers to try; their own by default.")
]
Scale = Annotated[
    Literal["gap", "published"],
    typer.Option("--scale", help="What the multiplier of a clamp moves along: the gap, or the factor as published."),
]
JudgeSpec = Annotated[
    str | None,
    typer.Option(
        "--judge",
        metavar="JUDGE",
        help="exact (the organism's own), rules, openai:MODEL, local:MODEL; concept=rules,openai:MODEL for several.",
    ),
]
JudgeUrl = Annotated[
    str | None, typer.Option("--judge-url", metavar="URL", help="Of openai:, another endpoint than OpenAI's own.")
]
JudgeSet = Annotated[
    list[str] | None,
    typer.Option(
        "--judge-set",
        metavar="NAME=VALUE",
        help="Of openai: and local:, temperature (0; published 0.7, 0.01); of openai:, cache (a folder), "
        "requests_per_minute, concurrency (8), input_price and output_price (a million tokens). May be repeated.",
    ),
]
More = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Another setting of the protocol, such as unreadable=zero; may be repeated.",
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", metavar="N", help="Rows a forward.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Of samples, drawn prompts and intervals.")]
MaxNewTokens = Annotated[int | None, typer.Option("--max-new-tokens", metavar="N", help="Of an answer.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be written and asked, and what it costs.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Begin anew where --out holds a run already.")]


@dataclass(frozen=True)
class Common:
    """The options that all protocols share."""

    command: str
    vectors: tuple[str, ...]
    model: str
    out: Path
    concept: str | None
    scale: str
    batch_size: int
    device: str | None
    dtype: str | None
    source_tokens: str | None
    dry_run: bool
    overwrite: bool
    json_output: bool
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judging:
    """The options about a judge."""

    spec: str | None = None
    url: str | None = None
    temperature: float | None = None
    cache: str | None = None
    requests_per_minute: float | None = None
    concurrency: int = 8
    input_price: float | None = None
    output_price: float | None = None

    @classmethod
    def of(cls, spec: str | None, url: str | None, words: list[str] | None) -> "Judging":
        """From `--judge`, `--judge-url` and every `--judge-set`.

        Raises:
            InputError: An unknown name, a value of another kind, a price without the other, or no judge that they could
                be about.
        """
        from trimtab.evaluation.setting_kinds import typed

        named = named_settings(words or [], {}, "--judge-set", "temperature=0.7")
        allowed = ("temperature", "cache", "requests_per_minute", "concurrency", "input_price", "output_price")
        for name in named:
            if name not in allowed:
                raise InputError(f"--judge-set {name}: there is no such setting; allowed: {', '.join(allowed)}")
        found = cls(spec, url, **typed(cls, named))
        if (found.input_price is None) != (found.output_price is None):
            raise InputError("--judge-set has one price; give input_price and output_price, both or none")
        kinds = {"openai"} if url is not None else {"openai", "local"}
        if (url is not None or named) and not any(f"{kind}:" in (spec or "") for kind in kinds):
            has = "there is none" if spec is None else f"the judge is {spec}"
            raise InputError(
                f"--judge-url is about openai:MODEL, --judge-set about that and local:MODEL, and {has}; give --judge"
            )
        return found


@app.command()
def axbench(
    context: typer.Context,
    model: ModelName,
    out: Out,
    vectors: Vectors = None,
    concepts: Annotated[
        str,
        typer.Option(
            "--concepts", metavar="C", help="organism, a folder of AxBench's layout, or a file of concepts of your own."
        ),
    ] = ORGANISM,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Only these concepts, and vectors for them; may be repeated."),
    ] = None,
    instructions: Annotated[
        str | None,
        typer.Option("--instructions", metavar="FILE", help="A file of them, or alpaca_eval, fetched from the Hub."),
    ] = None,
    prompts: Annotated[int, typer.Option("--prompts", metavar="N", help="Instructions a concept.")] = 10,
    place: Annotated[
        Literal["system", "user"], typer.Option("--place", help="Where a prompt that carries the concept asks for it.")
    ] = "system",
    concept: Concept = None,
    multipliers: Annotated[
        str | None,
        typer.Option(
            "--multipliers",
            metavar="M,M,...",
            help="Or a list by name: gap, axbench, sae, reps, cdas-2b, cdas-9b, unit.",
        ),
    ] = None,
    scale: Scale = "gap",
    temperature: Annotated[float | None, typer.Option("--temperature", help="Of the answers; 1 by default.")] = None,
    max_new_tokens: MaxNewTokens = None,
    judge: JudgeSpec = None,
    judge_url: JudgeUrl = None,
    judge_set: JudgeSet = None,
    seed: Seed = None,
    batch_size: BatchSize = 32,
    more: More = None,
    device: Device = None,
    dtype: Dtype = None,
    source_tokens: SourceTokens = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Concept, instruction, fluency; multiplier chosen on one half and reported on the other; detection."""
    common = Common(
        typed(context), tuple(vectors or ()), model, out, concept, scale, batch_size, device, dtype, source_tokens,
        dry_run, overwrite, json_output, tuple(only or ()),
    )  # fmt: skip
    judging = Judging.of(_spec(judge, concepts), judge_url, judge_set)

    source = given(
        concepts=concepts, only=tuple(only or ()), prompts=prompts, instructions=instructions, place=place, seed=seed
    )
    settings = given(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    if multipliers is not None:
        settings["multipliers"] = axbench_multipliers(multipliers)
    run("axbench", common, judging, source, settings, more)


@app.command()
def refusal(
    context: typer.Context,
    model: ModelName,
    out: Out,
    vectors: Vectors = None,
    harmful: Annotated[
        str, typer.Option("--harmful", metavar="FILE", help="organism, a contrast file, JailbreakBench's, or a list.")
    ] = ORGANISM,
    harmless: Annotated[
        str | None,
        typer.Option("--harmless", metavar="FILE", help="By default the negative side of the contrast file."),
    ] = None,
    safe: Annotated[
        str | None, typer.Option("--safe", metavar="FILE", help="Prompts that only look harmful, such as XSTest's CSV.")
    ] = None,
    prompts: Annotated[int, typer.Option("--prompts", metavar="N", help="Most prompts of each kind.")] = 100,
    concept: Concept = None,
    multipliers: Multipliers = None,
    scale: Scale = "gap",
    max_new_tokens: MaxNewTokens = None,
    judge: JudgeSpec = None,
    judge_url: JudgeUrl = None,
    judge_set: JudgeSet = None,
    seed: Seed = None,
    batch_size: BatchSize = 32,
    more: More = None,
    device: Device = None,
    dtype: Dtype = None,
    source_tokens: SourceTokens = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Are harmful requests answered, harmless ones refused, and the others left alone?"""
    common = Common(
        typed(context), tuple(vectors or ()), model, out, concept, scale, batch_size, device, dtype, source_tokens,
        dry_run, overwrite, json_output,
    )  # fmt: skip
    judging = Judging.of(_spec(judge, harmful), judge_url, judge_set)

    source = given(harmful=harmful, harmless=harmless, safe=safe, prompts=prompts, seed=seed)
    settings = given(max_new_tokens=max_new_tokens, seed=seed, multipliers=parse_multipliers(multipliers))
    run("refusal", common, judging, source, settings, more)


@app.command()
def backdoor(
    context: typer.Context,
    model: ModelName,
    out: Out,
    vectors: Vectors = None,
    trigger: Annotated[
        str, typer.Option("--trigger", metavar="FILE", help="organism, or a file of prompts that carry the trigger.")
    ] = ORGANISM,
    training: Annotated[
        str | None, typer.Option("--training", metavar="FILE", help="Prompts without it, in training mode.")
    ] = None,
    deployment: Annotated[
        str | None, typer.Option("--deployment", metavar="FILE", help="Prompts that say the model is deployed.")
    ] = None,
    prompts: Annotated[int, typer.Option("--prompts", metavar="N", help="Most prompts of each kind.")] = 172,
    concept: Concept = None,
    multipliers: Multipliers = None,
    scale: Scale = "gap",
    max_new_tokens: MaxNewTokens = None,
    judge: JudgeSpec = None,
    judge_url: JudgeUrl = None,
    judge_set: JudgeSet = None,
    seed: Seed = None,
    batch_size: BatchSize = 32,
    more: More = None,
    device: Device = None,
    dtype: Dtype = None,
    source_tokens: SourceTokens = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Does the hidden behaviour come out under its trigger, and is everything else kept?"""
    common = Common(
        typed(context), tuple(vectors or ()), model, out, concept, scale, batch_size, device, dtype, source_tokens,
        dry_run, overwrite, json_output,
    )  # fmt: skip
    judging = Judging.of(_spec(judge, trigger), judge_url, judge_set)

    source = given(trigger=trigger, training=training, deployment=deployment, prompts=prompts, seed=seed)
    settings = given(max_new_tokens=max_new_tokens, seed=seed, multipliers=parse_multipliers(multipliers))
    run("backdoor", common, judging, source, settings, more)


@app.command()
def utility(
    context: typer.Context,
    model: ModelName,
    out: Out,
    vectors: Vectors = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="TASK", help="A task of lm-evaluation-harness, a YAML file, standard, or tiny."),
    ] = None,
    choices: Annotated[
        int, typer.Option("--choices", metavar="N", help="Questions of the organism's own set; for the organism 200.")
    ] = 0,
    few_shot: Annotated[int | None, typer.Option("--few-shot", metavar="N", help="Examples before a question.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="Most items of each task.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask the harness's tasks through the chat template.")] = False,
    concept: Concept = None,
    multipliers: Multipliers = None,
    scale: Scale = "gap",
    seed: Seed = None,
    batch_size: BatchSize = 8,
    more: More = None,
    device: Device = None,
    dtype: Dtype = None,
    source_tokens: SourceTokens = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Are questions that have nothing to do with the concept still answered rightly? Before and after, item by item."""
    common = Common(
        typed(context), tuple(vectors or ()), model, out, concept, scale, batch_size, device, dtype, source_tokens,
        False, overwrite, json_output,
    )  # fmt: skip
    if model == ORGANISM and not task and not choices:
        choices = 200
    settings = given(
        tasks=tuple(task or ()),
        choices=choices,
        num_fewshot=few_shot,
        limit=limit,
        chat_template=chat,
        seed=seed,
        multipliers=parse_multipliers(multipliers),
    )

    run("utility", common, Judging(), {}, settings, more)


@app.command()
def faithfulness(
    context: typer.Context,
    model: ModelName,
    out: Out,
    vectors: Vectors = None,
    prompts: Annotated[
        str, typer.Option("--prompts", metavar="FILE", help="organism, or a file of prompts of another kind.")
    ] = ORGANISM,
    texts: Annotated[str | None, typer.Option("--texts", metavar="FILE", help="Running texts, as they stand.")] = None,
    pairs: Annotated[
        str | None,
        typer.Option("--pairs", metavar="P", help="Held-out contrast pairs, for preference and utility odds."),
    ] = None,
    training: Annotated[
        str | None,
        typer.Option("--training", metavar="P", help="The pairs they were fitted to, for how stable directions are."),
    ] = None,
    stability: Annotated[
        int, typer.Option("--stability", metavar="N", help="Fits on other samples and seeds, so many of each.")
    ] = 0,
    n: Annotated[int, typer.Option("--n", metavar="N", help="Most prompts, texts and pairs.")] = 32,
    concept: Concept = None,
    multipliers: Multipliers = None,
    scale: Scale = "gap",
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = None,
    batch_size: BatchSize = 32,
    more: More = None,
    device: Device = None,
    dtype: Dtype = None,
    source_tokens: SourceTokens = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """How far does steering move what it has no business with? Divergences, odds, stability, controls, dose by dose."""
    common = Common(
        typed(context), tuple(vectors or ()), model, out, concept, scale, batch_size, device, dtype, source_tokens,
        dry_run, overwrite, json_output,
    )  # fmt: skip
    source = given(prompts=prompts, texts=texts, pairs=pairs, training=training, n=n, seed=seed)
    settings = given(
        max_new_tokens=max_new_tokens,
        seed=seed,
        multipliers=parse_multipliers(multipliers),
        stability=stability or None,
    )
    run("faithfulness", common, Judging(), source, settings, more)


@app.command()
def steerability(
    context: typer.Context,
    model: ModelName,
    out: Out,
    vectors: Vectors = None,
    texts: Annotated[
        str, typer.Option("--texts", metavar="FILE", help="organism, or a file of texts to be rewritten.")
    ] = ORGANISM,
    corpus: Annotated[
        str | None, typer.Option("--corpus", metavar="FILE", help="Texts that the goals' scales are read from.")
    ] = None,
    n: Annotated[int, typer.Option("--n", metavar="N", help="Source texts.")] = 48,
    gains: Annotated[
        str | None, typer.Option("--gains", metavar="G,G,...", help="Multiplier a unit of the shift that is asked for.")
    ] = None,
    concept: Concept = None,
    scale: Scale = "gap",
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = None,
    batch_size: BatchSize = 32,
    more: More = None,
    device: Device = None,
    dtype: Dtype = None,
    source_tokens: SourceTokens = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Asked to move a text towards a goal, how far does it go, and what else moves? One vector a goal."""
    common = Common(
        typed(context), tuple(vectors or ()), model, out, concept, scale, batch_size, device, dtype, source_tokens,
        False, overwrite, json_output,
    )  # fmt: skip
    source = given(texts=texts, corpus=corpus, n=n, seed=seed)
    asked = None if gains is None else _numbers("--gains", gains)
    run("steerability", common, Judging(), source, given(max_new_tokens=max_new_tokens, seed=seed, gains=asked), more)


def typed(context: typer.Context) -> str:
    """The command line as it was typed."""
    return shlex.join(["trimtab", *context.find_root().obj])


def run(
    name: str,
    common: Common,
    judging: Judging,
    source: Mapping[str, Any],
    settings: Mapping[str, Any],
    more: list[str] | None,
) -> None:
    """Runs a protocol as the command line asks for it, and prints its headline table."""
    with at_work():
        from trimtab.evaluation.contenders import load_contenders
        from trimtab.evaluation.evaluate import cost, evaluate, find_protocol, protocol_settings
        from trimtab.evaluation.protocols.protocol import Asked
        from trimtab.fitting.settings import build_settings
        from trimtab.models import load_model

        checked = protocol_settings(name, {**settings, **named_settings(more or [], settings)})
        loaded = load_contenders(common.vectors, concept=common.concept, scale=common.scale)
        found = build_settings(find_protocol(name).source, source).load(checked, loaded)
        # what --only names may be numbers, and what was loaded has the names
        contenders = [each for each in loaded if not common.only or each.concept in found.names]
        model = load_model(common.model, device=common.device, dtype=common.dtype, source_tokens=common.source_tokens)
        judge = _judge(judging, common, model)
    if common.dry_run:
        print_cost(cost(name, Asked(model, found, contenders, judge, checked)), common.json_output)
        return
    with at_work(), show_progress() as progress:
        asked = Asked(model, found, contenders, judge, checked, common.batch_size, progress)
        summary = evaluate(name, asked, common.out, overwrite=common.overwrite, info={"command": common.command})
    if common.json_output:
        emit_json({"run": str(common.out), "protocol": name, "tables": summary["tables"], "counts": summary["counts"]})
    else:
        print_summary(summary, common.out)


def _spec(judge: str | None, data: str) -> str | None:
    """The judge that was asked for, or for the organism's own prompts the exact one."""
    return "exact" if judge is None and data == ORGANISM else judge


def _judge(judging: Judging, common: Common, model: "Model") -> Any:
    if judging.spec is None:
        return None
    from trimtab.clients.cost import Prices
    from trimtab.evaluation.judges.build import build_judge
    from trimtab.models import load_model

    def loaded(name: str) -> "Model":
        return model if name == common.model else load_model(name, device=common.device, dtype=common.dtype)

    has_prices = judging.input_price is not None and judging.output_price is not None
    return build_judge(
        judging.spec,
        base_url=judging.url,
        cache_dir=judging.cache or common.out.parent / "judge-cache",
        temperature=judging.temperature,
        concurrency=judging.concurrency,
        requests_per_minute=judging.requests_per_minute,
        prices=Prices(judging.input_price or 0.0, judging.output_price or 0.0) if has_prices else None,
        load_model=loaded,
    )


def parse_multipliers(text: str | None) -> tuple[float, ...] | None:
    """The numbers of `--multipliers`; None where it is not given."""
    return None if text is None else _numbers("--multipliers", text)


def axbench_multipliers(text: str) -> tuple[float, ...]:
    """The numbers of `--multipliers`, or those of a list by name."""
    from trimtab.evaluation.protocols.axbench import GRIDS

    if text in GRIDS:
        return GRIDS[text]
    try:
        return _numbers("--multipliers", text)
    except InputError:
        raise InputError(f"--multipliers {text}: takes numbers such as 0.5,1,2, or {', '.join(GRIDS)}") from None


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{flag} {text}: takes numbers with commas between, such as 0.5,1,2") from None
