"""The families of detectors: a file or package each, found here, in a closed registry that names are looked up in."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any

from anomgen import persist, runtime
from anomgen.detector import Detector
from anomgen.detector.state import from_json, restore
from anomgen.statistic import STATISTICS, Statistic, statistic_class

_registered: dict[str, type[Detector]] = {}


@cache
def _own() -> dict[str, type[Detector]]:
    found: dict[str, type[Detector]] = {}
    for file in iter_modules(__path__):
        module = import_module(f"{__name__}.{file.name}")
        for value in vars(module).values():
            if not (isinstance(value, type) and issubclass(value, Detector)):
                continue
            # A family may be a package; what it only imports is not its own.
            if f"{value.__module__}.".startswith(f"{module.__name__}."):
                found[value.__name__] = value
    return found


def all_detectors() -> dict[str, type[Detector]]:
    """Every detector class by name: those of this package, and those registered."""
    return {**_own(), **_registered}


def names() -> list[str]:
    """Names of the families as the command line has them: ``FlowDetector`` is ``"flow"``."""
    return sorted(name.removesuffix("Detector").lower() for name in all_detectors())


def get(name: str) -> type[Detector]:
    """The detector class of a family.

    Raises
    ------
    ValueError
        For an unknown name, listing the known ones.
    """
    for known, found in all_detectors().items():
        if name in (known, known.removesuffix("Detector").lower()):
            return found
    raise ValueError(f"no family is called {name!r}; choose from {', '.join(names())}")


def register(member: Any) -> Any:
    """Let saved models of a detector or statistic from outside the package be loaded. Usable as a decorator.

    A file never decides what code is imported: only what is registered here, or ships with the package, is looked up.

    Raises
    ------
    TypeError
        For anything else than a subclass of Detector or Statistic.
    ValueError
        If the name is taken by another class.
    """
    if isinstance(member, type) and issubclass(member, Statistic):
        registry: dict[str, Any] = STATISTICS
        name = member.__name__.lower()
    elif isinstance(member, type) and issubclass(member, Detector):
        registry, name = _registered, member.__name__
        if name in _own() and _own()[name] is not member:
            raise ValueError(f"{name} is the name of a detector of anomgen; choose another")
    else:
        raise TypeError(f"register takes a subclass of Detector or Statistic, not {member!r}")
    if registry.get(name, member) is not member:
        raise ValueError(f"another class named {member.__name__} is registered already")
    registry[name] = member
    return member


def register_entry_points() -> list[str]:
    """Register what installed packages offer under the entry point group ``anomgen.families``; returns their names."""
    found = entry_points(group="anomgen.families")
    return [register(point.load()).__name__ for point in found]


def load(path: str | os.PathLike[str], *, device: str = "auto") -> Detector:
    """Load a detector saved by :meth:`Detector.save`, on any machine.

    Parameters
    ----------
    path : path
    device : str, default="auto"
        Where to put the model, whatever it was trained on.

    Returns
    -------
    Detector
        Fitted; its scores are bit-equal to those before saving under equal settings.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    FormatError
        If a byte changed, a file is missing, or the folder is not a saved model.
    """
    config, arrays = persist.read_folder(path)
    try:
        known = all_detectors()
        if config["class"] not in known:
            raise persist.FormatError(
                f"{path} holds a {config['class']}, which is not registered; call anomgen.register on it first"
            )
        chosen = statistic_class(config["statistic"]["class"])
        if chosen is None:
            raise persist.FormatError(f"{path} is scored by {config['statistic']['class']}, which is not registered")
        statistic = chosen(**config["statistic"]["options"])
        params = {key: from_json(key, value) for key, value in config["params"].items()}
        detector = known[config["class"]](**params, random_state=config["seed"])
        restore(detector, config, arrays, statistic)
    except (KeyError, TypeError, AttributeError) as error:
        raise persist.FormatError(
            f"{path} is not a model this version can read: {type(error).__name__}: {error}"
        ) from error
    where = runtime.resolve_device(device)
    for each in (detector, *getattr(detector, "folds_", ())):
        each.model_.to(where)
        each.statistic_.to(where)
    return detector


__all__ = ["all_detectors", "get", "load", "names", "register", "register_entry_points"]
