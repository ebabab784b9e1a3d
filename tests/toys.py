"""Detectors small enough to test: every family found, with nothing but the parameters that all of them have."""

from __future__ import annotations

from typing import Any

from anomgen.detector import Detector
from anomgen.families import all_detectors
from anomgen.families.flow import FlowDetector

FAMILIES = sorted(all_detectors())


class OutsideDetector(FlowDetector):
    """A family as another package would offer it."""


def toy(name: str, **params: Any) -> Detector:
    """An unfitted detector of a family that trains in well under a second."""
    return all_detectors()[name](**{"max_epochs": 3, "random_state": 0, "verbose": False, **params})


def learned(name: str, **params: Any) -> Detector:
    """An unfitted detector that trains for a few seconds, long enough to learn a simple table."""
    return all_detectors()[name](**{"max_epochs": 60, "random_state": 0, "verbose": False, **params})
