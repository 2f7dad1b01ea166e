"""The command line. `main` is its entry; what it needs is imported when it is called.

Exit codes: 0 done, 2 bad input, 3 a node failed, 130 interrupted, 1 anything else. With `--json` a command writes JSON
and nothing else to standard output; progress, logs and errors go to standard error.
"""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    from gossamer.cli.app import run

    sys.exit(run(sys.argv[1:] if arguments is None else arguments))
