"""The detector on autoregressive networks."""

from __future__ import annotations

from typing import Literal

from anomgen.detector import TrainedDetector
from anomgen.families.autoregressive.image import ImageAutoregressive
from anomgen.families.autoregressive.table import Autoregressive
from anomgen.generative import Space


class AutoregressiveDetector(TrainedDetector):
    r"""Anomaly detector on an autoregressive network: every column given those before it, in several orders.

    The chain rule splits the density of a row into one conditional for each column; a masked network gives all of them
    in one pass: mixtures of normal distributions for numbers, masses for levels. Averaged over `K` orders
    :math:`c^{(k)}` of the columns,

    .. math:: p(x) = \frac1K \sum_{k=1}^K \prod_i p_k(x_{c^{(k)}_i} \mid x_{c^{(k)}_1}, \dots, x_{c^{(k)}_{i-1}}) .

    The density is exact, also of rows with missing values: these have no term, and what follows is conditioned on
    their being missing. Images are read in one order, row by row from the top left, by a causal convolutional network
    (PixelCNN) that says what mixture of discretized logistic distributions each pixel has; their probability, that of
    256 levels a pixel, is exact. Beyond the parameters below it takes those of :class:`anomgen.Detector`.

    Parameters
    ----------
    backbone : {"dense", "attention"}, default="dense"
        The network.

        - ``"dense"``: a masked perceptron for each order. The quicker one.
        - ``"attention"``: a causal transformer with a token for every column, the same for all orders. Its size hardly
          grows with the number of columns, its time does with their square.
    conditional : {"means", "mixtures"}, default="means"
        What the columns before decide of the mixture of a number.

        - ``"means"``: where its components lie; their weights and widths are learned, one set for each column and
          order. The more robust: no combination of columns can be rewarded for a narrow density.
        - ``"mixtures"``: weights and widths too. Sharper densities and samples, where the rows suffice.
    orders : int or "auto", default="auto"
        Orders of the columns that are averaged, in pairs of an order and its reverse. ``"auto"`` is 4, or 2 where there
        are more than 256 coordinates. Training costs the same for any number, scoring grows with it.
    hidden : tuple of int, default=(128, 128)
        Widths of the hidden layers of the dense networks.
    width : int, default=64
        Features of a token of the transformer, a multiple of `heads`.
    blocks : int, default=2
        Layers of the transformer. For images: gated convolutions along a row of pixels, and half as many on each coarse
        resolution of the rows above.
    heads : int, default=4
        Heads of every layer of the transformer.
    channels : int, default=24
        For images: channels of every convolution.
    components : int, default=8
        Components of the mixture of every number, or pixel.
    dropout : float, default=0.1
        Share of the inputs hidden in training, in [0, 0.5]: in every row another one, uniform between 0 and twice this.
        It teaches conditionals given any part of the columns before, which is what rows with missing values are scored
        by where training had none.

    Notes
    -----
    When to choose it: for mixed tables with categories and missing values, which it models as what they are; where gaps
    are to be filled (:meth:`impute`); and to tell which column makes a row surprising, or which pixel an image. Drawing
    takes a step for every column or pixel. Where images are concerned, :math:`-\log p` is their length in the best code
    for normal ones: plainer images than these are shorter, and their likelihood is high whatever they show. The default
    statistic of images looks at more than the likelihood for this reason.

    What holds exactly: the masses and densities of masks, levels and observed numbers sum and integrate to one. Whether
    a column is scored as missing or summed over makes no difference where it is the last one of all orders; elsewhere
    the two agree as far as training with hidden inputs has succeeded.

    References
    ----------
    Larochelle, Murray (2011), *The Neural Autoregressive Distribution Estimator*, AISTATS.

    Uria, Murray, Larochelle (2014), *A Deep and Tractable Density Estimator*, arXiv:1310.1757 (averaged orders).

    Germain, Gregor, Murray, Larochelle (2015), *MADE: Masked Autoencoder for Distribution Estimation*,
    arXiv:1502.03509 (dense).

    Vaswani et al. (2017), *Attention Is All You Need*, arXiv:1706.03762 (attention).

    van den Oord et al. (2016), *Conditional Image Generation with PixelCNN Decoders*, arXiv:1606.05328 (images).

    Salimans, Karpathy, Chen, Kingma (2017), *PixelCNN++*, arXiv:1701.05517 (mixtures of pixels).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 1)) * [1.0, 2.0]
    >>> detector = AutoregressiveDetector(hidden=(16,), max_epochs=20, random_state=0, verbose=False).fit(X)
    >>> bool(detector.score_samples([[1.0, 2.0]]) > detector.score_samples([[1.0, -2.0]]))
    True
    >>> detector.impute([[1.0, np.nan]]).rows.shape
    (1, 2)
    """

    backbone: str = "dense"
    conditional: str = "means"
    orders: int | Literal["auto"] = "auto"
    hidden: tuple[int, ...] = (128, 128)
    width: int = 64
    blocks: int = 2
    heads: int = 4
    channels: int = 24
    components: int = 8
    dropout: float = 0.1

    def build(self, space: Space) -> Autoregressive | ImageAutoregressive:
        """Make the untrained model of rows in `space`."""
        if space.image is not None:
            return ImageAutoregressive(space, channels=self.channels, blocks=self.blocks, components=self.components)
        return Autoregressive(
            space,
            backbone=self.backbone,
            conditional=self.conditional,
            orders=self.orders,
            hidden=self.hidden,
            width=self.width,
            blocks=self.blocks,
            heads=self.heads,
            components=self.components,
            dropout=self.dropout,
        )
