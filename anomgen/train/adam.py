"""The optimizer, on one vector."""

from __future__ import annotations

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class Adam:
    r"""Adam with decoupled weight decay on one parameter vector.

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
       w \leftarrow w - \eta \lambda w - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Equal to ``torch.optim.AdamW`` up to rounding. As all parameters lie in one vector, no kernel that fuses many
    tensors is needed; and torch's own class costs a fresh process a second of imports at its first fit.

    Parameters
    ----------
    vector : Tensor of shape (k,)
        Parameters, changed in place.
    decayed : Tensor of shape (k,)
        1 where weight decay applies, else 0.

    References
    ----------
    Kingma and Ba (2015), *Adam: A Method for Stochastic Optimization*, arXiv:1412.6980.

    Loshchilov and Hutter (2019), *Decoupled Weight Decay Regularization*, arXiv:1711.05101.
    """

    def __init__(self, vector: Tensor, decayed: Tensor) -> None:
        self.vector, self.decayed = vector, decayed
        self.mean, self.square, self.scratch = (torch.zeros_like(vector) for _ in range(3))
        self.steps = 0

    def step(self, gradient: Tensor, rate: float, weight_decay: float) -> None:
        """Move against `gradient` of shape (k,) by at most about `rate` in each coordinate."""
        self.steps += 1
        first, second = (1.0 - beta**self.steps for beta in BETAS)
        if weight_decay:
            self.vector.addcmul_(self.vector, self.decayed, value=-rate * weight_decay)
        self.mean.lerp_(gradient, 1.0 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1.0 - BETAS[1])
        root = torch.sqrt(self.square, out=self.scratch).add_(EPSILON * second**0.5)
        self.vector.addcdiv_(self.mean, root, value=-rate * second**0.5 / first)
