"""Networks on columns and splines: against zuko, against autograd, and against their own promises."""

from __future__ import annotations

import warnings

import pytest
import torch
import zuko
from torch import Tensor

from anomgen import runtime
from anomgen.nn import MLP, MaskedMLP, affine, inverse_affine, inverse_spline, pointwise, softclip, spline


def knots(bins: int, *shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points within and beyond the bound, and rough spline parameters, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    x = 4 * torch.randn(shape, generator=generator, dtype=torch.float64)
    parameters = 2 * torch.randn((3 * bins - 1, *shape), generator=generator, dtype=torch.float64)
    return x.requires_grad_(), parameters.requires_grad_()


def randomize(module: torch.nn.Module, scale: float = 0.5) -> None:
    with torch.no_grad(), runtime.seeded(1):
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))


@pytest.mark.parametrize("bins", [2, 3, 8])
def test_spline_equals_zuko_in_values_and_gradients(bins: int) -> None:
    x, parameters = knots(bins, 5, 40)
    widths, heights, derivatives = parameters.movedim(0, -1).split([bins, bins, bins - 1], dim=-1)
    expected = zuko.transforms.MonotonicRQSTransform(widths, heights, derivatives).call_and_ladj(x)
    found = spline(x, parameters)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(2, 5, 40, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((torch.stack(pair) * weights).sum(), (x, parameters)) for pair in (found, expected)
    ]
    torch.testing.assert_close(*gradients)


def test_spline_backward_is_its_derivative() -> None:
    assert torch.autograd.gradcheck(spline, knots(4, 2, 6), atol=1e-6)


@pytest.mark.parametrize("bins", [2, 8])
def test_inverse_spline_inverts(bins: int) -> None:
    x, parameters = knots(bins, 3, 200)
    y, log_derivative = spline(x, parameters)
    back, log_inverse = inverse_spline(y, parameters)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(log_inverse, -log_derivative, atol=1e-8, rtol=1e-8)


def test_spline_is_monotone_and_linear_in_the_tails() -> None:
    grid = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    parameters = 3 * knots(8, 1)[1].detach().expand(-1, len(grid))
    y, log_derivative = spline(grid, parameters)
    assert (y.diff() > 0).all()
    outside = grid.abs() >= 5
    torch.testing.assert_close(y[outside], grid[outside])
    assert (log_derivative[outside] == 0).all()
    assert (log_derivative[~outside] != 0).all()


def test_spline_of_zero_parameters_is_the_identity() -> None:
    x = torch.linspace(-7, 7, 99)
    y, log_derivative = spline(x, torch.zeros(23, 99))
    torch.testing.assert_close(y, x, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(log_derivative, torch.zeros(99), atol=2e-6, rtol=0)


def test_spline_survives_extreme_parameters() -> None:
    x = torch.linspace(-5, 5, 301).requires_grad_()
    parameters = (1e4 * torch.randn(23, 301, generator=torch.Generator().manual_seed(0))).requires_grad_()
    y, log_derivative = spline(x, parameters)
    (y.sum() + log_derivative.sum()).backward()
    assert all(t.isfinite().all() for t in (y, log_derivative, x.grad, parameters.grad))


def test_spline_in_pieces_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x, parameters = knots(5, 3, 64)
    whole = spline(x, parameters)
    gradient = torch.autograd.grad((whole[0] * whole[1]).sum(), (x, parameters))
    monkeypatch.setattr(pointwise, "PIECE", 37)
    pieces = spline(x, parameters)
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(torch.autograd.grad((pieces[0] * pieces[1]).sum(), (x, parameters)), gradient)


def test_spline_takes_parameters_of_lower_precision() -> None:
    x, parameters = knots(4, 2, 50)
    y, log_derivative = spline(x.float(), parameters.bfloat16())
    assert y.dtype == log_derivative.dtype == torch.float32


@pytest.mark.slow
def test_compiled_spline_equals_eager() -> None:
    for shape in ((5, 64), (3, 100)):
        x, parameters = ((t.detach() / 2).float().requires_grad_() for t in knots(8, *shape))
        results = []
        for requested in (False, True):
            with runtime.compiling(requested), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                y, log_derivative = spline(x, parameters)
                gradients = torch.autograd.grad((y * log_derivative).sum(), (x, parameters))
                with torch.inference_mode():
                    results.append((y, log_derivative, *gradients, *spline(x.detach(), parameters.detach())))
        torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-4)


def test_without_a_compiler_splines_warn_once_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def broken(*_: Tensor) -> tuple[Tensor, Tensor]:
        raise TorchDynamoException("no working C++ compiler")

    monkeypatch.setattr(pointwise, "_compiled", {})
    monkeypatch.setattr(pointwise, "_no_compiler", False)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    x, parameters = knots(4, 2, 6)
    with runtime.compiling(True):
        with pytest.warns(RuntimeWarning, match=r"no working C\+\+ compiler.*apt install g\+\+"):
            first = spline(x, parameters)
        second = spline(x, parameters)
    torch.testing.assert_close(first, spline(x, parameters))
    torch.testing.assert_close(second, first)


def test_affine_equals_zuko_inverts_and_is_differentiated_rightly() -> None:
    x, parameters = knots(1, 4, 30)
    parameters = torch.cat([parameters[:1], 3 * parameters[1:]]).detach().requires_grad_()
    expected = zuko.transforms.MonotonicAffineTransform(*parameters).call_and_ladj(x)
    found = affine(x, parameters)
    torch.testing.assert_close(found, expected)
    back, log_derivative = inverse_affine(found[0], parameters)
    torch.testing.assert_close((back, -log_derivative), (x, found[1]))
    assert torch.autograd.gradcheck(affine, (x, parameters))


def test_softclip_is_bounded_odd_and_of_slope_one() -> None:
    x = torch.tensor([-1e30, -1e-4, 0.0, 1e-4, 1e30])
    torch.testing.assert_close(softclip(x, 3.0), torch.tensor([-3.0, -1e-4, 0.0, 1e-4, 3.0]))


def test_mlp_is_the_textbook_network() -> None:
    network = MLP(3, 2, (8, 8))
    assert (network(torch.randn(3, 5)) == 0).all()
    randomize(network)
    x = torch.randn(3, 5)
    hidden = x
    for layer in range(2):
        hidden = (getattr(network, f"weight{layer}") @ hidden + getattr(network, f"bias{layer}")).relu()
    torch.testing.assert_close(network(x), network.weight2 @ hidden + network.bias2)


def test_mlp_without_inputs_is_constant() -> None:
    network = MLP(0, 2, (8,))
    randomize(network)
    y = network(torch.empty(0, 4))
    assert y.abs().sum() > 0
    assert (y == y[:, :1]).all()


@pytest.mark.parametrize(("dim", "hidden"), [(1, (4,)), (2, (5, 3)), (6, (16, 16)), (40, (7, 11, 64)), (20, (64, 64))])
def test_masked_network_is_autoregressive_and_leaves_nothing_out(dim: int, hidden: tuple[int, ...]) -> None:
    network = MaskedMLP(dim, 3, hidden).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(0.1, 1)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x[:, None])[:, 0], torch.ones(dim).double())
    seen = (jacobian.view(3, dim, dim) != 0).all(0)
    assert not seen.triu().any()
    if min(hidden) >= dim - 1:
        assert (seen == torch.ones(dim, dim).tril(-1).bool()).all()
    else:
        assert dim == 1 or seen[-1].sum() >= dim - 1 - dim // min(hidden)


def test_masked_weights_receive_no_gradient() -> None:
    network = MaskedMLP(5, 2, (16, 16))
    randomize(network)
    network(torch.randn(5, 30)).square().sum().backward()
    for layer, mask in enumerate(network.buffers()):
        gradient = getattr(network, f"weight{layer}").grad
        assert (gradient[mask == 0] == 0).all()
        assert (gradient[mask == 1] != 0).any()
