"""How a scoring job can end other than well."""

from __future__ import annotations


class TooManyBadRows(ValueError):
    """More rows than allowed could not be scored; what was scored stays."""
