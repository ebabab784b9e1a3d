"""How a scoring job can end other than well."""

from __future__ import annotations

from anomgen.batch.schema import SchemaError


class ModelMismatch(SchemaError):
    """A folder of scores that another job began: another model, other options, or inputs that have changed."""


class TooManyBadRows(ValueError):
    """More rows than allowed could not be scored; what was scored stays."""


class Interrupted(RuntimeError):
    """The job was told to stop and finished the part it was at, or another run of it is at work: start it again."""
