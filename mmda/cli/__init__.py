"""The command ``mmda``: one file a subcommand, each of which parses, calls the library and prints.

Exit code 0: done. Exit code 2: bad input, told in one line on standard error that names file and rule. 129, 130
and 143: ended by SIGHUP, Ctrl-C and SIGTERM; what was being trained is saved and gone on with by ``--resume``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from mmda._core.version import __version__

#: Subcommands, each a module of this package with ``main(arguments) -> exit code``.
COMMANDS = {
    "table": "train every row of a comparison, and print the table with its intervals",
    "train": "train one model",
    "predict": "the best moments for a sentence in a video, or for every query of a file",
    "evaluate": "score a trained model, or a file of predictions",
    "check": "say what is wrong with annotations and features",
    "shift": "say how far two domains' features lie apart",
}


def _help() -> str:
    return "\n".join(
        (
            "usage: mmda [--version] COMMAND ...",
            "",
            "Domain adaptation across modalities, from a shell.",
            "",
            *(f"  {name:9} {what}" for name, what in COMMANDS.items()),
            "",
            "mmda COMMAND --help says what each takes.",
        )
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_help(), file=sys.stdout if given else sys.stderr)
        return 0 if given else 2
    if given[0] == "--version":
        print(f"mmda {__version__}")
        return 0
    if given[0] not in COMMANDS:
        print(f"error: mmda: the command must be one of {', '.join(COMMANDS)}, got {given[0]!r}", file=sys.stderr)
        return 2
    return int(importlib.import_module(f"mmda.cli.{given[0]}").main(given[1:]))
