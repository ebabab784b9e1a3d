"""What partial_fit remembers."""

from __future__ import annotations

import numpy as np
import pytest

from anomgen.detector import stream
from anomgen.detector.stream import Stream
from anomgen.encode import Encoded


def rows(start: int, stop: int) -> Encoded:
    z = np.arange(start, stop, dtype=np.float32)[:, None]
    return Encoded(z, np.zeros(len(z)), z, z)


def test_the_reservoir_is_a_uniform_sample_of_all_rows_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "RESERVOIR", 50)
    kept = []
    for seed in range(60):
        memory = Stream(seed)
        for start in range(0, 1000, 70):
            memory.keep(rows(start, min(start + 70, 1000)))
        assert memory.reservoir is not None
        values = memory.reservoir.z[:, 0]
        assert len(np.unique(values)) == 50
        kept.append(values)
    counts = np.histogram(np.concatenate(kept), bins=5, range=(0, 1000))[0]
    assert counts == pytest.approx(np.full(5, 600), abs=90)


def test_a_tenth_is_held_out_however_small_the_pieces() -> None:
    memory = Stream(0)
    held = sum(len(memory.split(3)[1]) for _ in range(2000))
    assert held == pytest.approx(600, abs=80)
    assert [len(part) for part in memory.split(1)] == [1, 0]
    train, out = memory.split(100)
    assert sorted([*train, *out]) == list(range(100))
