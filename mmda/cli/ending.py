"""Exit codes of commands, and one-line messages for errors that the user can fix."""

from __future__ import annotations

import sys
from collections.abc import Callable

from mmda.models.mmcda import CheckpointError, TrainingStopped
from mmda.models.mmcda.experiment import UnusableError
from mmda.models.mmcda.experiment.launch import launched
from mmda.vmr import ClosedMomentsError, VMRDataError


def exit_code(command: Callable[[], None]) -> int:
    """Run a command: 0 on success, 2 with a one-line message for errors of the user; a bug shows its traceback."""
    rank, size = launched()
    error_at = "error:" if size == 1 else f"error: rank {rank}:"
    try:
        command()
    except (VMRDataError, CheckpointError, ClosedMomentsError, UnusableError) as error:
        print(f"{error_at} {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"{error_at} {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"{error_at} {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, TrainingStopped) as stopped:
        print("interrupted; --resume keeps finished rows and resumes unfinished ones", file=sys.stderr)
        return 128 + (getattr(stopped, "signal", 0) or 2)
    return 0
