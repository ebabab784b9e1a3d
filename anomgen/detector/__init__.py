"""The scikit-learn shell that every family wears."""

from anomgen.detector.base import Detector

__all__ = ["Detector"]
