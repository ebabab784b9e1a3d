"""The commands, and how they are started. Whatever is slow to import is imported by the command."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter, ResultAction
from cyclopts.config import Env, Toml

from anomgen import __version__
from anomgen.cli.exits import STOPPED, USAGE, report_error
from anomgen.cli.fitting import calibrate, fit
from anomgen.cli.log import Format, event, logging_to_stderr
from anomgen.cli.models import show
from anomgen.cli.options import Flags
from anomgen.cli.sampling import impute, repair, sample
from anomgen.cli.scoring import score

ENVIRONMENT = Env("ANOMGEN_", show=False)
AS_CODE: ResultAction = "return_int_as_exit_code_else_zero"

app = App(
    name="anomgen",
    help="""Anomaly detection on generative likelihoods.

    An option is looked for on the command line, then in the environment (--model of fit: ANOMGEN_FIT_MODEL), then in
    the file that --config names, in the table of the command (model = "flow" below [fit]).

    Exit codes: 0 done, 1 a fault of the program, 2 wrong usage, 3 a file or model that does not fit or is damaged,
    4 too many bad rows, 5 drift or too many flags, 75 a job that was told to stop and goes on when it is started again,
    130 interrupted.
    """,
    version=__version__,
    config=ENVIRONMENT,
    suppress_keyboard_interrupt=False,
)
for command in (fit, calibrate, score, sample, impute, repair, show):
    app.command(command)


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Path | None = None,
    log_format: Annotated[Format | None, Parameter(env_var="ANOMGEN_LOG_FORMAT")] = None,
    debug: Annotated[bool, Flags] = False,
) -> int:
    """Run a command.

    Parameters
    ----------
    config
        TOML file with options, one table a command.
    log_format
        Log what happens to standard error: lines of text, or one JSON object a line. Without, only warnings and errors.
    debug
        Show the traceback of an error.
    """
    if config is not None:
        app.config = (ENVIRONMENT, Toml(config, must_exist=True))
    try:
        with logging_to_stderr(log_format):
            return _run(tokens, log_format, debug)
    finally:
        app.config = ENVIRONMENT


def _run(tokens: tuple[str, ...], log_format: Format | None, debug: bool) -> int:
    """The code to end with."""
    shown = log_format != "json"
    try:
        code: int = app(tokens, exit_on_error=False, print_error=shown, result_action=AS_CODE)
        return code
    except KeyboardInterrupt:
        return STOPPED
    except CycloptsError as error:
        if log_format == "json":
            event("failed", level=logging.ERROR, error="UsageError", message=str(error), exit_code=USAGE)
        return USAGE
    except Exception as error:
        if debug:
            raise
        return report_error(error)


def main() -> None:
    """Run the command line."""
    app.meta()
