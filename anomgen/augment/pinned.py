"""Rows with some columns given, from models that draw the others to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from anomgen import runtime
from anomgen.augment.columns import Columns, stored, wanted_level, wanted_number
from anomgen.detector import Detector, fitting
from anomgen.encode.frame import Name
from anomgen.generative import Space, abilities
from anomgen.train.tensors import Batches


class Pinned:
    """Draw the columns of a table given the values of some, by the model's ``sample_given``.

    Parameters
    ----------
    detector : Detector
        Fitted to a table without conditions; its model has ``sample_given``.
    values : mapping of column to value
        Levels, numbers or dates, the same for all rows.

    Raises
    ------
    ValueError
        If the model cannot do that, for a column that does not exist, or a level that training did not have.
    """

    def __init__(self, detector: Detector, values: Mapping[Any, Any]) -> None:
        columns, model = Columns(detector), detector.model_
        if "sample_given" not in abilities(model):
            raise ValueError(
                f"condition={dict(values)!r}: {type(detector).__name__} was fitted without condition= and cannot draw "
                "columns given others; keep the rows wanted by Levels or Range, or fit with condition="
            )
        self.detector = detector
        row, self._numbers = detector.sample(1, (0,)), dict[Name, float]()
        self.names: list[Name] = []
        for given, value in values.items():
            name = columns.find(given)
            if columns.role(name) == "category" or columns.known[name].kind == "constant":
                row[name] = pd.Series([_level(columns, name, value)], dtype=row[name].dtype)
            else:
                number = wanted_number(_level(columns, name, value), columns.dtypes[name], name)
                if number is None:
                    raise ValueError(f"condition {name!r} has no value")
                self._numbers[name] = number
                row = stored(row, name, np.array([number]))
            self.names.append(name)
        encoder: Any = detector.encoder_
        self._device = fitting.device_of(model)
        encoded = encoder.encode(row, cells=True, codes=model.codes)
        self._row = Batches(encoded, Space(**encoder.layout()), 0.0, self._device, model.codes)
        own = [encoder.columns_[j].name in self.names for j, _ in encoder.coordinates_]
        self._observed = torch.tensor(own, device=self._device)

    def sample(self, n: int, seed: tuple[int, ...], start: int = 0) -> Any:
        """Rows ``start .. start + n`` of the endless sequence that `seed` defines."""
        model = self.detector.model_
        height = fitting.drawing_height(model)
        z = runtime.sample_rows(self._tile, n, seed=seed, device=self._device, start=start, height=height)
        rows = self.detector.encoder_.decode(z.numpy(), model.codes)
        for name, value in self._numbers.items():
            rows = stored(rows, name, np.full(n, value))
        return rows

    def _tile(self, n: int) -> Tensor:
        model: Any = self.detector.model_
        z = self._row.draw(torch.zeros(n, dtype=torch.int64, device=self._device), blurred=False)
        drawn: Tensor = model.sample_given(z, self._observed.expand(n, -1))
        return drawn


def _level(columns: Columns, name: Name, value: Any) -> Any:
    """A value as the column holds it where it has levels; other values as they are."""
    column, role = columns.known[name], columns.role(name)
    return wanted_level(value, role, column) if column.is_cell or role == "category" else value
