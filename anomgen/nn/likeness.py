"""How generated rows compare with real ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

MEASURED = 500
"""Rows of each side that are compared at most."""
NEIGHBOURS = 5
"""A row's neighbourhood reaches to so many others of its side."""
BINS = 20
"""Cells that the real rows are cut into, of ten rows each at least on average."""
SIGNIFICANT = 1.96
"""Standard errors by which two shares have to differ."""


def likeness(real: Tensor, fake: Tensor) -> dict[str, float]:
    r"""Shares that tell whether generated rows lie where real ones do, and whether all of these are reached.

    Parameters
    ----------
    real, fake : Tensor of shape (n, d)

    Returns
    -------
    dict of str to float
        ``precision``: share of generated rows in the neighbourhood of a real one. ``recall``: share of real rows in the
        neighbourhood of a generated one. ``coverage``: share of real rows with a generated one in their neighbourhood.
        ``different_bins``: share of the cells of a k-means partition whose shares of real and of generated rows differ
        significantly; 5 % for equal distributions. All are missing where there are too few rows.

    References
    ----------
    Richardson, Weiss (2018), *On GANs and GMMs*, arXiv:1805.12462.

    Kynkäänniemi, Karras, Laine, Lehtinen, Aila (2019), *Improved Precision and Recall Metric for Assessing Generative
    Models*, arXiv:1904.06991.

    Naeem, Oh, Uh, Choi, Yoo (2020), *Reliable Fidelity and Diversity Metrics for Generative Models*, arXiv:2002.09797.

    Examples
    --------
    >>> rows = torch.arange(40.0)[:, None]
    >>> likeness(rows, rows[:20])["recall"]
    0.625
    """
    if min(len(real), len(fake)) <= NEIGHBOURS:
        return {}
    between = torch.cdist(real, fake)
    # The nearest row of a side to any of its rows is that row itself.
    reach, reach_of_fake = (torch.cdist(x, x).kthvalue(NEIGHBOURS + 1).values for x in (real, fake))
    inside = between <= reach[:, None]
    return {
        "precision": float(inside.any(0).float().mean()),
        "recall": float((between <= reach_of_fake).any(1).float().mean()),
        "coverage": float(inside.any(1).float().mean()),
        "different_bins": _different_bins(real, fake),
    }


def _different_bins(real: Tensor, fake: Tensor) -> float:
    bins = min(BINS, max(2, len(real) // 10))
    centers = real[:: len(real) // bins][:bins]
    for _ in range(5):
        member = one_hot(torch.cdist(real, centers).argmin(1), bins).to(real.dtype)
        held = member.sum(0)
        centers = torch.where(held[:, None] > 0, member.t() @ real / held.clamp_min(1)[:, None], centers)
    shares = [torch.cdist(x, centers).argmin(1).bincount(minlength=bins) / len(x) for x in (real, fake)]
    pooled = (shares[0] * len(real) + shares[1] * len(fake)) / (len(real) + len(fake))
    error = (pooled * (1 - pooled) * (1 / len(real) + 1 / len(fake))).sqrt()
    return float(((shares[0] - shares[1]).abs() > SIGNIFICANT * error).float().mean())
