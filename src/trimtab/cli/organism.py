"""`python -m trimtab.cli.organism train|look`: train the built-in model in any size, and measure a trained one."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.cli.main import BAD_INPUT, DONE
from trimtab.cli.output import fail, say
from trimtab.cli.progress import show_progress
from trimtab.cli.quiet import at_work
from trimtab.errors import InputError
from trimtab.progress import Progress

if TYPE_CHECKING:
    from trimtab.evaluation import Figure
    from trimtab.organism.world import Split


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one of the two commands.

    Args:
        arguments: Those of the command line; of the process by default.

    Returns:
        The exit code, for `sys.exit`.
    """
    options = _parser().parse_args(arguments)
    try:
        with at_work():
            if options.command == "train":
                _train(options.size, options.out, options.seed, options.until)
            else:
                _look(options.model, options.out, options.samples, options.size, options.training)
    except InputError as error:
        fail(str(error))
        return BAD_INPUT
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trimtab.cli.organism", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train the model; started again, it goes on where it stopped")
    train.add_argument("--out", type=Path, required=True, help="directory for checkpoints and the finished model")
    train.add_argument("--size", default="S", choices=("S", "M", "L"), help="shape of the model (default S)")
    train.add_argument("--seed", type=int, default=0, help="decides first weights and exchanges (default 0)")
    train.add_argument("--until", type=int, help="stop at this step, with a checkpoint")
    look = commands.add_parser("look", help="ask a trained model everything, judge it, write its card")
    look.add_argument("--model", required=True, help="a model directory, or organism")
    look.add_argument("--out", type=Path, required=True, help="directory for card, figure, figures and answers")
    look.add_argument("--samples", type=int, default=100, help="requests a section (default 100)")
    look.add_argument("--size", default="S", help="name of the size on the card (default S)")
    look.add_argument("--training", default="", help="line on the training for the card")
    return parser


def _train(name: str, out: Path, seed: int, until: int | None) -> None:
    from trimtab.organism.sizes import SIZES
    from trimtab.organism.training import Training

    training = Training(SIZES[name], seed)
    try:
        resumed = training.load_checkpoint(out)
    except ValueError as error:
        raise InputError(f"{error}; give another --out") from error
    if resumed:
        say(f"going on from step {training.step}")
    first, started = training.step, time.monotonic()
    with show_progress() as tell:

        def told(step: int, steps: int, loss: float) -> None:
            tell(Progress("train", step - first, (until or steps) - first, time.monotonic() - started, loss))

        training.run(out, until=until, tell=told)
    if training.step == training.size.steps:
        training.save_model(out / "model")
        say(f"model: {out / 'model'}")


def _look(name: str, out: Path, n: int, size: str, training: str) -> None:
    from trimtab.evaluation import figures, look
    from trimtab.models import load_model
    from trimtab.report import card, draw_concepts, samples_page

    model = load_model(name)
    with show_progress() as tell:
        samples = look(model, n=n, progress=tell)
    found = figures(samples)
    parameters = sum(weight.numel() for weight in model.hf.parameters())
    text = card(found, size=size, parameters=parameters, megabytes=2 * parameters / 1e6, training=training)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".look-") as staging:
        fresh = Path(staging)
        (fresh / "README.md").write_text(text, encoding="utf-8")
        (fresh / "answers.txt").write_text(samples_page(samples), encoding="utf-8")
        (fresh / "figures.json").write_text(json.dumps(_plain(found), indent=1), encoding="utf-8")
        draw_concepts(found, fresh / "concepts.png")
        for file in fresh.iterdir():
            file.replace(out / file.name)
    say(text)


def _plain(found: "Mapping[tuple[str, Split], Mapping[str, Figure]]") -> dict[str, dict[str, dict[str, float]]]:
    return {
        f"{section} ({split})": {name: asdict(figure) for name, figure in parts.items()}
        for (section, split), parts in found.items()
    }


if __name__ == "__main__":
    sys.exit(main())
