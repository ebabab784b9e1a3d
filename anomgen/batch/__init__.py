"""Files in, scores out: a chunk at a time, so that files may be larger than memory."""

from anomgen.batch.errors import TooManyBadRows
from anomgen.batch.evaluation import evaluate
from anomgen.batch.job import score_files
from anomgen.batch.part import QUARANTINE
from anomgen.batch.rows import read_training_rows
from anomgen.batch.summary import ScoredFile, Summary
from anomgen.jobs.errors import Interrupted, ModelMismatch, SchemaError

__all__ = [
    "QUARANTINE",
    "Interrupted",
    "ModelMismatch",
    "SchemaError",
    "ScoredFile",
    "Summary",
    "TooManyBadRows",
    "evaluate",
    "read_training_rows",
    "score_files",
]
