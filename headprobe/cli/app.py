"""Build the command line out of its commands, run it, and word its errors."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import typer

from headprobe import __version__
from headprobe.cli.ablate import ablate
from headprobe.cli.allocate import allocate
from headprobe.cli.bounds import bounded
from headprobe.cli.compare import compare
from headprobe.cli.evaluate import evaluate
from headprobe.cli.export import export
from headprobe.cli.importing import import_scores
from headprobe.cli.listing import list_registry
from headprobe.cli.output import fail, restored, start_log, warn
from headprobe.cli.parsing import check_arguments
from headprobe.cli.plot import plot
from headprobe.cli.process import discard, signal_received
from headprobe.cli.pull import pull
from headprobe.cli.report import report
from headprobe.cli.score import score
from headprobe.cli.show import show
from headprobe.cli.wording import in_options, mistyped, worded
from headprobe.errors import HeadprobeError, HeadprobeWarning, Interrupted, UsageError
from headprobe.files import ADVICE

app = typer.Typer(
    name="headprobe",
    help="Profile every attention head of a causal language model; turn scores into KV budgets.",
    epilog="Start with: headprobe score, then headprobe allocate --budget 128, then headprobe plot",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # The default of newer releases of typer.
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


# All errors of typing; typer has no public name for their class.
_Mistyped = cast("type[Exception]", typer.BadParameter.__base__)


def _log(wanted: bool) -> bool:
    if wanted:
        start_log()
    return wanted


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"headprobe {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
    verbose: bool = typer.Option(
        False, "--verbose", "-v", callback=_log, help="Log what is loaded, planned and done."
    ),
) -> None:
    """Profile every attention head of a causal language model; turn scores into KV budgets."""


app.command()(bounded(score))
app.command()(bounded(allocate))
app.command()(bounded(export))
app.command("import")(bounded(import_scores))
app.command()(bounded(pull))
app.command()(bounded(plot))
app.command()(bounded(report))
app.command()(bounded(evaluate))
app.command()(bounded(compare))
app.command()(bounded(ablate))
app.command()(bounded(show))
app.command("list")(bounded(list_registry))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; a problem becomes one line on stderr.

    A reader of stdout that has had enough, as ``head`` has, ends it without a word. With
    ``HEADPROBE_DEBUG=1`` the traceback of a problem is shown before its line.

    Args:
        arguments: What is typed after ``headprobe``; by default what the process was given.

    Returns:
        The exit code.
    """
    try:
        with _warnings_as_lines(), restored():
            return _run(arguments)
    except Exception as error:
        if os.environ.get("HEADPROBE_DEBUG") == "1":
            traceback.print_exc()
        return _tell(error)


def _run(arguments: Sequence[str] | None) -> int:
    """Run the command, and return its exit code."""
    try:
        check_arguments(sys.argv[1:] if arguments is None else arguments)
        code = int(app(arguments, prog_name="headprobe", standalone_mode=False) or 0)
    except SystemExit as end:
        code = int(end.code or 0)
    except _Mistyped as error:
        told = mistyped(error)
        if told is None:
            return UsageError.exit_code
        raise told from None
    finally:
        # Here, since nothing catches what fails when Python flushes on its way out.
        if sys.stdout:
            sys.stdout.flush()
    if code == Interrupted.exit_code:
        raise Interrupted("stopped")
    return code


def _tell(error: Exception) -> int:
    """Say on one line what went wrong, and return the exit code; other errors are raised again."""
    if signal_received() is not None and not isinstance(error, Interrupted):
        # An import that a signal broke off fails with an error of its own.
        error = Interrupted("stopped")
    if isinstance(error, HeadprobeError):
        fail(worded(error))
        return error.exit_code
    if not isinstance(error, OSError):
        raise error
    discard(sys.stdout)
    if not isinstance(error, BrokenPipeError):
        advice = f"; {ADVICE[error.errno]}" if error.errno in ADVICE else ""
        fail(f"{error.filename or 'output'}: {error.strerror or error}{advice}")
    return 1


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show our own warnings as one line each, and the warnings of other libraries not at all."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, category, *where: (
            warn(in_options(str(message))) if issubclass(category, HeadprobeWarning) else None
        )
        yield
