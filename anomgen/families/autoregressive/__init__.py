"""Autoregressive models: exact densities and masses, column by column or pixel by pixel."""

from anomgen.families.autoregressive.detector import AutoregressiveDetector
from anomgen.families.autoregressive.image import ImageAutoregressive
from anomgen.families.autoregressive.table import Autoregressive

__all__ = ["Autoregressive", "AutoregressiveDetector", "ImageAutoregressive"]
