"""The detector on diffusion models."""

from __future__ import annotations

from typing import Any, Literal

from anomgen.detector import ConditionalDetector
from anomgen.families.diffusion.base import CHANNELS, MOST, WIDTHS, Diffusion
from anomgen.families.diffusion.bound import FlowMatching, VariationalDiffusion
from anomgen.families.diffusion.energy import ScoreMatching
from anomgen.families.diffusion.image import ImageFlowMatching, ImageScoreMatching, ImageVariational
from anomgen.generative import Space
from anomgen.nn import check_choice

TABLE: dict[str, type[Diffusion]] = {
    "score_matching": ScoreMatching,
    "ddpm": VariationalDiffusion,
    "flow_matching": FlowMatching,
}
IMAGE: dict[str, type[Diffusion]] = {
    "score_matching": ImageScoreMatching,
    "ddpm": ImageVariational,
    "flow_matching": ImageFlowMatching,
}
OBJECTIVES = tuple(TABLE)


class DiffusionDetector(ConditionalDetector):
    r"""Anomaly detector on a diffusion model: a network that removes noise knows where data lie.

    Rows get Gaussian noise, :math:`\tilde x = x + s \varepsilon`, and a network learns to tell the noise from the data.
    It does so by an energy, whose gradient is the noise:

    .. math:: \hat\varepsilon(\tilde x) = s \nabla E(\tilde x), \qquad
              \min_E \mathbb{E} \|\varepsilon - \hat\varepsilon(\tilde x)\|^2
              \;\Rightarrow\; E = -\log p_s + \text{const} ,

    with :math:`p_s` the density of rows blurred by noise `s`. Rows are scored by the energy (``statistic="energy"``),
    one pass of the network for each noise level; samples follow the gradient from much noise to none. Beyond the
    parameters below it takes those of :class:`anomgen.Detector`.

    Images go through a small U-Net instead, without an energy: what ranks them is how well their noise is found, at ten
    levels between 0.01 and 10 where pixels fill [-1, 1] (``statistic="score_norms"``).

    Parameters
    ----------
    objective : {"score_matching", "ddpm", "flow_matching"}, default="score_matching"
        What the network is trained for.

        - ``"score_matching"``: the noise levels that score, and some others for samples. On tables it ranks best.
        - ``"ddpm"``: a variational bound of the log-density in nats, over all noise levels, which
          ``statistic="likelihood"`` gives.
        - ``"flow_matching"``: the velocity of straight lines from noise to data. It bounds the log-density as well,
          but was not trained for that.
    noise_levels : tuple of float, default=(0.5,)
        Noise that the energy is read at, in standard deviations of a column; at most ten levels. For images the noise
        that they are given and rid of by ``statistic="reconstruction"``, in units where pixels fill [-1, 1].
    noise_scale : {"equal", "kurtosis"}, default="equal"
        For tables. With ``"kurtosis"`` score matching multiplies the noise of every coordinate by
        :math:`1 + 0.33 (\kappa_j - 3)`, `\kappa_j` being the kurtosis of its middle 96 %, so that with level 0.5 it
        lies in [0.1, 3]. Meant for columns with heavy tails, which the encoder has bent already.
    bound_levels : int, default=5
        Noise levels at which ``"ddpm"`` and ``"flow_matching"`` take the bound, two passes each; at most five.
    hidden : tuple of int, default=(256, 256)
        Widths of the hidden layers, for tables; the network of all noise levels has one more, as wide as the last.
    channels : int, default=32
        For images: channels of the finest scale of the U-Net, whose coarser scales have two and four times as many.
    steps : int, default=30
        Steps of the differential equation that samples take, two passes each.
    noise : float or "auto", default=0.0
        As for all detectors; diffusion brings its own noise and needs no more.

    Notes
    -----
    When to choose it: score matching where anomalies are local, for it ranks by the shape of the density and needs no
    normalizing constant; ``"ddpm"`` and ``"flow_matching"`` for good samples of tables that a flow cannot follow.

    References
    ----------
    Vincent (2011), *A connection between score matching and denoising autoencoders*, Neural Computation 23.

    Ho, Jain, Abbeel (2020), *Denoising diffusion probabilistic models*, arXiv:2006.11239 (ddpm).

    Song, Meng, Ermon (2020), *Denoising diffusion implicit models*, arXiv:2010.02502 (sampling).

    Kingma, Salimans, Poole, Ho (2021), *Variational diffusion models*, arXiv:2107.00630 (the bound).

    Kong, Brekelmans, Ver Steeg (2023), *Information-theoretic diffusion*, arXiv:2302.03792 (against a normal).

    Lipman, Chen, Ben-Hamu, Nickel, Le (2022), *Flow matching for generative modeling*, arXiv:2210.02747.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> detector = DiffusionDetector(hidden=(16,), max_epochs=5, random_state=0, verbose=False).fit(X)
    >>> bool(detector.score_samples([[0.0, 0.0]]) > detector.score_samples([[6.0, -6.0]]))
    True
    """

    objective: str = "score_matching"
    noise_levels: tuple[float, ...] = (0.5,)
    noise_scale: str = "equal"
    bound_levels: int = MOST // 2
    hidden: tuple[int, ...] = WIDTHS
    channels: int = CHANNELS
    steps: int = 30
    noise: float | Literal["auto"] = 0.0

    @property
    def default_statistic(self) -> str:  # type: ignore[override]
        """The energy where there is one, the bound of the likelihood elsewhere."""
        return "energy" if self.objective == "score_matching" else "likelihood"

    def build(self, space: Space) -> Diffusion:
        """Make the untrained model for rows of `space`."""
        check_choice("objective", self.objective, OBJECTIVES)
        own: dict[str, Any] = {} if space.image is not None else {"noise_scale": self.noise_scale}
        if self.objective != "score_matching":
            own = {"bound_levels": self.bound_levels}
        kind = (TABLE if space.image is None else IMAGE)[self.objective]
        return kind(
            space,
            noise_levels=self.noise_levels,
            hidden=self.hidden,
            channels=self.channels,
            steps=self.steps,
            **own,
        )
