"""The scikit-learn shell that every family wears."""

from anomgen.detector.base import Detector
from anomgen.detector.conditional import ConditionalDetector
from anomgen.detector.trained import TrainedDetector

__all__ = ["ConditionalDetector", "Detector", "TrainedDetector"]
