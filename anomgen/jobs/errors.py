"""How a job can end other than well."""

from __future__ import annotations


class SchemaError(ValueError):
    """A file whose columns are not those that a detector was fitted on."""


class ModelMismatch(SchemaError):
    """A folder that another job began: another model, other options, or inputs that have changed."""


class Interrupted(RuntimeError):
    """The job was told to stop and finished the part it was at, or another run of it is at work: start it again."""
