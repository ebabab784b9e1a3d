"""The detector on a variational autoencoder."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from torch import Tensor

from anomgen import runtime
from anomgen.detector import ConditionalDetector, fitting
from anomgen.detector.checks import validated
from anomgen.encode import JointEncoder
from anomgen.families.vae.model import VAE
from anomgen.generative import Space


class VAEDetector(TransformerMixin, ClassNamePrefixFeaturesOutMixin, ConditionalDetector):  # type: ignore[misc]
    r"""Anomaly detector on a variational autoencoder: a density by codes that rows are explained from.

    An encoder :math:`q(u \mid x)` guesses the code of a row, a decoder :math:`p(x \mid u)` explains the row by it, and
    both are trained by the evidence lower bound. Scores are the tighter importance-weighted bound over `draws` codes:

    .. math:: \log p(x) \ge E \log \frac1K \sum_{k=1}^K \frac{p(u_k)\, p(x \mid u_k)}{q(u_k \mid x)}
       \ge E_q \log p(x \mid u) - KL(q \,\|\, p) .

    The noise of the draws is fixed when the model is made, so that a row always has the same score; the bound holds on
    average over rows and such banks of noise. Numbers are explained with a learned scale each, levels by their
    probability, and missing values are left out of the sum exactly. Beyond the parameters below it takes those of
    :class:`anomgen.Detector`.

    Parameters
    ----------
    latent : {"normal", "horseshoe", "rectified", "piecewise", "discrete"}, default="normal"
        The prior of the codes.

        - ``"normal"``: standard normal.
        - ``"horseshoe"``: normal times half-Cauchy: sparse codes with heavy tails.
        - ``"rectified"``: normal cut at zero: a unit is exactly off for half of the rows.
        - ``"piecewise"``: normal on each of some pieces with learned masses: clusters and gaps.
        - ``"discrete"``: categories. Training draws them by the Gumbel-softmax; scores sum over all codes, so that they
          are exact log-likelihoods.
    latent_dim : int or "auto", default="auto"
        Units of a code. ``"auto"`` has as many as coordinates, at most 16, of images 32: the divergence switches off
        those it does not need. Of categorical units, as many as make up to 256 codes.
    categories : int, default=8
        Categories of a discrete unit. ``categories ** latent_dim`` is at most 4,096.
    pieces : int, default=8
        Pieces of a piecewise prior.
    hidden : tuple of int, default=(128, 128)
        On tables, widths of the hidden layers of the encoder; the decoder has them in reverse.
    channels : int, default=32
        On images, channels of the encoder's first convolution and of the decoder's last ones; where sides are smaller
        there are two and four times as many.
    decoder : {"gaussian", "student"}, default="gaussian"
        How a number scatters around what the decoder says: normally, or by Student's t with learned degrees of freedom,
        which forgives single values far off. Pixels always have a discretized logistic distribution, location and
        scale of which the decoder says.
    beta : float or "auto", default="auto"
        Weight of the divergence in training; above 1 codes say less, below more. Scores have weight 1 always.
        ``"auto"`` is 1 on tables. On images it grows from 1 at 14 x 14 to 4 at 28 x 28: features then tell more kinds
        apart, for up to a tenth of a bit a pixel.
    free_bits : float, default=0.0
        Nats of divergence that every unit has free in training, so that it is not switched off early.
    warmup : float or "auto", default="auto"
        Share of the schedule over which the weight of the divergence rises from zero: codes that have found a use are
        worth their cost, while codes that cost from the first find none. ``"auto"`` is 0.5 on tables; on images it
        falls, to 0.03 at 28 x 28.
    draws : int or "auto", default="auto"
        Codes that the bound of a score averages over; more are tighter and slower. ``"auto"`` is 16 on tables and 2 on
        images.
    adversarial : float, default=0.0
        Weight of a second loss: a discriminator learns to tell rows from draws of the decoder, which learns to pass.

    Notes
    -----
    When to choose it: for rows of many columns that few causes move, for tables with many levels or gaps, and as a
    feature step: :meth:`transform` gives the latent means. ``statistic="features"`` looks for neighbours among these,
    of images among what the encoder's last convolution passes on, too. Densities are bounds, blurred by the decoder's
    scales; a flow is sharper on a few continuous columns.

    The posterior may collapse onto the prior, after which codes say nothing. The history counts the active units,
    whose latent mean varies over rows by more than 0.01; a ``ConvergenceWarning`` says so when there is none left.

    References
    ----------
    Kingma, Welling (2013), *Auto-Encoding Variational Bayes*, arXiv:1312.6114.

    Burda, Grosse, Salakhutdinov (2015), *Importance Weighted Autoencoders*, arXiv:1509.00519 (the bound of scores, and
    active units).

    Higgins et al. (2017), *beta-VAE*, ICLR.

    Kingma et al. (2016), *Improving Variational Inference with Inverse Autoregressive Flow*, arXiv:1606.04934 (free
    bits).

    Larsen, Sonderby, Larochelle, Winther (2015), *Autoencoding beyond Pixels using a Learned Similarity Metric*,
    arXiv:1512.09300 (the adversarial loss).

    Nazabal, Olmos, Ghahramani, Valera (2018), *Handling Incomplete Heterogeneous Data using VAEs*, arXiv:1807.03653.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 3)) @ np.array([[1.0, 1, 0], [0, 1, 1], [0, 0, 0.1]])
    >>> detector = VAEDetector(latent_dim=2, hidden=(16,), max_epochs=20, random_state=0, verbose=False).fit(X)
    >>> bool(detector.score_samples([[0.0, 0.0, 0.0]]) > detector.score_samples([[6.0, -6.0, 6.0]]))
    True
    >>> detector.transform(X).shape, list(detector.get_feature_names_out())
    ((200, 2), ['vaedetector0', 'vaedetector1'])
    """

    latent: str = "normal"
    latent_dim: int | Literal["auto"] = "auto"
    categories: int = 8
    pieces: int = 8
    hidden: tuple[int, ...] = (128, 128)
    channels: int = 32
    decoder: str = "gaussian"
    beta: float | Literal["auto"] = "auto"
    free_bits: float = 0.0
    warmup: float | Literal["auto"] = "auto"
    draws: int | Literal["auto"] = "auto"
    adversarial: float = 0.0

    def build(self, space: Space) -> VAE:
        """Make the untrained model for rows of `space`."""
        return VAE(
            space,
            latent=self.latent,
            latent_dim=self.latent_dim,
            categories=self.categories,
            pieces=self.pieces,
            hidden=self.hidden,
            channels=self.channels,
            decoder=self.decoder,
            beta=self.beta,
            free_bits=self.free_bits,
            warmup=self.warmup,
            draws=self.draws,
            adversarial=self.adversarial,
        )

    def transform(self, X: Any, condition: Any = None) -> NDArray[np.float64]:
        """Latent means of rows, the features that a model further down a pipeline can learn from.

        Parameters
        ----------
        X : frame or array of shape (n, p), or images
        condition : value, array of shape (n,), mapping of condition to these, or frame, optional
            What the rows are given; by default means are averaged over the conditions met in training, by how likely
            each makes the row.

        Returns
        -------
        ndarray of shape (n, k), float64
            A row's features depend on nothing but the row.

        Raises
        ------
        ValueError
            As :meth:`score_samples`.
        """
        self._absorb()
        X = validated(self, X, reset=False, minimum=1)
        known = None if condition is None else self._given(condition, len(X))
        means, done = [], 0
        for part in fitting.pieces(self, X):
            given = {} if known is None else {"given": known.iloc[done : done + len(part)].reset_index(drop=True)}
            rows = self.encoder_.encode(part, codes=True, **given)
            means.append(self._latent(torch.from_numpy(rows.z), averaged=known is None))
            done += len(part)
        return np.concatenate(means)

    def _latent(self, z: Tensor, averaged: bool) -> NDArray[np.float64]:
        """Latent means of encoded rows, `averaged` over their conditions where the encoder knows some."""
        model, encoder, device = cast(VAE, self.model_), self.encoder_, fitting.device_of(self.model_)

        def latent(z: Tensor) -> Tensor:
            if not averaged or not isinstance(encoder, JointEncoder):
                return model.latent(z).double()
            own, bank = z[:, : model.condition.dim], torch.from_numpy(encoder.bank_).to(device)
            each = [torch.cat([own, c.expand(len(z), -1)], 1) for c in bank]
            shares = torch.from_numpy(np.log(encoder.shares_)).to(device)
            likely = torch.stack([model.log_prob(part) for part in each]) + shares[:, None]
            means = torch.stack([model.latent(part) for part in each])
            return (likely.softmax(0)[..., None] * means).sum(0)

        size = model.passes * sum(tensor.numel() for tensor in model.state_dict().values())
        height = runtime.tile_height(size, device, model.passes * model.work)
        return runtime.map_rows(latent, [z], device=device, height=height)

    @property
    def _n_features_out(self) -> int:
        """How many columns :meth:`transform` makes; only a fitted detector knows."""
        return cast(VAE, self.model_).code.width
