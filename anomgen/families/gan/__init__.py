"""Generative adversarial networks: a generator, the discriminator whose features score rows, and an encoder."""

from anomgen.families.gan.detector import GANDetector
from anomgen.families.gan.model import GAN, LOSSES, OLDER

__all__ = ["GAN", "LOSSES", "OLDER", "GANDetector"]
