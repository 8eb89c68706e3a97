"""The command line: each command parses, calls one library function and shows what it returns."""

from __future__ import annotations

import os
import sys
import warnings

import typer

from headprobe import __version__
from headprobe.cli.ablate import ablate
from headprobe.cli.allocate import allocate
from headprobe.cli.compare import compare
from headprobe.cli.evaluate import evaluate
from headprobe.cli.export import export
from headprobe.cli.importing import import_scores
from headprobe.cli.listing import list_registry
from headprobe.cli.output import fail, warn
from headprobe.cli.plot import plot
from headprobe.cli.score import score
from headprobe.cli.show import show
from headprobe.errors import HeadprobeError, HeadprobeWarning
from headprobe.files import ADVICE

app = typer.Typer(
    name="headprobe",
    help="Profile every attention head of a causal language model; turn scores into KV budgets.",
    epilog="Start with: headprobe score, then headprobe allocate --budget 128, then headprobe plot",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headprobe {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Profile every attention head of a causal language model; turn scores into KV budgets."""


app.command()(score)
app.command()(allocate)
app.command()(export)
app.command("import")(import_scores)
app.command()(plot)
app.command()(evaluate)
app.command()(compare)
app.command()(ablate)
app.command()(show)
app.command("list")(list_registry)


def main() -> None:
    """Run the command line; a problem becomes one line on stderr and an exit code.

    A reader of stdout that has had enough, as ``head`` has, ends it without a word.
    """
    show_plainly = warnings.showwarning
    warnings.showwarning = lambda message, category, *where: (
        warn(str(message))
        if issubclass(category, HeadprobeWarning)
        else show_plainly(message, category, *where)
    )
    try:
        try:
            app()
        finally:
            # Here, since nothing catches what fails when Python flushes on its way out.
            if sys.stdout:
                sys.stdout.flush()
    except HeadprobeError as error:
        fail(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        _drop_output()
        sys.exit(1)
    except OSError as error:
        _drop_output()
        if error.errno not in ADVICE:
            raise
        fail(f"{error.filename or 'output'}: {error.strerror}; {ADVICE[error.errno]}")
        sys.exit(1)


def _drop_output() -> None:
    """What is left to be written to stdout goes nowhere, so that Python does not try again."""
    if sys.stdout:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
