"""What tests of the training loop start from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from anomgen.encode import Encoded
from anomgen.generative import GenerativeModel, Space
from anomgen.train import Run, Trainer

TRAINER = Trainer(max_epochs=60, batch_size=64, learning_rate=0.05, noise=0.0, verbose=False)


class Gaussian(GenerativeModel):
    """A diagonal Gaussian: its optimum is known."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dim))
        self.log_std = nn.Parameter(torch.zeros(dim))

    def log_prob(self, z: Tensor) -> Tensor:
        u = (z - self.mean) * torch.exp(-self.log_std)
        return -(0.5 * u**2 + self.log_std + 0.5 * np.log(2 * np.pi)).sum(dim=1)

    def sample(self, n: int) -> Tensor:
        return self.mean + torch.exp(self.log_std) * torch.randn(n, len(self.mean))


def rows(n: int, dim: int = 2, seed: int = 0) -> Encoded:
    z = (np.random.default_rng(seed).normal(size=(n, dim)) * 0.5 + 2.0).astype(np.float32)
    return Encoded(z, np.zeros(n), z, z)


def fitted(trainer: Trainer = TRAINER, n: int = 512, **options: object) -> tuple[Gaussian, Run]:
    model = Gaussian(2)
    return model, trainer.fit(model, Space.real(2), rows(n), **options)  # type: ignore[arg-type]


def contaminated(share: float = 0.2, n: int = 1000) -> np.ndarray:
    """Standard normal rows, and a distant cluster of others."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 2))
    X[: int(share * n)] = rng.normal(size=(int(share * n), 2)) * 0.3 + 5.0
    return X.astype(np.float32)


class Solved(GenerativeModel):
    """A normal law that knows its solution."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("variance", torch.ones(2))
        self.calls: list[int] = []

    def fit_closed_form(self, z: Tensor, weight: Tensor | None, held_out: Tensor | None, blur: Tensor) -> None:
        self.calls.append(len(z))
        share = torch.ones(len(z)) if weight is None else weight.float()
        self.mean.copy_((z * share[:, None]).sum(0) / share.sum())
        self.variance.copy_(((z - self.mean).square() * share[:, None]).sum(0) / share.sum() + blur.square())

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.distributions.Normal(self.mean, self.variance.sqrt()).log_prob(z).sum(1)
