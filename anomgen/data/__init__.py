"""Where rows come from: data set cards, a seeded payments table, files read in chunks, and folders of images."""

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
from anomgen.data.images import BadFile, ImageFolder
from anomgen.data.passing import FileRows
from anomgen.data.payments import make_payments
from anomgen.data.pixels import BadImage
from anomgen.data.sources import Source, open_source, read_label, read_table

__all__ = [
    "BadFile",
    "BadImage",
    "Card",
    "ChecksumError",
    "Dataset",
    "DatasetNotFound",
    "FileRows",
    "ImageFolder",
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
