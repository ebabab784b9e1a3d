"""MLflow: fits, jobs and exports as runs, detectors as models. The one place that names mlflow, imported when used."""

from anomgen.tracking.exports import log_export
from anomgen.tracking.flavor import Scorer, load_model, log_model, save_model, signature_of
from anomgen.tracking.flavor import _load_pyfunc as _load_pyfunc
from anomgen.tracking.jobs import log_job
from anomgen.tracking.runs import MLflowCallback, autolog

__all__ = [
    "MLflowCallback",
    "Scorer",
    "autolog",
    "load_model",
    "log_export",
    "log_job",
    "log_model",
    "save_model",
    "signature_of",
]
