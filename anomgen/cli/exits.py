"""How the command line ends."""

from __future__ import annotations

import logging

from anomgen.cli.log import event
from anomgen.cli.parameters import UsageError

CRASH, USAGE, MISFIT, BAD_ROWS, ALERT, RESUMABLE, STOPPED = 1, 2, 3, 4, 5, 75, 130


def exit_code(error: BaseException) -> int:
    """2 for what was typed, 3 for what files or model hold, 4 for too many bad rows, 75 for a job that can go on.

    A fault of the program is 1. The commands themselves return 5, for drift or an alert.
    """
    if isinstance(error, UsageError | FileExistsError | FileNotFoundError):
        return USAGE
    if isinstance(error, KeyboardInterrupt):
        return STOPPED
    from anomgen.batch import Interrupted, TooManyBadRows

    if isinstance(error, Interrupted):
        return RESUMABLE
    if isinstance(error, TooManyBadRows):
        return BAD_ROWS
    return MISFIT if isinstance(error, ValueError | TypeError | OSError) else CRASH


def report_error(error: Exception) -> int:
    """Log an error in one line and say with what code to end."""
    code = exit_code(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if code == CRASH:
        text = f"{type(error).__name__}: {text} (--debug shows where)"
    event("failed", level=logging.ERROR, error=type(error).__name__, message=text, exit_code=code)
    return code
