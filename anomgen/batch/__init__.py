"""Files in, scores out: a chunk at a time, so that files may be larger than memory."""

from anomgen.batch.errors import Interrupted, ModelMismatch, TooManyBadRows
from anomgen.batch.job import QUARANTINE, ScoredFile, Summary, evaluate, score_files
from anomgen.batch.rows import read_training_rows, write_rows
from anomgen.batch.schema import SchemaError

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
