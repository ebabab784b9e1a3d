"""The detector on normalizing flows."""

from __future__ import annotations

from anomgen.detector import ConditionalDetector
from anomgen.families.flow.image import ImageFlow
from anomgen.families.flow.table import Flow
from anomgen.generative import Space


class FlowDetector(ConditionalDetector):
    r"""Anomaly detector on a normalizing flow: an exact density by an invertible network.

    A flow maps a row `x` to a latent :math:`f(x)` of the same size that follows a simple base density :math:`p_0`:

    .. math:: \log p(x) = \log p_0(f(x)) + \log |\det \partial f / \partial x| .

    Density, inverse and samples are exact. Beyond the parameters below it takes those of :class:`anomgen.Detector`.

    Parameters
    ----------
    coupling : {"auto", "additive", "affine", "spline", "autoregressive"}, default="auto"
        How coordinates move given others: ``"additive"`` on tables and ``"affine"`` on images unless given. Images take
        these two.

        - ``"additive"``: halves are shifted in turn by a network of the other half, and one scale for each coordinate
          is learned at the end. The cheapest and the most robust: as the Jacobian is constant, it cannot reward
          itself for collapsing on repeated rows. With a normal base it cannot fit every density; the mixture base
          lifts that.
        - ``"affine"``: halves are shifted and scaled, so that spread may depend on the other half.
        - ``"spline"``: halves move by a monotone rational-quadratic spline: sharp, multimodal conditionals.
        - ``"autoregressive"``: every coordinate moves given all before it. The best likelihoods; drawing a row costs
          as many passes as there are coordinates.
    univariate : {"affine", "spline"}, default="affine"
        For tables: the map of each coordinate in an autoregressive flow.
    transforms : int, default=6
        For tables: coupling steps, or masked networks.
    hidden : tuple of int, default=(128, 128)
        For tables: widths of the hidden layers of every network.
    base : {"normal", "mixture"}, default="normal"
        For tables: the base density. Standard normal, or a learned mixture of Gaussians with diagonal covariances,
        which gives a cheap flow the clusters and the scales of a spline flow.
    components : int, default=8
        For tables: components of the mixture base.
    bins : int, default=8
        For tables: bins of every spline, at least 2.
    scales : int, default=3
        For images: how often blocks of 2 by 2 pixels become channels at most; small images have fewer scales.
    steps : int, default=4
        For images: steps of every scale.
    channels : int, default=32
        For images: channels of the hidden layers.

    Notes
    -----
    When to choose it: first. It is exact, quick to train and to score, and needs no tuning. Choose the mixture base or
    splines where rows form clusters, and a larger table pays for the sharper density. On images it is a small Glow:
    logits of the pixels, then on every scale actnorm, invertible 1x1 convolutions, couplings with convolutional
    networks, and a half of the channels split off under a learned prior. Sides may have any length.

    References
    ----------
    Dinh, Krueger, Bengio (2014), *NICE: Non-linear Independent Components Estimation*, arXiv:1410.8516 (additive).

    Dinh, Sohl-Dickstein, Bengio (2016), *Density estimation using Real NVP*, arXiv:1605.08803 (affine).

    Gomez, Ren, Urtasun, Grosse (2017), *The Reversible Residual Network*, arXiv:1707.04585 (the additive block).

    Kingma, Dhariwal (2018), *Glow: Generative Flow with Invertible 1x1 Convolutions*, arXiv:1807.03039 (images).

    Papamakarios, Pavlakou, Murray (2017), *Masked Autoregressive Flow for Density Estimation*, arXiv:1705.07057.

    Durkan, Bekasov, Murray, Papamakarios (2019), *Neural Spline Flows*, arXiv:1906.04032 (spline).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> detector = FlowDetector(transforms=2, hidden=(16,), max_epochs=5, random_state=0, verbose=False).fit(X)
    >>> bool(detector.score_samples([[0.0, 0.0]]) > detector.score_samples([[6.0, -6.0]]))
    True
    """

    coupling: str = "auto"
    univariate: str = "affine"
    transforms: int = 6
    hidden: tuple[int, ...] = (128, 128)
    base: str = "normal"
    components: int = 8
    bins: int = 8
    scales: int = 3
    steps: int = 4
    channels: int = 32

    def build(self, space: Space) -> Flow | ImageFlow:
        """Make the untrained flow for rows of `space`."""
        if space.image is not None:
            coupling = "affine" if self.coupling == "auto" else self.coupling
            return ImageFlow(space, coupling=coupling, scales=self.scales, steps=self.steps, channels=self.channels)
        return Flow(
            space,
            coupling="additive" if self.coupling == "auto" else self.coupling,
            univariate=self.univariate,
            transforms=self.transforms,
            hidden=self.hidden,
            base=self.base,
            components=self.components,
            bins=self.bins,
        )
