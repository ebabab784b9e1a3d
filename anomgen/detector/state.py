"""A fitted detector as JSON values and arrays, and back."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from torch import nn

from anomgen import runtime
from anomgen.drift import Reference
from anomgen.encode import Marginals, encoder_from_state
from anomgen.generative import GenerativeModel, Space
from anomgen.persist import FormatError
from anomgen.statistic import Statistic, make_statistic

OPTIONAL = ("map_quantiles", "calibration", "row_sketch", "usual_nats")
"""Arrays that not every detector has."""
NOT_SAVED = ("callbacks", "verbose", "random_state")
"""Parameters of a session, not of a model; the seed that `random_state` came down to is saved instead."""


def to_config(detector: Any, name: str, statistic: str) -> dict[str, Any]:
    """Everything of a fitted detector but its arrays, as JSON values."""
    return {
        "class": name,
        "params": {
            key: _to_json(key, value) for key, value in detector.get_params(deep=False).items() if key not in NOT_SAVED
        },
        "statistic": {"class": statistic, "options": detector.statistic_.get_options()},
        "offset": detector.offset_,
        "seed": detector.seed_,
        "n_features_in": int(detector.n_features_in_),
        "feature_names_in": [str(name) for name in getattr(detector, "feature_names_in_", [])] or None,
        "encoder": detector.encoder_.state(),
        "history": detector.history_,
        "n_epochs": detector.n_epochs_,
        "best_epoch": detector.best_epoch_,
        "converged": detector.converged_,
        "folds": [_fold_config(fold) for fold in getattr(detector, "folds_", ())],
        "data_digest": detector.data_digest_,
        "versions": versions(),
    }


def to_arrays(detector: Any) -> dict[str, NDArray[Any]]:
    """Every array of a fitted detector by name."""
    arrays = {f"model.{key}": value for key, value in module_arrays(detector.model_).items()}
    arrays |= {f"statistic.{key}": value for key, value in module_arrays(detector.statistic_).items()}
    arrays |= {key: getattr(detector, f"{key}_") for key in OPTIONAL if hasattr(detector, f"{key}_")}
    if hasattr(detector, "reference_"):
        arrays |= {f"reference.{key}": value for key, value in detector.reference_.arrays().items()}
    if hasattr(detector, "marginals_"):
        arrays |= {f"marginals.{key}": value for key, value in detector.marginals_.arrays().items()}
    for number, fold in enumerate(getattr(detector, "folds_", ())):
        arrays |= {f"folds.{number}.{key}": value for key, value in to_arrays(fold).items()}
    return arrays | {"score_quantiles": detector.score_quantiles_}


def restore(detector: Any, config: dict[str, Any], arrays: dict[str, NDArray[Any]], statistic: Statistic) -> Any:
    """Make an unfitted `detector` the fitted one that `config` and `arrays` describe.

    Raises
    ------
    FormatError
        If names, shapes or types do not match what the class builds.
    """
    detector.encoder_ = encoder_from_state(config["encoder"])
    detector.seed_, detector.offset_ = config["seed"], config["offset"]
    detector.n_features_in_ = config["n_features_in"]
    if config["feature_names_in"]:
        detector.feature_names_in_ = np.array(config["feature_names_in"], dtype=object)
    for key in ("history", "n_epochs", "best_epoch", "data_digest"):
        setattr(detector, f"{key}_", config[key])
    detector.converged_ = config.get("converged", True)
    detector.score_quantiles_ = arrays["score_quantiles"]
    for key in OPTIONAL:
        if key in arrays:
            setattr(detector, f"{key}_", arrays[key])
    _name_statistic(detector, statistic)
    reference = _below(arrays, "reference.")
    if reference:
        detector.reference_ = Reference.from_arrays(detector.encoder_, reference)
    marginals = _below(arrays, "marginals.")
    if marginals:
        detector.marginals_ = Marginals.from_arrays(detector.encoder_, marginals)
    if "calibration" in arrays:
        folds = enumerate(config.get("folds", ()))
        detector.folds_ = tuple(
            _restore_fold(detector, fold, _below(arrays, f"folds.{number}."), type(statistic)) for number, fold in folds
        )
    detector.model_ = build_model(detector)
    detector.statistic_ = statistic
    if statistic.paired:
        statistic.attach(build_model(detector))
    for prefix, module in (("model.", detector.model_), ("statistic.", statistic)):
        load_arrays(module, _below(arrays, prefix))
    return detector


def identity(detector: Any) -> dict[str, str]:
    """What tells a fitted model from others: its class, its sha256 and that of its training rows."""
    return {"class": type(detector).__name__, "sha256": digest_of(detector), "data_digest": detector.data_digest_}


def digest_of(detector: Any) -> str:
    """The sha256 of a fitted model: of its arrays and its configuration, wherever it came from or runs.

    The same before it is saved and after it is loaded. Versions, device and the history of the fit, which tells
    times, are not part of it.
    """
    config = to_config(detector, type(detector).__name__, type(detector.statistic_).__name__)
    del config["versions"], config["history"]
    config["params"].pop("device", None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, array in sorted(to_arrays(detector).items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _name_statistic(detector: Any, statistic: Statistic) -> None:
    """Make the parameter say what scores rows, where it was no name: copies and further fits go by it."""
    if detector.statistic == "auto":
        usual = make_statistic("auto", detector.usual_statistic())
        if type(usual) is not type(statistic) or usual.get_options() != statistic.get_options():
            detector.statistic = type(statistic)(**statistic.get_options())


def _fold_config(fold: Any) -> dict[str, Any]:
    """What a detector of a fold has of its own: parameters, class and versions are those of the whole."""
    config = to_config(fold, "", type(fold.statistic_).__name__)
    return {key: value for key, value in config.items() if key not in ("class", "params", "versions", "folds")}


def _restore_fold(
    detector: Any, config: dict[str, Any], arrays: dict[str, NDArray[Any]], scored_by: type[Statistic]
) -> Any:
    if "calibration" not in arrays:
        raise FormatError("a detector of a fold has no calibration scores")
    return restore(clone(detector), config, arrays, scored_by(**config["statistic"]["options"]))


def _below(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def build_model(detector: Any) -> GenerativeModel:
    """The model as it was before training, in evaluation mode."""
    with runtime.seeded(detector.seed_):
        model: GenerativeModel = detector.build(Space(**detector.encoder_.layout()))
    return model.eval()


def module_arrays(module: nn.Module) -> dict[str, NDArray[Any]]:
    """Parameters and buffers of a module as numpy arrays on the CPU."""
    return {key: value.detach().cpu().numpy().copy() for key, value in module.state_dict().items()}


def load_arrays(module: nn.Module, arrays: dict[str, NDArray[Any]]) -> None:
    """Put arrays into a module of the same layout; buffers in ``sized_by_data`` take the shape of theirs.

    Raises
    ------
    FormatError
        Naming what is missing, unknown, or of another shape or type.
    """
    for key in getattr(module, "sized_by_data", ()):
        buffer = module.get_buffer(key)
        if key in arrays and arrays[key].ndim == buffer.ndim:
            owner, _, name = key.rpartition(".")
            setattr(module.get_submodule(owner), name, buffer.new_zeros(arrays[key].shape))
    expected = module.state_dict()
    wrong = sorted(set(expected) ^ set(arrays)) or [
        f"{key}: {arrays[key].dtype}{list(arrays[key].shape)} instead of {value.dtype}{list(value.shape)}"
        for key, value in expected.items()
        if tuple(value.shape) != arrays[key].shape or value.cpu().numpy().dtype != arrays[key].dtype
    ]
    if wrong:
        raise FormatError(f"the saved arrays do not fit {type(module).__name__}: {'; '.join(wrong[:5])}")
    # A copy: memory-mapped pickles and files give read-only arrays.
    module.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in arrays.items()})


def versions() -> dict[str, str]:
    """Versions of what computes scores."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("anomgen", "torch", "numpy", "scikit-learn", "pandas", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def card(detector: Any, title: str) -> str:
    """The model card: what it is, what it learned from, what columns were taken for."""
    last = detector.history_[-1] if detector.history_ else {}
    name = next((n for n in ("held_out_nats", "train_nats", "held_out_loss", "train_loss") if n in last), None)
    measured = f"{name.replace('_', ' ')} {last[name]:.4f} a row" if name else "nothing measured"
    rows = "\n".join(
        f"| {row['column']} | {row['kind']} | {row['missing']:.1%} | {row['reason']} |" for row in detector.describe()
    )
    return f"""# {title}

An anomaly detector saved by anomgen {versions()["anomgen"]}. `anomgen.load(path)` loads it; nothing here is executed.

- Statistic: {type(detector.statistic_).__name__}; rows that score below {detector.offset_:.6g} are flagged.
- At the last check: {measured}, epoch {detector.n_epochs_} (kept: {detector.best_epoch_}).
- {_calibrated(detector)}
- Training rows: sha256 `{detector.data_digest_}`.
- The folder holds {_held_rows(detector)}levels, ranges and quantiles of columns.

| column | kind | missing | why |
|---|---|---|---|
{rows}
"""


def _calibrated(detector: Any) -> str:
    if not hasattr(detector, "calibration_"):
        return "Not calibrated: there are no p-values."
    by = f" by {len(detector.folds_)} models of {len(detector.folds_)} folds" if detector.folds_ else ""
    return f"Calibrated on {len(detector.calibration_):,} normal rows{by}."


def _held_rows(detector: Any) -> str:
    """What of the training rows the arrays hold."""
    sized = [
        f"`{prefix}{key}` ({module.get_buffer(key).shape[0]:,} entries)"
        for prefix, module in (("model.", detector.model_), ("statistic.", detector.statistic_))
        for key in module.sized_by_data
    ]
    if not sized:
        return "no training rows, but "
    return f"arrays as long as the training rows asked for, which may be such rows ({', '.join(sized)}), and "


def _to_json(key: str, value: Any) -> Any:
    if isinstance(value, Statistic):
        return "auto"
    if key == "kinds" and value is not None:
        return [[column, kind] for column, kind in value.items()]
    if isinstance(value, tuple | list):
        return [_to_json("", item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def from_json(key: str, value: Any) -> Any:
    """A parameter from its JSON value."""
    if key == "kinds" and value is not None:
        return dict(value)
    return tuple(from_json("", item) for item in value) if isinstance(value, list) else value
