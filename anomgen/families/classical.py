"""Classical densities: mixtures of Gaussians and sums of kernels, solved instead of trained."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from anomgen.detector import Detector
from anomgen.generative import GenerativeModel, Space
from anomgen.nn import check_choice, check_counts, check_number
from anomgen.nn.mixture import choose
from anomgen.nn.normals import Normals, predictions, stacked

COVARIANCES = ("auto", "full", "tied", "diag")
SIZES = (1, 2, 4, 8, 16, 32)
"""Numbers of components that are tried."""
MAX_ROWS = 20_000
"""Rows that EM runs on at most."""
MAX_NUMBERS = 2**19
"""Numbers in the covariance matrices of several components at most, where their count is not given."""
WIDE = 1024
"""Coordinates above which covariances are diagonal unless asked for otherwise."""
ROWS_A_COMPONENT = 20
ITERATIONS = 200
TOLERANCE = 0.01
"""Gain of an EM iteration below which it has converged, nats a row."""
LEAST_VARIANCE = 1e-4
"""Least variance of a component in any direction, in model space: a hundredth of a standard deviation."""
FOLDS = 3
MAX_JUDGES = 500
MAX_WORK = 2e8
"""Differences of coordinates that one bandwidth's likelihood may cost, down to a tenth of the judges."""
BANDWIDTHS = (0.01, 4.0)
CHUNK = 512
"""Kernels summed at a time, so that their exponents stay in the processor's cache."""


class Mixture(GenerativeModel):
    r"""Mixture of Gaussians on rows ``z`` of shape ``(n, d)``, fitted by expectation maximization.

    .. math:: \log p(z) = \log \sum_k \pi_k \, N(z;\, \mu_k, \Sigma_k + \mathrm{diag}(b^2))

    The blur `b` of the training noise enters as what it does on average, so no noise is drawn.

    Parameters
    ----------
    space : int or Space
        Coordinates of a row.
    components, covariance
        As in :class:`MixtureDetector`.

    Examples
    --------
    >>> Mixture(2).log_prob(torch.zeros(3, 2))
    tensor([-1.8379, -1.8379, -1.8379])
    """

    universal = True
    sized_by_data = ("shares", "means", "factors")

    shares: Tensor
    means: Tensor
    factors: Tensor

    def __init__(
        self, space: int | Space, *, components: int | Literal["auto"] = "auto", covariance: str = "auto"
    ) -> None:
        super().__init__()
        if components != "auto":
            check_counts(components=components)
        check_choice("covariance", covariance, COVARIANCES)
        self.components, self.covariance = components, covariance
        dim = space if isinstance(space, int) else space.dim
        self.register_buffer("shares", torch.ones(1))
        self.register_buffer("means", torch.zeros(1, dim, 1))
        self.register_buffer("factors", torch.ones(1, dim, 1))
        self.unfinished: list[int] = []

    @property
    def normals(self) -> Normals:
        """The components."""
        return Normals(self.shares, self.means, self.factors)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of every row in nats, shape ``(n,)``."""
        return self.normals.log_prob(z.t())

    def sample(self, n: int) -> Tensor:
        """Draw `n` rows of shape ``(n, d)`` with torch's current generator."""
        return self.normals.sample(n).t().contiguous()

    def sample_given(self, z: Tensor, observed: Tensor) -> Tensor:
        """Draw what is not observed of rows ``(n, d)`` given what is, from the exact conditional mixture."""
        return self.normals.sample_given(z.t(), observed.t()).t().contiguous()

    def fit_closed_form(self, z: Tensor, weight: Tensor | None, held_out: Tensor | None, blur: Tensor) -> None:
        """Run EM on rows of shape ``(n, d)``; held-out rows, or else folds, tell how many components to take.

        Mixtures of several sizes are added up, with the shares under which they predict those rows best.
        """
        self.unfinished = []
        rows, blur = _some(z, MAX_ROWS).double().cpu(), blur.double().cpu()
        dim = rows.shape[1]
        kind = ("diag" if dim > WIDE else "full") if self.covariance == "auto" else self.covariance
        if self.components == "auto":
            room = len(SIZES) if kind == "diag" else MAX_NUMBERS // dim**2
            sizes = [k for k in SIZES if k == 1 or (k <= room and k <= len(rows) // ROWS_A_COMPONENT)]
        else:
            sizes = [min(self.components, len(rows))]
        if len(sizes) == 1:
            parts, shares = [self._solve(rows, sizes[0], kind, blur)], torch.ones(1, dtype=torch.float64)
        elif held_out is not None:
            parts = [self._solve(rows, k, kind, blur) for k in sizes]
            shares = stacked(predictions(parts, held_out.double().cpu(), blur))
        else:
            judged = [
                predictions([self._solve(train, k, kind, blur) for k in sizes], judge, blur)
                for train, judge in _folds(rows)
            ]
            shares = stacked(torch.cat(judged, 1))
            parts = [self._solve(rows, k, kind, blur) for k in sizes]
        shared = torch.cat([part.shares * share for part, share in zip(parts, shares, strict=True)])
        kept = shared > 1e-4 / len(rows)
        means, factors = (torch.cat([part[i] for part in parts])[kept] for i in (1, 2))
        for name, value in (("shares", shared[kept] / shared[kept].sum()), ("means", means), ("factors", factors)):
            setattr(self, name, value.to(getattr(self, name)))

    def _solve(self, rows: Tensor, size: int, kind: str, blur: Tensor) -> Normals:
        """One mixture. EM sees the largest blur on every coordinate, so that no component collapses onto a row."""
        from sklearn import config_context
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        size = min(size, len(rows))
        least = blur.square().clamp_min(LEAST_VARIANCE)
        floor = float(least.max())
        seed = int(torch.randint(2**31 - 1, ()))
        em = GaussianMixture(
            size, covariance_type=kind, tol=TOLERANCE, reg_covar=floor, max_iter=ITERATIONS, random_state=seed
        )
        # Threads would add up in an order of their own.
        with warnings.catch_warnings(), threadpool_limits(1), config_context(array_api_dispatch=False):
            warnings.simplefilter("ignore", ConvergenceWarning)
            em.fit(rows.numpy())
        if not em.converged_:
            self.unfinished.append(size)
        shares, means, found = (torch.from_numpy(a) for a in (em.weights_, em.means_, em.covariances_))
        if kind == "diag":
            factors = (found + (least - floor)).rsqrt()[..., None]
        else:
            lower = torch.linalg.cholesky(found + torch.diag(least - floor))
            factors = torch.linalg.solve_triangular(lower, torch.eye(len(blur), dtype=torch.float64), upper=False)
        return Normals(shares, means[..., None], factors.expand(size, -1, -1))

    def complaints(self, history: Any) -> list[str]:
        """Whether EM came to an end."""
        if not self.unfinished:
            return []
        sizes = ", ".join(map(str, sorted(set(self.unfinished))))
        return [f"EM did not converge within {ITERATIONS} iterations for components={sizes}; give fewer"]


class Kernel(GenerativeModel):
    r"""Sum of Gaussian kernels on training rows, for rows ``z`` of shape ``(n, d)``.

    .. math:: \log p(z) = \log \sum_i w_i \, N(z;\, z_i,\ \mathrm{diag}(h^2 + b^2))

    The blur `b` of the training noise enters as what it does on average, so no noise is drawn.

    Parameters
    ----------
    space : int or Space
        Coordinates of a row.
    bandwidth, bank
        As in :class:`KernelDetector`.

    Examples
    --------
    >>> Kernel(2).log_prob(torch.zeros(3, 2))
    tensor([-1.8379, -1.8379, -1.8379])
    """

    sized_by_data = ("centers", "shares")

    centers: Tensor
    shares: Tensor
    scales: Tensor

    def __init__(self, space: int | Space, *, bandwidth: float | Literal["auto"] = "auto", bank: int = 5000) -> None:
        super().__init__()
        if bandwidth != "auto":
            check_number("bandwidth", bandwidth, *BANDWIDTHS)
        check_counts(bank=bank)
        self.bandwidth, self.bank = bandwidth, bank
        dim = space if isinstance(space, int) else space.dim
        self.register_buffer("centers", torch.zeros(1, dim))
        self.register_buffer("shares", torch.ones(1))
        self.register_buffer("scales", torch.ones(dim))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of every row in nats, shape ``(n,)``."""
        scales = self.scales.double()  # |a - b|^2 by one matrix product: far rows cancel almost wholly
        x, centers = (z / scales).t(), self.centers / scales
        exponents = self.shares.double().log() - 0.5 * centers.square().sum(1)
        parts = [
            torch.logsumexp(torch.addmm(offset[:, None], some, x), 0)
            for offset, some in zip(exponents.split(CHUNK), centers.split(CHUNK), strict=True)
        ]
        constant = scales.log().sum() + 0.5 * math.log(2 * math.pi) * len(x)
        return (torch.logsumexp(torch.stack(parts), 0) - 0.5 * x.square().sum(0) - constant).to(z.dtype)

    def sample(self, n: int) -> Tensor:
        """Draw `n` rows of shape ``(n, d)`` with torch's current generator."""
        centers = self.centers[torch.multinomial(self.shares, n, replacement=True)]
        return torch.addcmul(centers, self.scales, torch.randn_like(centers))

    def sample_given(self, z: Tensor, observed: Tensor) -> Tensor:
        """Draw what is not observed of rows ``(n, d)`` given what is, from the exact conditional sum of kernels."""
        x, centers = (z / self.scales).double().masked_fill(~observed, 0.0), (self.centers / self.scales).double()
        exponents = x @ centers.t() - 0.5 * (observed.double() @ centers.square().t()) + self.shares.log()
        chosen = self.centers[choose(exponents.t())]
        return torch.where(observed, z, torch.addcmul(chosen, self.scales, torch.randn_like(chosen)))

    def fit_closed_form(self, z: Tensor, weight: Tensor | None, held_out: Tensor | None, blur: Tensor) -> None:
        """Keep rows of shape ``(n, d)``, and take the bandwidth that predicts held-out rows, or else folds, best."""
        given = torch.ones(len(z), 1) if weight is None else weight.reshape(-1, 1).cpu()
        rows = _some(torch.cat([z.cpu().double(), given.double()], 1), self.bank)
        noise = blur.cpu().double().square()
        if self.bandwidth != "auto":
            bandwidth = float(self.bandwidth)
        elif held_out is not None:
            judges = torch.cat([held_out.cpu().double(), torch.ones(len(held_out), 1)], 1)
            bandwidth = _best_bandwidth([(rows, judges)], noise)
        else:
            bandwidth = _best_bandwidth(_folds(rows), noise) if len(rows) >= FOLDS else 1.0
        self.centers = rows[:, :-1].to(self.centers)
        self.shares = (rows[:, -1] / rows[:, -1].sum()).to(self.shares)
        self.scales.copy_((bandwidth**2 + noise).sqrt())


def _best_bandwidth(tasks: Sequence[tuple[Tensor, Tensor]], noise: Tensor) -> float:
    """The bandwidth of the highest likelihood, summed over pairs of rows to learn from and rows to predict.

    The last column of all rows is their weight; `noise` of shape ``(d,)`` adds to the variance of every kernel.
    """
    from scipy.optimize import minimize_scalar
    from sklearn.neighbors import KernelDensity

    judges = int(np.clip(MAX_WORK / tasks[0][0].numel(), MAX_JUDGES // 10, MAX_JUDGES)) // len(tasks)
    pairs = [(train.numpy(), _some(judge, judges).numpy()) for train, judge in tasks]

    def loss(log_bandwidth: float) -> float:
        scales = (math.exp(2 * log_bandwidth) + noise).sqrt().numpy()
        total = 0.0
        for train, judge in pairs:
            # One leaf: bounds of many leaves lose all digits for narrow kernels in 20 and more dimensions.
            found = KernelDensity(bandwidth=1.0, leaf_size=len(train))
            found.fit(train[:, :-1] / scales, sample_weight=train[:, -1])
            total -= float(judge[:, -1] @ (found.score_samples(judge[:, :-1] / scales) - np.log(scales).sum()))
        return total

    bounds = [math.log(bandwidth) for bandwidth in BANDWIDTHS]
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 0.05}).x)


def _some(rows: Tensor, most: int) -> Tensor:
    """At most so many random rows, in their order."""
    if len(rows) <= most:
        return rows
    return rows[torch.randperm(len(rows))[:most].sort().values.to(rows.device)]


def _folds(rows: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Pairs of rows to learn from and rows to predict; each row is predicted once."""
    order = torch.randperm(len(rows))
    parts = order.tensor_split(FOLDS)
    return [(rows[torch.cat([*parts[:i], *parts[i + 1 :]])], rows[parts[i]]) for i in range(FOLDS)]


class MixtureDetector(Detector):
    r"""Anomaly detector on a mixture of Gaussians.

    Expectation maximization finds clusters `k` with shares, means and covariances; rows far from all of them are
    anomalies:

    .. math:: \log p(x) = \log \sum_k \pi_k \, N(z(x);\, \mu_k,\, \Sigma_k + \mathrm{diag}(b^2)) + \log |dz / dx| .

    The standard deviation `b` of the training noise joins the covariances exactly. There is nothing to train: no
    epochs, no learning rate. Beyond the parameters below it takes those of :class:`anomgen.Detector`.

    Parameters
    ----------
    components : int or "auto", default="auto"
        Gaussians. ``"auto"`` fits mixtures of 1, 2, 4, 8, 16 and 32, as far as there are 20 rows for each Gaussian and
        their covariances stay below half a million numbers, and adds them up with the shares under which they predict
        held-out rows best; a table too short to hold any out is cut into three folds for that.
    covariance : {"auto", "full", "tied", "diag"}, default="auto"
        Shape of the clusters.

        - ``"full"``: an ellipsoid each.
        - ``"tied"``: one ellipsoid in several places.
        - ``"diag"``: ellipsoids along the axes; columns are independent within a cluster.
        - ``"auto"``: full up to 1,024 coordinates, else diagonal.

    Notes
    -----
    When to choose it: for a first look at a small or middling table, and where the answer should be readable: means and
    covariances are the whole model. Flows follow curved structures better; EM sees 20,000 random rows at most.

    References
    ----------
    Dempster, Laird, Rubin (1977), *Maximum likelihood from incomplete data via the EM algorithm*, JRSS B 39.

    Smyth, Wolpert (1999), *Linearly combining density estimators via stacking*, Machine Learning 36.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> detector = MixtureDetector(components=2, random_state=0, verbose=False).fit(X)
    >>> bool(detector.score_samples([[0.0, 0.0]]) > detector.score_samples([[6.0, -6.0]]))
    True
    """

    components: int | Literal["auto"] = "auto"
    covariance: str = "auto"

    def build(self, space: Space) -> Mixture:
        """Make the unfitted mixture for rows of `space`."""
        return Mixture(space, components=self.components, covariance=self.covariance)


class KernelDetector(Detector):
    r"""Anomaly detector on a kernel density estimate: every training row is the center of a small Gaussian.

    .. math:: \log p(x) = \log \sum_i w_i \, N(z(x);\, z_i,\, \mathrm{diag}(h^2 + b^2)) + \log |dz / dx|

    The standard deviation `b` of the training noise is the least that a kernel has. There is nothing to train: no
    epochs, no learning rate. Beyond the parameters below it takes those of :class:`anomgen.Detector`.

    Parameters
    ----------
    bandwidth : float or "auto", default="auto"
        Standard deviation `h` of every kernel, in standard deviations of the columns, between 0.01 and 4. ``"auto"``
        is the one under which the kernels predict held-out rows best; a table too short to hold any out is cut into
        three folds for that.
    bank : int, default=5000
        Training rows kept at most; of longer tables that many are drawn at random. Saved models hold them, encoded.

    Notes
    -----
    When to choose it: as a strong baseline that cannot go wrong in training, for up to some thousands of rows. Every
    score visits every kept row. In many dimensions it is far from the true density while still ordering rows well.

    References
    ----------
    Parzen (1962), *On estimation of a probability density function and mode*, Annals of Mathematical Statistics 33.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> detector = KernelDetector(random_state=0, verbose=False).fit(X)
    >>> bool(detector.score_samples([[0.0, 0.0]]) > detector.score_samples([[6.0, -6.0]]))
    True
    """

    bandwidth: float | Literal["auto"] = "auto"
    bank: int = 5000

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, X_val: Any = None) -> Self:
        """Fit encoder, model, statistic and threshold.

        Parameters
        ----------
        X : frame or array of shape (n, p)
            Rows taken for normal. Frames may hold numbers, booleans, dates, text levels and missing values.
        y : ignored
        sample_weight : array of shape (n,), optional
            Non-negative weight of every row's kernel; rows of weight 0 are left out.
        X_val : frame or array, optional
            Rows to hold out; by default a share of `X`.

        Raises
        ------
        ValueError
            Naming the parameter, column or row that cannot be used.
        """
        return self._fit(X, y, sample_weight, X_val)

    def build(self, space: Space) -> Kernel:
        """Make the unfitted kernels for rows of `space`."""
        return Kernel(space, bandwidth=self.bandwidth, bank=self.bank)
