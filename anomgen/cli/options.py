"""What the options of several commands share."""

from __future__ import annotations

from typing import Literal

from cyclopts import Parameter, validators

Flags = Parameter(negative="")
Mode = Literal["L", "RGB"] | None
AT_LEAST_ONE = validators.Number(gte=1)
NOT_NEGATIVE = validators.Number(gte=0)
FRACTION = validators.Number(gte=0, lte=1)
SHARE = validators.Number(gt=0, lt=1)
