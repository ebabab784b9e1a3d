"""Diffusion models: networks that remove noise, and what that says about densities."""

from anomgen.families.diffusion.base import Diffusion
from anomgen.families.diffusion.bound import Bounded, FlowMatching, VariationalDiffusion
from anomgen.families.diffusion.detector import OBJECTIVES, DiffusionDetector
from anomgen.families.diffusion.energy import ScoreMatching
from anomgen.families.diffusion.image import ImageFlowMatching, ImageScoreMatching, ImageVariational

__all__ = [
    "OBJECTIVES",
    "Bounded",
    "Diffusion",
    "DiffusionDetector",
    "FlowMatching",
    "ImageFlowMatching",
    "ImageScoreMatching",
    "ImageVariational",
    "ScoreMatching",
    "VariationalDiffusion",
]
