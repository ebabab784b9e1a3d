"""The detector on a generative adversarial network."""

from __future__ import annotations

from typing import Literal

from anomgen.detector import ConditionalDetector
from anomgen.families.gan.model import GAN
from anomgen.generative import Space


class GANDetector(ConditionalDetector):
    r"""Anomaly detector on a generative adversarial network: rows are scored in the discriminator's features.

    A generator `G` turns noise into rows and a discriminator `D` learns to tell them from real ones, in turn:

    .. math:: \min_G \max_D \; E_x\, a(D(x)) + E_w\, b(D(G(w))) .

    The default score is a nearest-neighbour density of the discriminator's hidden activations
    (:class:`anomgen.Features`); an encoder `E`, trained beside them so that :math:`G(E(x)) \approx x`, gives
    ``statistic="reconstruction"`` in one pass. There is no likelihood. Beyond the parameters below it takes those of
    :class:`anomgen.Detector`.

    Parameters
    ----------
    loss : {"hinge", "wasserstein", "minimax", "least_squares"}, default="hinge"
        What the two play for.

        - ``"hinge"``: margins of 1, with spectral normalization of every layer of the discriminator: its features
          change slowly, in space and over training.
        - ``"wasserstein"``: difference of means, with a penalty on slopes other than 1 between real and generated rows.
        - ``"minimax"``: logistic; the generator maximizes :math:`\log D` (non-saturating).
        - ``"least_squares"``: squared distances from 1 and 0.
    latent : int or "auto", default="auto"
        Normal coordinates of the noise; ``"auto"`` is 16 on tables and 64 on images.
    components : int, default=16
        Components of the noise, each at a learned place: a continuous generator of one connected component draws
        bridges between clusters.
    hidden : tuple of int, default=(64, 64)
        On tables, widths of the hidden layers of all three networks.
    channels : int, default=32
        On images, channels of the convolutions that see the most pixels; where sides are smaller there are two and
        four times as many.
    critic_steps : int, default=1
        Steps of the discriminator for each of the generator.
    penalty : float, default=10.0
        Weight of the gradient penalty of ``"wasserstein"``.
    matching : float, default=30.0
        Weight of the energy distance between real and generated rows in the discriminator's features, which the
        generator lowers besides its adversarial loss; it keeps all modes and their widths. 0 is the plain game.
    negatives : float, default=0.25
        Share of the discriminator's negatives that the current generator does not make: one half is noise around
        rows, of 0.3 to 3 standard deviations, of 0.05 to 1 on pixels between -1 and 1; the other comes from older
        generators.
    learning_rate : float, default=2e-3
        Peak learning rate of all three.
    noise : float or "auto", default=0.0
        As in :class:`anomgen.Detector`. A game needs none: what is generated would be as blurred.

    Warnings
    --------
    ``statistic="discriminator"`` scores by the logit of `D`. At the optimum it is constant on the data, and elsewhere
    it is whatever the last negatives asked for: its ranking swings from epoch to epoch. The features do not.

    Notes
    -----
    Every check measures, on at most 500 rows, the gap between the mean logits of real and of generated rows
    (``logit_gap``), the share of pairs that the discriminator orders rightly (``told_apart``), the share of
    statistically different bins (``different_bins``), and nearest-neighbour ``precision``, ``recall`` and
    ``coverage``; images are compared by the means of at most 256 patches. They are entries of ``history_`` and metrics
    of a logged run. Where their medians over the last third of the training say that the generator collapsed or the
    discriminator won, `fit` warns and ``converged_`` is False.

    When to choose it: for samples with sharp edges, or for features of a discriminator; where a likelihood is wanted,
    the flow is quicker to train and orders rows at least as well.

    References
    ----------
    Goodfellow et al. (2014), *Generative Adversarial Networks*, arXiv:1406.2661 (minimax).

    Mao et al. (2017), *Least Squares Generative Adversarial Networks*, arXiv:1611.04076.

    Gulrajani et al. (2017), *Improved Training of Wasserstein GANs*, arXiv:1704.00028 (gradient penalty).

    Miyato et al. (2018), *Spectral Normalization for Generative Adversarial Networks*, arXiv:1802.05957 (hinge).

    Bellemare et al. (2017), *The Cramer Distance as a Solution to Biased Wasserstein Gradients*, arXiv:1705.10743.

    Gurumurthy, Sarvadevabhatla, Babu (2017), *DeLiGAN*, arXiv:1706.02071 (components of the noise).

    Schlegl et al. (2019), *f-AnoGAN*, Medical Image Analysis 54 (the encoder).

    Zaheer, Lee, Astrid, Lee (2020), *Old is Gold*, arXiv:2004.07657 (older generators).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(400, 2))
    >>> detector = GANDetector(hidden=(16,), max_epochs=40, random_state=0, verbose=False).fit(X)
    >>> bool(detector.score_samples([[0.0, 0.0]]) > detector.score_samples([[6.0, -6.0]]))
    True
    """

    default_statistic = "features"

    loss: str = "hinge"
    latent: int | Literal["auto"] = "auto"
    components: int = 16
    hidden: tuple[int, ...] = (64, 64)
    channels: int = 32
    critic_steps: int = 1
    penalty: float = 10.0
    matching: float = 30.0
    negatives: float = 0.25
    learning_rate: float = 2e-3
    noise: float | Literal["auto"] = 0.0

    def build(self, space: Space) -> GAN:
        """Make the untrained networks for rows of `space`."""
        return GAN(
            space,
            loss=self.loss,
            latent=self.latent,
            components=self.components,
            hidden=self.hidden,
            channels=self.channels,
            critic_steps=self.critic_steps,
            penalty=self.penalty,
            matching=self.matching,
            negatives=self.negatives,
        )
