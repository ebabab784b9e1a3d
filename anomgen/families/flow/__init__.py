"""Normalizing flows: exact densities by an invertible map onto a simple base."""

from anomgen.families.flow.detector import FlowDetector
from anomgen.families.flow.image import ImageFlow
from anomgen.families.flow.table import BASES, COUPLINGS, UNIVARIATES, Flow

__all__ = ["BASES", "COUPLINGS", "UNIVARIATES", "Flow", "FlowDetector", "ImageFlow"]
