"""Where and how arithmetic runs: devices, threads, seeds, and rows mapped in tiles of one fixed height."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

TILE_WORK = 1e8
"""Multiplications in a tile on a CPU: small networks take higher tiles, which hides the cost of many calls."""
IMAGE_TILE = 32
"""Rows a tile at least where networks convolve: their activations, not their weights, have to fit the cache."""
GPU_TILE = 8192
SAMPLE_TILE, IMAGE_SAMPLE_TILE = 1024, 128
"""Rows, and images, that are drawn at a time."""

_compile_requested = False
_generators = threading.RLock()


def resolve_device(device: str) -> torch.device:
    """Turn ``"auto"`` into the best device present and check any other name.

    Raises
    ------
    ValueError
        If the device does not exist on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device!r} is not available here ({error}); use device='auto' or 'cpu'") from None
    return resolved


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Run a block with `n` intra-op threads and restore the count found."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(*seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Run a block with torch's generators seeded by a tuple of numbers; the caller's random state is left as found.

    Torch's generators belong to the process: of several threads one at a time is inside, so that each gets the numbers
    that its seed gives.
    """
    mixed = int(np.random.SeedSequence([part & 0xFFFFFFFF for part in seed]).generate_state(2, np.uint64)[0])
    cuda = [device] if device is not None and device.type == "cuda" else []
    with _generators, torch.random.fork_rng(devices=cuda):
        torch.manual_seed(mixed) if cuda else torch.default_generator.manual_seed(mixed)
        yield


@contextmanager
def compiling(requested: bool) -> Iterator[None]:
    """Let the heavy pointwise kernels inside the block be compiled, where a compiler is found."""
    global _compile_requested
    before, _compile_requested = _compile_requested, requested
    try:
        yield
    finally:
        _compile_requested = before


def compile_requested() -> bool:
    """Whether the current block asked for compiled kernels."""
    return _compile_requested


def map_rows(
    function: Callable[..., Tensor],
    columns: Sequence[Tensor],
    *,
    device: torch.device,
    height: int,
    gradient: bool = False,
) -> np.ndarray:
    """Apply `function` to rows in tiles of one constant height, so that a row's result never depends on its batch.

    Parameters
    ----------
    function : callable
        Takes one tensor for each of `columns`, each of the tile's height, and returns one value or vector a row.
    columns : sequence of Tensor
        CPU tensors sharing their first dimension.
    device : torch.device
        Where `function` lives.
    height : int
        Rows a tile; a power of two, always the same for one model: see :func:`tile_height`.
    gradient : bool
        Whether `function` needs autograd; otherwise inference mode is on.

    Returns
    -------
    ndarray of shape (n, ...)

    Notes
    -----
    The last tile is padded with copies of its first row. Each tile runs with one intra-op thread (threads that split a
    tile give a row bits that depend on its position); the caller's threads work on different tiles instead.
    """
    n = len(columns[0])
    on_cpu = device.type == "cpu"
    workers = torch.get_num_threads() if on_cpu else 1

    def some(starts: Sequence[int]) -> list[Tensor]:
        with torch.inference_mode(not gradient):
            return [function(*(_tile(c, start, height).to(device) for c in columns)).detach() for start in starts]

    with threads(1 if on_cpu else torch.get_num_threads()):
        # Every worker takes consecutive tiles, so that it enters inference mode and wakes up only once.
        shares = np.array_split(np.arange(0, max(n, 1), height), workers)
        if workers == 1 or len(shares[1]) == 0:
            done = [some(shares[0].tolist())]
        else:
            with ThreadPoolExecutor(workers) as pool:
                done = list(pool.map(some, [share.tolist() for share in shares]))
    return np.asarray(torch.cat([tile for tiles in done for tile in tiles])[:n].cpu().numpy())


def tile_height(parameters: int, device: torch.device, work: int = 0) -> int:
    """Rows a tile for a model of so many parameters: a power of two from 256 to 2,048 on a CPU, 8,192 on a GPU.

    Where networks convolve, `work` is their multiplications a row, and tiles have at least 32 rows, 512 on a GPU.
    """
    if device.type != "cpu":
        return GPU_TILE // 16 if work else GPU_TILE
    height = 2 ** math.floor(math.log2(TILE_WORK / max(parameters, work, 1)))
    return int(np.clip(height, IMAGE_TILE if work else 256, 2048))


def _tile(column: Tensor, start: int, height: int) -> Tensor:
    part = column[start : start + height]
    short = height - len(part)
    if short == 0:
        return part
    filler = part[:1] if len(part) else part.new_zeros((1, *part.shape[1:]))
    return torch.cat([part, filler.expand(short, *part.shape[1:])])


def sample_rows(
    sample: Callable[..., Tensor],
    n: int,
    *,
    seed: int | tuple[int, ...],
    device: torch.device,
    start: int = 0,
    given: Tensor | None = None,
    height: int = SAMPLE_TILE,
) -> Tensor:
    """Rows ``start .. start + n`` of the endless sequence that `seed` defines, drawn in tiles of `height`.

    Every tile is seeded by ``(*seed, tile number)``, so any way of cutting the sequence gives the same rows. Where
    conditions are `given`, one for each of the `n` rows, `sample` gets those of its tile as a second argument.
    """
    first, last = start // height, -(-(start + n) // height)
    tiles, parts = [], (seed,) if isinstance(seed, int) else seed
    if given is not None:
        before = given[:1].expand(start - first * height, -1)
        given = torch.cat([before, given])
    with threads(1), torch.no_grad():
        for number in range(first, max(last, first + 1)):
            some = () if given is None else (_tile(given, (number - first) * height, height).to(device),)
            with seeded(*parts, number, device=device):
                tiles.append(sample(height, *some).cpu())
    return torch.cat(tiles)[start - first * height :][:n]
