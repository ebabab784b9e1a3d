"""Variational autoencoders: densities by a code that an encoder guesses and a decoder explains."""

from anomgen.families.vae.detector import VAEDetector
from anomgen.families.vae.model import VAE

__all__ = ["VAE", "VAEDetector"]
