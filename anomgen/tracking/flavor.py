"""Detectors as MLflow models: the folder that `Detector.save` writes, with a signature and requirements, no pickle."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from anomgen import calibrate
from anomgen.detector import Detector
from anomgen.encode import image_encoder
from anomgen.families import load
from anomgen.persist import FormatError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.models.model import Model, ModelInfo
    from numpy.typing import NDArray

FLAVOR = "anomgen"
LOADER = "anomgen.tracking"
"""The module that MLflow imports to load a model. Logged models name it: it can never move."""
REQUIREMENTS = ("anomgen", "numpy", "pandas", "scikit-learn", "scipy", "safetensors", "torch")
"""Packages whose installed versions a logged model asks for, besides MLflow's own."""


def log_model(
    detector: Detector,
    name: str = "model",
    *,
    registered_model_name: str | None = None,
    alias: str | None = None,
    input_example: Any = None,
    pip_requirements: list[str] | None = None,
    metadata: dict[str, Any] | None = None,
    step: int = 0,
) -> ModelInfo:
    """Log a fitted detector as an MLflow model, to the active run if there is one.

    Parameters
    ----------
    detector : Detector
    name : str, default="model"
    registered_model_name : str, optional
        Register a new version under this name.
    alias : str, optional
        Let this alias of the registered model, such as ``"champion"``, point at the new version.
    input_example, pip_requirements, metadata
        As in :func:`save_model`.
    step : int, default=0
        Training step that the model is of: the run's metrics at this step are linked with it.

    Returns
    -------
    mlflow.models.model.ModelInfo
        Its `model_uri` is what :func:`load_model` takes.

    Raises
    ------
    ValueError
        If an alias is given without a registered name.
    """
    import mlflow
    from mlflow.models.model import Model

    if alias is not None and registered_model_name is None:
        raise ValueError(f"alias={alias!r} needs registered_model_name=: an alias points at a version in the registry")
    info: ModelInfo = Model.log(
        artifact_path=None,
        name=name,
        flavor=sys.modules[__name__],
        flavor_name=FLAVOR,
        registered_model_name=registered_model_name,
        metadata=metadata,
        step=step,
        detector=detector,
        input_example=input_example,
        pip_requirements=pip_requirements,
    )
    if alias is not None:
        version = str(info.registered_model_version)
        mlflow.MlflowClient().set_registered_model_alias(str(registered_model_name), alias, version)
    return info


def save_model(
    detector: Detector,
    path: str | Path,
    *,
    mlflow_model: Model | None = None,
    signature: ModelSignature | None = None,
    input_example: Any = None,
    pip_requirements: list[str] | None = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Save a fitted detector as a local MLflow model, without pickle: the folder of `Detector.save`, described.

    Parameters
    ----------
    detector : Detector
    path : path
        A folder that does not exist.
    mlflow_model : mlflow.models.Model, optional
        A description to complete; :func:`log_model` passes one.
    signature : ModelSignature, optional
        By default made from the columns of the training rows, see :func:`signature_of`.
    input_example : frame or array, optional
        Rows to store with the model as an example of its input.
    pip_requirements : list of str, optional
        By default the installed versions of what computes scores.
    metadata : dict, optional
        More entries of the model's description.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    described = Model() if mlflow_model is None else mlflow_model
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # The signature comes from the encoder: it needs no example to be right.
        warnings.filterwarnings("ignore", ".*An input example was not provided", UserWarning)
        saved = Path(folder) / "detector"
        detector.save(saved)
        described.add_flavor(FLAVOR, data=f"data/{saved.name}", class_name=type(detector).__name__)
        mlflow.pyfunc.save_model(
            path=str(path),
            loader_module=LOADER,
            data_path=str(saved),
            mlflow_model=described,
            signature=signature or signature_of(detector),
            input_example=input_example,
            pip_requirements=pip_requirements or _requirements(),
            metadata=metadata,
        )


def load_model(model_uri: str) -> Detector:
    """Load a detector from a logged, registered or local MLflow model.

    Parameters
    ----------
    model_uri : str
        Such as ``models:/name@champion``, ``models:/name/1``, ``runs:/<run id>/model`` or a path.

    Raises
    ------
    FormatError
        If it is a model of another flavor, or damaged.
    """
    import mlflow.artifacts
    from mlflow.models import Model

    with TemporaryDirectory() as folder:
        local = mlflow.artifacts.download_artifacts(artifact_uri=str(model_uri), dst_path=folder)
        flavors = Model.load(local).flavors
        if FLAVOR not in flavors:
            raise FormatError(f"{model_uri} is a model of {', '.join(flavors)}, not of anomgen")
        return load(Path(local) / flavors[FLAVOR]["data"])


def signature_of(detector: Detector) -> ModelSignature:
    """The columns that a fitted detector takes, and those that its MLflow model returns.

    Floating-point columns are doubles, text is string, dates without a time zone are datetime. Every other column may
    hold anything, because MLflow would refuse harmless variants of it (whole numbers for an integer column with a
    missing value, levels that arrive as text): the detector checks it itself. Images are a tensor of the training
    images' type and shape.

    Returned are ``score``, ``p_value`` if the detector is calibrated, and ``is_anomaly``.
    """
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    encoder = detector.encoder_
    images = image_encoder(encoder)
    columns: list[ColSpec | TensorSpec]
    if images is not None:
        columns = [TensorSpec(np.dtype(images.dtype_), (-1, *images.given_))]
    else:
        named = encoder.container_ == "frame"
        columns = [
            ColSpec(_column_type(dtype), str(name) if named else None)
            for name, dtype in zip(encoder.names_, encoder.dtypes_, strict=True)
        ]
    numbers = ("score", "p_value") if _is_calibrated(detector) else ("score",)
    results: list[ColSpec | TensorSpec] = [ColSpec("double", name) for name in numbers]
    results.append(ColSpec("boolean", "is_anomaly"))
    return ModelSignature(Schema(columns), Schema(results))


class Scorer:
    """What ``mlflow.pyfunc``, ``mlflow models serve`` and Spark hold: rows in, scores and decisions out."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector

    def predict(self, rows: pd.DataFrame | NDArray[np.float64], params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score rows.

        Returns
        -------
        DataFrame
            ``score`` in nats, the higher, the more normal; ``p_value``, the share of normal rows that score as low,
            if the detector was calibrated before it was saved; and ``is_anomaly``, what the threshold says.
        """
        import numpy as np
        import pandas as pd

        encoder = self.detector.encoder_
        if encoder.container_ == "array":
            rows = np.asarray(rows, dtype=np.float64)
        elif isinstance(rows, pd.DataFrame):
            # MLflow names columns by text only.
            rows = rows.rename(columns={str(name): name for name in encoder.names_})
        columns = {"score": self.detector.score_samples(rows)}
        if _is_calibrated(self.detector):
            levels = calibrate.levels(len(self.detector.calibration_))
            columns["p_value"] = levels[self.detector.ranks(rows, scores=columns["score"])]
        return pd.DataFrame({**columns, "is_anomaly": columns["score"] < self.detector.offset_})


def _load_pyfunc(path: str) -> Scorer:
    """What MLflow calls to load the python_function flavor."""
    return Scorer(load(path))


def _is_calibrated(detector: Detector) -> bool:
    return hasattr(detector, "calibration_")


def _column_type(dtype: Any) -> Any:
    from mlflow.types import DataType
    from mlflow.types.schema import AnyType

    if dtype.role == "number" and dtype.text.startswith(("float", "double")):
        return DataType.double
    if dtype.role == "category" and dtype.text in ("str", "string", "object"):
        return DataType.string
    if dtype.role == "datetime" and dtype.text.startswith("datetime64") and dtype.zone is None:
        return DataType.datetime
    return AnyType()


def _requirements() -> list[str]:
    from importlib.metadata import version

    # An index has no local versions such as 2.13.0+cpu.
    return [f"{package}=={version(package).split('+')[0]}" for package in REQUIREMENTS]
