"""The application: its commands, and what an error becomes."""

from __future__ import annotations

import errno
import os
import sys

import typer

from gossamer import __version__
from gossamer.cli import audit, files, pretrain, results, running, study, system, worst
from gossamer.errors import GossamerError, NodeError

CLICK_ERROR: type[Exception] = typer.BadParameter.__mro__[2]
"""The base of usage errors: click's own, or the copy of it that newer versions of typer carry inside."""

app = typer.Typer(
    name="gossamer",
    help="Federated and decentralised learning: one experiment file, one command.",
    epilog="Start here:  gossamer new  writes an experiment file,  gossamer run experiment.toml  runs it.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (running, pretrain, study, files, results, worst, audit, system):
    app.add_typer(group.app)


@app.callback(invoke_without_command=True)
def _options(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors made for people are one line on standard error."""
    try:
        code = app(arguments or ["--help"], prog_name="gossamer", standalone_mode=False)
    except CLICK_ERROR as error:
        return _usage(error)
    except NodeError as error:
        if error.traceback:
            print(error.traceback.rstrip(), file=sys.stderr)
        return _fail(str(error), error.exit_code)
    except GossamerError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: `gossamer list | head`
        return 1
    except OSError as error:
        if error.errno is None:
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return _fail(f"{error.filename or 'disk'}: {error.strerror}{'; free some space' if full else ''}", 1)
    return code if isinstance(code, int) else 0


def _usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "gossamer"
    text = str(getattr(error, "format_message", error.__str__)()).strip().rstrip(".")
    return _fail(f"{text}; see: {command} --help", 2)


def _fail(text: str, code: int) -> int:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return code
