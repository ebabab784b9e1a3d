"""Convolutional networks on columns: exact sizes, what is given, bounded layers, and the work they claim."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from anomgen import runtime
from anomgen.nn.convolution import Analysis, Image, Layer, Synthesis, pooled, pyramid

SIZES: list[Image] = [(1, 28, 28), (3, 5, 9), (1, 1, 1), (2, 8, 8), (1, 64, 33)]
every_size = pytest.mark.parametrize("image", SIZES)


def columns(rows: int, n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, rows, generator=torch.Generator().manual_seed(seed)).t()


def pixels(image: Image) -> int:
    c, h, w = image
    return c * h * w


@every_size
def test_columns_in_and_columns_out_of_any_size(image: Image) -> None:
    analysis, synthesis = Analysis(image, 5, 4, given=2), Synthesis(image, 3, 4, planes=2)
    x = columns(pixels(image) + 2, 3)
    found = analysis.activations(x)
    assert [tuple(y.shape) for y in found] == [(3, *shape) for shape in pyramid(image, 4)]
    assert analysis(x).shape == (5, 3)
    assert torch.equal(analysis.read(found), analysis(x))
    made = synthesis(columns(3, 3))
    assert made.shape == (2 * pixels(image), 3)
    (analysis(x).sum() + made.sum()).backward()
    parameters = [*analysis.parameters(), *synthesis.parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)


@every_size
def test_sides_are_halved_until_they_are_short(image: Image) -> None:
    shapes = [image, *pyramid(image, 8)]
    assert all((b[1], b[2]) == ((a[1] + 1) // 2, (a[2] + 1) // 2) for a, b in pairwise(shapes))
    assert max(shapes[-1][1:]) <= 4
    assert len(shapes) >= 3
    assert [shape[0] for shape in shapes[1:4]] == [8, 16, 32][: len(shapes) - 1]


@every_size
def test_the_work_is_what_the_layers_multiply(image: Image) -> None:
    for network, rows in ((Analysis(image, 5, 4, given=1), pixels(image) + 1), (Synthesis(image, 3, 4, planes=2), 3)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(columns(rows, 1))
        assert counter.get_total_flops() == 2 * network.work


@every_size
def test_an_image_alone_and_in_a_crowd(image: Image) -> None:
    analysis, synthesis = Analysis(image, 5, 4), Synthesis(image, 3, 4)
    for network, rows in ((analysis, pixels(image)), (synthesis, 3)):
        with torch.no_grad():
            x = columns(rows, 6)
            crowd = network(x)
            torch.testing.assert_close(network(x[:, 4:5]), crowd[:, 4:5])
            assert not torch.allclose(crowd[:, :1], crowd[:, 1:2])


def test_what_is_given_reaches_every_activation() -> None:
    analysis = Analysis((1, 8, 8), 2, 4, given=1)
    x = columns(65, 1)
    other = torch.cat([x[:64], x[64:] + 1])
    with torch.no_grad():
        assert all(
            (a != b).any(1).all() for a, b in zip(analysis.activations(x), analysis.activations(other), strict=True)
        )


def test_neighbours_are_neighbours() -> None:
    """A pixel reaches the activations around it and no others, and a code's last layers make neighbours alike."""
    analysis = Analysis((2, 16, 12), 1, 4)
    x = columns(2 * 16 * 12, 1)
    other = x.reshape(2, 16, 12).clone()
    other[1, 0, 0] += 1.0
    with torch.no_grad():
        first, second = (analysis.activations(part)[0] for part in (x, other.reshape(-1, 1)))
    changed = (first != second).any(1)[0].nonzero().tolist()
    assert changed == [[0, 0]]


def test_planes_lie_one_after_another() -> None:
    synthesis = Synthesis((3, 5, 4), 2, 4, planes=2)
    with torch.no_grad():
        synthesis.last.weight.zero_()
        synthesis.last.bias.copy_(torch.arange(6.0).repeat_interleave(4))
        made = synthesis(columns(2, 1))
    assert torch.equal(made, torch.arange(6.0).repeat_interleave(20)[:, None])


class TestSpectral:
    def test_any_weights_are_normalized_without_having_been_seen(self) -> None:
        with runtime.seeded(1):
            network = Analysis((2, 9, 8), 3, 8, given=1, spectral=True).eval()
            for parameter in network.parameters():
                parameter.data.normal_(std=float(10 ** (4 * torch.rand(()) - 2)))
        for layer in [*network.layers, network.head]:
            assert isinstance(layer, Layer)
            largest = float(torch.linalg.matrix_norm(layer.operator().detach().flatten(1), 2))
            assert largest == pytest.approx(1.0, abs=1e-3)

    def test_training_finds_the_same_and_stays_bounded_as_weights_move(self) -> None:
        with runtime.seeded(0):
            network = Analysis((1, 8, 8), 1, 8, spectral=True)
            for parameter in network.parameters():
                parameter.data.mul_(4.0)
            optimizer = torch.optim.Adam(network.parameters(), 1e-3)
            for step in range(150):
                optimizer.zero_grad()
                (network(columns(64, 16, step)).mean() - network(2 + columns(64, 16, step)).mean()).backward()
                optimizer.step()
        layers = [layer for layer in [*network.layers, network.head] if isinstance(layer, Layer)]
        assert max(float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) for layer in layers) > 1.2
        for layer in layers:
            before = layer.get_buffer("direction").clone()
            operator = layer.operator().detach().flatten(1)
            assert float(torch.linalg.matrix_norm(operator, 2)) <= 1.05
            # A matrix of one row has but one direction.
            assert len(before) == 1 or not torch.equal(before, layer.get_buffer("direction"))

    def test_evaluation_keeps_nothing(self) -> None:
        layer = Layer(2, 4, (3, 3), spectral=True).eval()
        before = layer.get_buffer("direction").clone()
        layer(torch.ones(1, 2, 4, 4))
        assert torch.equal(before, layer.get_buffer("direction"))


def test_pooled_activations_are_means_and_few() -> None:
    x = torch.randn(2, 64, 8, 8)
    assert torch.equal(pooled([x], 4096), x.flatten(1))
    torch.testing.assert_close(pooled([x], 64), x.mean((2, 3)))
    torch.testing.assert_close(
        pooled([x, x], 2048)[:, :1024], x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)).flatten(1)
    )
    assert pooled([torch.zeros(1, 100, 3, 1)] * 3, 900).shape == (1, 3 * 300)
