"""Devices, threads, seeds and tiles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from anomgen import runtime
from anomgen.runtime import SAMPLE_TILE, tile_height

CPU = torch.device("cpu")
HEIGHT = 256


def mapped(function: Callable[..., Tensor], columns: list[Tensor], gradient: bool = False) -> np.ndarray:
    return runtime.map_rows(function, columns, device=CPU, height=HEIGHT, gradient=gradient)


class TestMapRows:
    @pytest.mark.parametrize("n", [1, HEIGHT - 1, HEIGHT, HEIGHT + 1, 3 * HEIGHT + 7])
    @pytest.mark.parametrize("count", [1, 3])
    def test_every_row_once_in_order(self, n: int, count: int) -> None:
        x = torch.arange(n, dtype=torch.float32)[:, None]
        with runtime.threads(count):
            assert np.array_equal(mapped(lambda t: t[:, 0] * 2, [x]), 2 * np.arange(n))

    def test_every_tile_has_the_same_height_and_one_thread(self) -> None:
        heights, counts = set(), set()

        def look(a: Tensor, b: Tensor) -> Tensor:
            heights.add((len(a), len(b)))
            counts.add(torch.get_num_threads())
            return a.sum(dim=1) + b

        with runtime.threads(2):
            mapped(look, [torch.ones(700, 3), torch.ones(700)])
            assert torch.get_num_threads() == 2
        assert heights == {(HEIGHT, HEIGHT)}
        assert counts == {1}

    def test_the_height_depends_on_the_model_alone(self) -> None:
        heights = [tile_height(count, CPU) for count in (0, 40_000, 115_000, 10**6, 10**9)]
        assert heights == [2048, 2048, 512, 256, 256]
        assert tile_height(1, torch.device("cuda")) == 8192

    def test_no_rows(self) -> None:
        assert mapped(lambda t: t[:, 0], [torch.empty(0, 2)]).shape == (0,)

    def test_gradients_only_on_request(self) -> None:
        def slope(x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x.clone().requires_grad_()
                return torch.autograd.grad((x**2).sum(), x)[0][:, 0]

        x = torch.arange(5.0)[:, None]
        assert np.array_equal(mapped(slope, [x], gradient=True), 2 * np.arange(5.0))
        inference = []
        mapped(lambda t: (inference.append(torch.is_inference_mode_enabled()), t[:, 0])[1], [x])
        assert inference == [True]


class TestSampleRows:
    def test_any_cut_gives_the_same_rows(self) -> None:
        whole = runtime.sample_rows(lambda n: torch.randn(n, 2), 2500, seed=3, device=CPU)
        parts = [
            runtime.sample_rows(lambda n: torch.randn(n, 2), stop - start, seed=3, device=CPU, start=start)
            for start, stop in ((0, 10), (10, SAMPLE_TILE + 5), (SAMPLE_TILE + 5, 2500))
        ]
        assert torch.equal(torch.cat(parts), whole)
        assert not torch.equal(runtime.sample_rows(lambda n: torch.randn(n, 2), 9, seed=4, device=CPU), whole[:9])


class TestState:
    def test_seeded_repeats_and_restores(self) -> None:
        before = torch.get_rng_state()
        with runtime.seeded(1, 2):
            a = torch.randn(3)
        with runtime.seeded(1, 2):
            b = torch.randn(3)
        with runtime.seeded(2, 1):
            c = torch.randn(3)
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert torch.equal(torch.get_rng_state(), before)

    def test_threads_and_compiling_restore_after_errors(self) -> None:
        count = torch.get_num_threads()
        inside = []

        def fail() -> None:
            with runtime.threads(count + 1), runtime.compiling(True):
                inside.extend([torch.get_num_threads(), runtime.compile_requested()])
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert inside == [count + 1, True]
        assert torch.get_num_threads() == count
        assert not runtime.compile_requested()

    def test_devices(self) -> None:
        assert runtime.resolve_device("cpu") == CPU
        assert runtime.resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
        with pytest.raises(ValueError, match="device='gpu' is not available"):
            runtime.resolve_device("gpu")
