"""Where rows come from: data set cards, a seeded payments table, and files read in chunks."""

from __future__ import annotations

from anomgen.data.catalog import (
    Card,
    ChecksumError,
    Dataset,
    DatasetNotFound,
    cards,
    content_sha256,
    load_dataset,
    read_card,
)
from anomgen.data.payments import make_payments
from anomgen.data.sources import Source, open_source, read_label, read_table

__all__ = [
    "Card",
    "ChecksumError",
    "Dataset",
    "DatasetNotFound",
    "Source",
    "cards",
    "content_sha256",
    "load_dataset",
    "make_payments",
    "open_source",
    "read_card",
    "read_label",
    "read_table",
]
