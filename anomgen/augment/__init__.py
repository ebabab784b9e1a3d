"""New rows drawn from a fitted model: chosen, checked, exported."""

from __future__ import annotations
