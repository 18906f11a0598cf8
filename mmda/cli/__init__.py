"""The command ``mmda``: one module per subcommand, which parses arguments, calls the library and prints.

Exit code 0: success. 2: invalid input, with one line on standard error that names the file and the rule. 129, 130 and
143: ended by SIGHUP, Ctrl-C and SIGTERM; the training state is saved, and ``--resume`` continues from it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from mmda._core.version import __version__

#: Subcommands; each is a module of this package with ``main(arguments) -> exit code``.
COMMANDS = {
    "table": "train every row of a comparison, and print the table with its intervals",
    "train": "train one model",
    "predict": "the best moments for a sentence in a video, or for every query of a file",
    "evaluate": "score a trained model, or a file of predictions",
    "check": "check annotations and features, and report errors",
    "shift": "measure the shift between the features of two domains",
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
            "mmda COMMAND --help lists the options of a command.",
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
