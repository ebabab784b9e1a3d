"""Which rows are normal, by their label."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_normal(labels: Any, normal: Any) -> NDArray[np.bool_]:
    """Which labels equal `normal`, as text or as numbers: ``"0"`` equals ``0``, ``0.0`` and ``False``."""
    import pandas as pd

    texts = pd.Series(labels).astype(object).map(_text)
    wanted = {"true": "1", "false": "0"}.get(_text(normal).lower(), _text(normal))
    number = pd.to_numeric(wanted, errors="coerce")
    return np.asarray((texts == _text(normal)) | (pd.to_numeric(texts, errors="coerce") == number), dtype=bool)


def none_normal(labels: Any, label: str, normal: Any) -> ValueError:
    """What to raise where no row has the label asked for."""
    import pandas as pd

    found = ", ".join(map(str, pd.unique(pd.Series(labels)).tolist()[:10]))
    return ValueError(f"no row has {normal} in {label!r}, which holds {found}")


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool | np.bool_) else str(value).strip()
