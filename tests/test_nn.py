"""Networks on columns and splines: against zuko, against autograd, and against their own promises."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import zuko
from torch import Tensor

from anomgen import runtime
from anomgen.generative import Space
from anomgen.nn import (
    MLP,
    Condition,
    Levels,
    MaskedMLP,
    affine,
    check_choice,
    check_counts,
    check_flag,
    check_number,
    check_widths,
    inverse_affine,
    inverse_spline,
    pointwise,
    softclip,
    spline,
)


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


def cells(*levels: int, unseen: float = 0.01) -> Space:
    """Categorical coordinates, and one number in front of them."""
    edges = ((), *(tuple(float(k) for k in range(count - 1)) for count in levels))
    d = len(levels) + 1
    return Space(
        (d,),
        tuple(map(str, range(d))),
        ("real", *["cell"] * (d - 1)),
        edges,
        (False,) * d,
        (0.0,) + (unseen,) * (d - 1),
    )


class TestLevels:
    def test_masses_of_all_levels_sum_to_one_and_unseen_ones_have_theirs(self) -> None:
        levels = Levels(cells(4, 3))
        logits = torch.randn(5, 1, generator=torch.Generator().manual_seed(0))
        for coordinate, count in enumerate((4, 3)):
            codes = torch.zeros(2, count)
            codes[coordinate] = torch.arange(count)
            mass = levels.log_prob(logits.expand(-1, count), codes)[coordinate].exp()
            assert mass.sum() == pytest.approx(1.0)
            assert mass[-1] == pytest.approx(0.01)
        shares = levels.log_prob(logits, torch.zeros(2, 1)).exp()
        assert shares[0, 0] == pytest.approx(0.99 * float(logits[:3, 0].softmax(0)[0]))

    def test_a_mask_has_no_unseen_level(self) -> None:
        levels = Levels(cells(2, unseen=0.0))
        assert levels.width == 2
        mass = levels.log_prob(torch.zeros(2, 2), torch.tensor([[0.0, 1.0]])).exp()
        assert mass.tolist() == [[0.5, 0.5]]

    def test_missing_values_have_no_term_and_no_gradient(self) -> None:
        levels = Levels(cells(4))
        logits = torch.zeros(3, 2, requires_grad=True)
        terms = levels.log_prob(logits, torch.tensor([[float("nan"), 1.0]]))
        assert terms[0, 0] == 0
        terms.sum().backward()
        assert logits.grad is not None
        assert (logits.grad[:, 0] == 0).all()
        assert logits.grad.isfinite().all()

    def test_draws_follow_the_masses(self) -> None:
        levels = Levels(cells(4, 3))
        logits = torch.tensor([0.5, 0.3, 0.2, 0.9, 0.1]).log()[:, None].expand(-1, 40_000)
        with runtime.seeded(0):
            drawn = levels.sample(logits)
        for row, expected in zip(drawn, ([0.5, 0.3, 0.2], [0.9, 0.1]), strict=True):
            found = torch.bincount(row.long(), minlength=len(expected)) / len(row)
            assert found.tolist() == pytest.approx(expected, abs=0.01)

    def test_one_hot_inputs(self) -> None:
        codes = torch.tensor([[0.0, 3.0, float("nan")], [1.0, 0.0, 2.0]])
        expected = [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0], [1, 0, 0]]
        assert Levels(cells(4, 3)).one_hot(codes).tolist() == expected
        assert Levels(Space.real(2)).one_hot(torch.empty(0, 3)).shape == (0, 3)


class TestCondition:
    space = Space(
        (4,),
        tuple("xyck"),
        ("real", "real", "cell", "real"),
        ((), (), (0.0, 1.0), ()),
        (False,) * 4,
        (0.0, 0.0, 0.01, 0.0),
        (False, False, True, True),
    )

    def test_parts_rows_and_puts_them_together_again(self) -> None:
        condition = Condition(self.space)
        z = torch.tensor([[0.1, 0.2, 1.0, 5.0], [0.3, 0.4, 0.0, 6.0]])
        x, context = condition.split(z)
        assert (condition.dim, condition.width) == (2, 3)
        assert torch.equal(x, z[:, :2].t())
        assert context.tolist() == [[0.0, 1.0], [1.0, 0.0], [5.0, 6.0]]
        assert torch.equal(condition.join(x.t(), z[:, 2:]), z)
        assert torch.equal(condition.context_for(2, z[:, 2:], z), context)

    def test_without_conditions_there_is_no_context(self) -> None:
        condition = Condition(Space.real(3))
        z = torch.randn(5, 3)
        x, context = condition.split(z)
        assert torch.equal(x.t(), z)
        assert context.shape == (0, 5) == condition.context_for(5, None, z).shape
        assert condition.join(z, None) is z


def test_a_masked_network_takes_further_inputs_everywhere() -> None:
    net = MaskedMLP(3, 2, (16, 16), given=2)
    randomize(net)
    x = torch.randn(5, 4, requires_grad=True)
    for i in range(3):
        slope = torch.autograd.grad(net(x).view(2, 3, 4)[:, i].sum(), x)[0].abs().sum(1)
        assert (slope[:i] > 0).all()
        assert (slope[i:3] == 0).all()
        assert (slope[3:] > 0).all()


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_choice("loss", "tv", ("hinge", "minimax")), "loss='tv'.*'hinge', 'minimax'"),
        (lambda: check_choice("loss", 3, ("hinge",)), "loss=3"),
        (lambda: check_counts(draws=0), "draws=0.*at least 1"),
        (lambda: check_counts(2, bins=True), "bins=True"),
        (lambda: check_number("beta", -1.0, 0), "beta=-1.0.*at least 0"),
        (lambda: check_number("beta", 3, 0, 2), "beta=3.*at most 2"),
        (lambda: check_flag("spectral", 1), "spectral=1"),
        (lambda: check_widths((8, 0)), r"hidden=\(8, 0\)"),
        (lambda: check_widths("88"), "hidden='88'"),
    ],
)
def test_bad_arguments_are_named(check: Callable[[], None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check()


def test_good_arguments_pass() -> None:
    check_choice("loss", "hinge", ("hinge",))
    check_counts(0, a=0, b=7)
    check_number("beta", 0, 0, 1)
    check_flag("spectral", True)
    check_widths([64])
