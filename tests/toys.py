"""Detectors small enough to test: every family found, with nothing but the parameters that all of them have.

Which contract a family is under follows from what its model is able to do and from what it claims, never from its name.
"""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import torch

from anomgen.detector import Detector
from anomgen.families import all_detectors
from anomgen.families.flow import FlowDetector
from anomgen.generative import GenerativeModel, Space, abilities, missing_abilities
from anomgen.statistic import STATISTICS


class OutsideDetector(FlowDetector):
    """A family as another package would offer it."""


def toy(name: str, **params: Any) -> Detector:
    """An unfitted detector of a family that trains in well under a second."""
    return _make(name, {"max_epochs": 3, "hidden": (32, 32)}, params)


def small(name: str, **params: Any) -> Detector:
    """An unfitted detector that trains on small images in about a second, scored as it would be by default."""
    return _make(
        name, {"max_epochs": 2, "batch_size": 64, "hidden": (32,), "channels": 8, "contamination": 0.1}, params
    )


def tiny(**params: Any) -> FlowDetector:
    """An unfitted flow that fits a short table in a tenth of a second."""
    return FlowDetector(
        **{
            "max_epochs": 2,
            "transforms": 2,
            "hidden": (8,),
            "validation_fraction": 0.25,
            "random_state": 0,
            "verbose": False,
            **params,
        }
    )


def learned(name: str, **params: Any) -> Detector:
    """An unfitted detector that trains for a few seconds, long enough to learn a simple table."""
    return _make(name, {"max_epochs": 60}, params)


def _make(name: str, small: dict[str, Any], params: dict[str, Any]) -> Detector:
    found = all_detectors()[name]
    known = {field.name for field in fields(found)}
    # Some families have no epochs; anything else that a class does not know is an error of the test.
    asked = {key: value for key, value in params.items() if key in known or key != "max_epochs"}
    small = {key: value for key, value in small.items() if key in known}
    return found(**{**small, "random_state": 0, "verbose": False, **asked})


def model_of(name: str) -> GenerativeModel:
    """The untrained default model of a family, for rows of two numbers."""
    torch.manual_seed(0)
    return all_detectors()[name]().build(Space.real(2))


def other_statistic(name: str) -> str:
    """A statistic that the family can be scored by and that is not its default; the default where there is no other."""
    model, default = model_of(name), all_detectors()[name]().default_statistic
    able = [key for key, kind in STATISTICS.items() if not missing_abilities(model, kind.needs)]
    return next((key for key in reversed(able) if key not in (default, "likelihood")), default)


FAMILIES = sorted(all_detectors())
LIKELY = [name for name in FAMILIES if "log_prob" in abilities(model_of(name))]
EXACT = [name for name in LIKELY if model_of(name).likelihood == "exact"]
BOUND = [name for name in LIKELY if model_of(name).likelihood == "bound"]
ESTIMATE = [name for name in LIKELY if model_of(name).likelihood == "estimate"]
UNIVERSAL = [name for name in LIKELY if model_of(name).universal]
NATS = [name for name in LIKELY if model_of(name).nats]
JUDGED = [name for name in FAMILIES if model_of(name).judged]
TRAINED = [name for name in FAMILIES if hasattr(all_detectors()[name], "partial_fit")]
WEIGHTED = [name for name in FAMILIES if "sample_weight" in inspect.signature(all_detectors()[name].fit).parameters]
CONDITIONAL = [name for name in FAMILIES if "condition" in {field.name for field in fields(all_detectors()[name])}]
