"""The `trimtab` program: the commands gathered, and errors turned into exit codes.

Exit codes: 0 done; 1 a fault of trimtab's own (traceback); 2 the user's input is wrong (one line on stderr); 3 a
network or an endpoint failed (one line); 130 interrupted.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.main import get_command

from trimtab._version import __version__
from trimtab.cli.compare import compare
from trimtab.cli.datasets import datasets
from trimtab.cli.demo import demo
from trimtab.cli.detect import detect
from trimtab.cli.distill import distill
from trimtab.cli.evaluate import app as evaluations
from trimtab.cli.fit import fit
from trimtab.cli.generate import generate
from trimtab.cli.inspect import inspect
from trimtab.cli.methods import methods
from trimtab.cli.models import models
from trimtab.cli.output import fail, library_logs
from trimtab.cli.pairs import pairs
from trimtab.cli.recipe import recipe
from trimtab.cli.report import report
from trimtab.errors import InputError, NetworkError

DONE, FAULT, BAD_INPUT, NETWORK, INTERRUPTED = 0, 1, 2, 3, 130

app = typer.Typer(
    name="trimtab",
    add_completion=False,
    help="Faithful bi-directional steering vectors: fit, apply, look inside.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, fit, distill, generate, detect, inspect, recipe, compare, report, methods, models, datasets):
    app.command()(command)
app.add_typer(evaluations)
app.add_typer(pairs, name="pairs")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"trimtab {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code; nothing is raised.

    Args:
        argv: the arguments without the program's name; those of the process by default.

    Returns:
        The exit code, for `sys.exit`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with library_logs():
            returned = get_command(app).main(args=arguments, prog_name="trimtab", standalone_mode=False, obj=arguments)
            sys.stdout.flush()
    except Exception as error:
        return _report(error)
    except KeyboardInterrupt:
        returned = INTERRUPTED
    except SystemExit as ended:
        returned = ended.code
    if returned == INTERRUPTED:
        fail("interrupted")
    return returned if isinstance(returned, int) else DONE


def _report(error: Exception) -> int:
    """Says on stderr what went wrong, and returns the exit code that belongs to it."""
    if isinstance(error, NetworkError):
        fail(str(error))
        return NETWORK
    if isinstance(error, InputError):
        fail(str(error))
        return BAD_INPUT
    if isinstance(error, typer.TyperException):
        fail(_usage(error))
        return BAD_INPUT
    if isinstance(error, BrokenPipeError):
        # The reader went away (`trimtab models | head`): keep the interpreter's last flush from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    if isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError | FileExistsError):
        fail(f"{error.filename}: {error.strerror}; give a path that can be read and written")
        return BAD_INPUT
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        fail("out of memory; lower --batch-size, give --dtype bfloat16, or choose another --device")
        return BAD_INPUT
    traceback.print_exception(error)
    fail("a fault in trimtab, not in your input: please report it with the lines above and the command you typed")
    return FAULT


def _usage(error: Any) -> str:
    """The text of a wrong command line, with where its help is."""
    message = error.format_message().replace("Value error, ", "").rstrip(".") or "a command is missing"
    context = getattr(error, "ctx", None)
    return f"{message}; see `{context.command_path if context else 'trimtab'} --help`"
