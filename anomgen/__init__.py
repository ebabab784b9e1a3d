"""Anomaly detection on generative likelihoods, as scikit-learn estimators.

A detector learns how likely a row is, scores new rows in nats, draws new rows from what it learned, and is saved
without pickle. The public names below are imported on first use, so that ``import anomgen`` alone costs almost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomgen import augment as augment
    from anomgen import batch as batch
    from anomgen import calibrate as calibrate
    from anomgen import data as data
    from anomgen import explain as explain
    from anomgen import quality as quality
    from anomgen import tracking as tracking
    from anomgen.augment.oversampler import GenerativeOverSampler as GenerativeOverSampler
    from anomgen.data import ImageFolder as ImageFolder
    from anomgen.data import load_dataset as load_dataset
    from anomgen.detector import ConditionalDetector as ConditionalDetector
    from anomgen.detector import Detector as Detector
    from anomgen.detector import TrainedDetector as TrainedDetector
    from anomgen.diagnosis import diagnose as diagnose
    from anomgen.families import load as load
    from anomgen.families import register as register
    from anomgen.families.autoregressive import AutoregressiveDetector as AutoregressiveDetector
    from anomgen.families.boltzmann import BoltzmannDetector as BoltzmannDetector
    from anomgen.families.classical import KernelDetector as KernelDetector
    from anomgen.families.classical import MixtureDetector as MixtureDetector
    from anomgen.families.diffusion import DiffusionDetector as DiffusionDetector
    from anomgen.families.flow import FlowDetector as FlowDetector
    from anomgen.families.gan import GANDetector as GANDetector
    from anomgen.families.vae import VAEDetector as VAEDetector
    from anomgen.generative import GenerativeModel as GenerativeModel
    from anomgen.generative import Space as Space
    from anomgen.persist import FormatError as FormatError
    from anomgen.statistic import Complexity as Complexity
    from anomgen.statistic import Discriminator as Discriminator
    from anomgen.statistic import Dose as Dose
    from anomgen.statistic import Energy as Energy
    from anomgen.statistic import Features as Features
    from anomgen.statistic import GradientNorm as GradientNorm
    from anomgen.statistic import LatentFit as LatentFit
    from anomgen.statistic import Likelihood as Likelihood
    from anomgen.statistic import Ratio as Ratio
    from anomgen.statistic import Reconstruction as Reconstruction
    from anomgen.statistic import ScoreNorms as ScoreNorms
    from anomgen.statistic import Statistic as Statistic
    from anomgen.statistic import Typicality as Typicality
    from anomgen.tracking import autolog as autolog
    from anomgen.train import Callback as Callback

__version__ = "0.1.0"

_homes = {
    "AutoregressiveDetector": "anomgen.families.autoregressive",
    "BoltzmannDetector": "anomgen.families.boltzmann",
    "Callback": "anomgen.train",
    "Complexity": "anomgen.statistic",
    "ConditionalDetector": "anomgen.detector",
    "Detector": "anomgen.detector",
    "DiffusionDetector": "anomgen.families.diffusion",
    "Discriminator": "anomgen.statistic",
    "Dose": "anomgen.statistic",
    "Energy": "anomgen.statistic",
    "Features": "anomgen.statistic",
    "FlowDetector": "anomgen.families.flow",
    "FormatError": "anomgen.persist",
    "GANDetector": "anomgen.families.gan",
    "GenerativeModel": "anomgen.generative",
    "GenerativeOverSampler": "anomgen.augment.oversampler",
    "GradientNorm": "anomgen.statistic",
    "ImageFolder": "anomgen.data",
    "KernelDetector": "anomgen.families.classical",
    "LatentFit": "anomgen.statistic",
    "Likelihood": "anomgen.statistic",
    "MixtureDetector": "anomgen.families.classical",
    "Ratio": "anomgen.statistic",
    "Reconstruction": "anomgen.statistic",
    "ScoreNorms": "anomgen.statistic",
    "Space": "anomgen.generative",
    "Statistic": "anomgen.statistic",
    "TrainedDetector": "anomgen.detector",
    "Typicality": "anomgen.statistic",
    "VAEDetector": "anomgen.families.vae",
    "augment": "anomgen",
    "autolog": "anomgen.tracking",
    "batch": "anomgen",
    "calibrate": "anomgen",
    "data": "anomgen",
    "diagnose": "anomgen.diagnosis",
    "explain": "anomgen",
    "load": "anomgen.families",
    "load_dataset": "anomgen.data",
    "quality": "anomgen",
    "register": "anomgen.families",
    "tracking": "anomgen",
}

# What needs an extra is public but not part of `import *`, which would fail where the extra is not installed.
__all__ = [
    "AutoregressiveDetector",
    "BoltzmannDetector",
    "Callback",
    "Complexity",
    "ConditionalDetector",
    "Detector",
    "DiffusionDetector",
    "Discriminator",
    "Dose",
    "Energy",
    "Features",
    "FlowDetector",
    "FormatError",
    "GANDetector",
    "GenerativeModel",
    "GradientNorm",
    "ImageFolder",
    "KernelDetector",
    "LatentFit",
    "Likelihood",
    "MixtureDetector",
    "Ratio",
    "Reconstruction",
    "ScoreNorms",
    "Space",
    "Statistic",
    "TrainedDetector",
    "Typicality",
    "VAEDetector",
    "__version__",
    "augment",
    "autolog",
    "batch",
    "calibrate",
    "data",
    "diagnose",
    "explain",
    "load",
    "load_dataset",
    "quality",
    "register",
    "tracking",
]


def __getattr__(name: str) -> Any:
    home = _homes.get(name)
    if home is None:
        raise AttributeError(f"module 'anomgen' has no attribute {name!r}")
    value = import_module(f"anomgen.{name}") if home == "anomgen" else getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_homes})
