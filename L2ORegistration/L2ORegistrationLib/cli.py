"""`l2o-registration`: the command line, put together from the files in commands/."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated

import typer

from . import __version__
from .commands.apply import apply
from .commands.batch import batch
from .commands.benchmark import benchmark
from .commands.console import messages, print_json, say
from .commands.demo import demo
from .commands.evaluate import evaluate
from .commands.invert import invert
from .commands.listing import devices, models
from .commands.register import register
from .commands.sequence import sequence
from .commands.train import train
from .core.errors import InputError

# Typer's own name for it differs from version to version.
_UsageError = typer.BadParameter.__bases__[0]


def main(arguments: list[str] | None = None) -> int:
    """Run one command line (default: the program's own) and return its exit code.

    0: done; 1: an unexpected error; 2: something given cannot be used, one sentence on stderr says
    what and why (with --json: {"error": ...} on stdout); 130: stopped by Ctrl-C.
    """
    _print_all_characters()
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    run = partial(_application(), prog_name="l2o-registration", standalone_mode=not as_json)
    try:
        return run(args=arguments) or 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (InputError, _UsageError) as error:
        said = error.format_message() if isinstance(error, _UsageError) else str(error)
        if as_json:
            print_json({"error": said})
        else:
            say(said, "red", messages)
        return 2


def _print_all_characters() -> None:
    """Write as \\u1234 what a file or pipe cannot hold, instead of ending there with an error.

    On Windows these are in the code page of old, and paths may have any character.
    """
    if hasattr(sys.stdout, "reconfigure"):  # else it was replaced, as in tests
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is anyway


def _application() -> typer.Typer:
    application = typer.Typer(
        help="Register two CTs of the same lungs.",
        epilog="For research; not a medical device.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    application.callback()(_options)
    commands = (demo, register, batch, sequence, evaluate, invert, apply)
    for command in (*commands, models, devices, train, benchmark):
        application.command()(command)
    return application


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit()


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
