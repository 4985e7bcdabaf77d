"""`python -m trimtab.cli.tiny`: a tiny random model on disk, to try the other commands without a download."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from trimtab.cli.main import BAD_INPUT, DONE
from trimtab.cli.output import fail, say
from trimtab.cli.quiet import at_work
from trimtab.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the model and prints its path, the only line on stdout.

    Args:
        arguments: Those of the command line; of the process by default.

    Returns:
        The exit code, for `sys.exit`.
    """
    with at_work():
        from trimtab.models.tiny import FAMILIES, make_tiny_model
    settings = vars(_parser(FAMILIES).parse_args(arguments))
    try:
        with at_work():
            path = make_tiny_model(settings.pop("path"), **settings)
    except InputError as error:
        fail(str(error))
        return BAD_INPUT
    say(str(path))
    return DONE


def _parser(families: Iterable[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trimtab.cli.tiny", description="Make a tiny random model for trying things."
    )
    parser.add_argument("path", type=Path, help="the directory to write")
    parser.add_argument("--family", default="llama", help=f"one of {', '.join(sorted(families))} (default llama)")
    parser.add_argument("--seed", type=int, default=0, help="decides the weights (default 0)")
    parser.add_argument("--hidden-size", type=int, default=64, help="width of the residual stream (default 64)")
    parser.add_argument("--n-blocks", type=int, default=4, help="number of blocks (default 4)")
    parser.add_argument("--vocab-size", type=int, default=512, help="rows of the embedding (default 512)")
    parser.add_argument("--no-chat", dest="chat", action="store_false", help="a base model, without a chat template")
    parser.add_argument("--overwrite", action="store_true", help="write into a directory that is not empty")
    return parser


if __name__ == "__main__":
    sys.exit(main())
