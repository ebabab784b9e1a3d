"""Files in, scores out: a chunk at a time, so that files may be larger than memory."""

from anomgen.batch.errors import Interrupted, ModelMismatch, TooManyBadRows
from anomgen.batch.evaluation import evaluate
from anomgen.batch.job import score_files
from anomgen.batch.part import QUARANTINE
from anomgen.batch.rows import read_training_rows, write_rows
from anomgen.batch.schema import SchemaError
from anomgen.batch.summary import ScoredFile, Summary

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
    "write_rows",
]
