"""Damaged files by a seed: tables and arrays with bad cells, rows, columns, encodings and ends.

A test and a benchmark write such files, have them scored with bad rows left out, and ask :func:`complaint` whether
every row was scored as an undamaged one, or named as bad; a file that nothing can be made of has to be refused by name.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

NUMBERS = ["amount", "length", "visits"]
HUGE = "z" * ((1 << 20) + 1)
ROWS = (3, 60)


@dataclass(frozen=True)
class Malformed:
    """A file and what is known of its rows, which are numbered from 0.

    Parameters
    ----------
    path : Path
    kind : str
        What was done to it.
    array : bool
        Whether it holds the columns :data:`NUMBERS` as an array, not a table.
    clean : frame
        The rows as they were.
    good, bad : frozenset of int
        Rows that must have the score of the clean row, and those that must not have any. Others may have one or not:
        their values have changed, or are out of reach.
    refused : bool
        Whether the whole file must be refused.
    """

    path: Path
    kind: str
    array: bool
    clean: pd.DataFrame
    good: frozenset[int]
    bad: frozenset[int]
    refused: bool


def clean_rows(n: int, seed: int = 0) -> pd.DataFrame:
    """Rows of every kind of column, for a detector to be fitted on."""
    rng = np.random.default_rng(seed)
    length = rng.normal(170, 8, n)
    return pd.DataFrame(
        {
            "amount": np.round(np.exp(rng.normal(3, 1.5, n)), 2),
            "length": length,
            "visits": rng.poisson(3, n).astype(float),
            "member": rng.random(n) < 0.3,
            "city": rng.choice(["Ghent", "Lyon", "007"], n),
            "seen": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 10**6, n), unit="s"),
        }
    )


def malformed(seed: int, folder: Path) -> Malformed:
    """Write the damaged file of a seed into a folder."""
    rng = np.random.default_rng(seed)
    clean = clean_rows(int(rng.integers(*ROWS)), seed)
    kind = str(rng.choice(["csv", "csv.gz", "ndjson", "jsonl.gz", "parquet", "npz"], p=[0.3, 0.1, 0.2, 0.1, 0.2, 0.1]))
    draft = Draft(rng, clean, folder / f"file{seed:05d}.{kind}")
    writer: Callable[[Draft], None] = {"parquet": _parquet, "npz": _npz}.get(kind, _text)
    writer(draft)
    done = "; ".join(dict.fromkeys(draft.done)) or "nothing"
    good = frozenset(range(len(clean))) - draft.bad - draft.changed
    return Malformed(draft.path, f"{kind}: {done}", kind == "npz", clean, good, frozenset(draft.bad), draft.refused)


def complaint(
    case: Malformed,
    error: Exception | None,
    scores: Mapping[int, float],
    bad: Collection[int],
    clean: np.ndarray,
) -> str | None:
    """What is wrong with how a file was treated; None for nothing.

    Parameters
    ----------
    case : Malformed
    error : Exception or None
        What the job ended with.
    scores : mapping of int to float
        By number of the row.
    bad : collection of int
        Numbers of the rows listed as bad.
    clean : ndarray
        Scores of `case.clean`.
    """
    if error is not None:
        if not isinstance(error, ValueError | FileNotFoundError) or case.path.name not in str(error):
            return f"it raised {type(error).__name__}: {error}"
        return None if case.refused or not case.good else f"it was refused: {error}"
    if case.refused:
        return "it was not refused"
    both, scored = set(scores) & set(bad), set(scores)
    lost, passed = case.good - scored, case.bad & scored
    wrong = [row for row in sorted(case.good & scored) if scores[row] != clean[row]]
    found = {
        "scored and bad": both,
        "without a score": lost,
        "bad and scored": passed,
        "not listed": case.bad - set(bad),
    }
    told = [f"{name}: rows {sorted(rows)[:5]}" for name, rows in {**found, "another score": wrong}.items() if rows]
    return "; ".join(told) or None


class Draft:
    """A file that is being damaged."""

    def __init__(self, rng: np.random.Generator, clean: pd.DataFrame, path: Path) -> None:
        self.rng, self.clean, self.path = rng, clean, path
        self.done: list[str] = []
        self.bad: set[int] = set()
        self.changed: set[int] = set()
        self.refused = False

    def rows(self) -> list[int]:
        """Some rows that nothing was done to."""
        free = [row for row in range(len(self.clean)) if row not in self.bad | self.changed]
        return [int(row) for row in self.rng.permutation(free)[: int(self.rng.integers(0, 4))]]

    def pick(self, values: Collection[Any]) -> Any:
        """One of several values."""
        return list(values)[int(self.rng.integers(len(values)))]

    def note(self, name: str, row: int, harmless: bool = False) -> None:
        """Write down what was done to a row."""
        self.done.append(name)
        (self.changed if harmless else self.bad).add(row)

    def refuse(self, name: str) -> None:
        """Write down that nothing can be made of the file."""
        self.done.append(name)
        self.refused = True

    def out_of_reach(self, name: str, from_row: int = 0) -> None:
        """Write down that rows from some number on may be lost."""
        self.done.append(name)
        beyond = set(range(from_row, len(self.clean)))
        self.bad -= beyond
        self.changed |= beyond


# ---------------------------------------------------------------------- text

CELLS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "text in a number": ("amount", ("oops", "0x1F", "1 2", "--", "1e", "12€")),
    "infinite": ("length", ("inf", "-Infinity", "1e999")),
    "no truth value": ("member", ("maybe", "2", "yes")),
    "no time": ("seen", ("yesterday", "2024-13-45", "12")),
    "huge": ("city", (HUGE,)),
}
HARMLESS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "missing": ("amount", ("", "NaN", "null")),
    "unseen level": ("city", ("Atlantis", "7", "Łódź")),
    "far out": ("length", ("1e300", "-1e-300")),
}
VALUES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "text in a number": ("amount", ("12", "oops", "")),
    "infinite": ("length", (float("inf"), float("-inf"))),
    "nested": ("visits", ([1], {"v": 1}, [])),
    "no truth value": ("member", (1, "true", [])),
    "no text": ("city", (7, True, ["Lyon"], "\ud800")),
    "no time": ("seen", ("yesterday", 3.5)),
    "huge": ("city", (HUGE,)),
}
LINES = ("[1]", "{", "null", '"x"', "{'a': 1}", "[" * 3000, "{} {}", "{}}")


def _text(draft: Draft) -> None:
    is_csv = ".csv" in draft.path.name
    names = list(draft.clean.columns.astype(str))
    if draft.rng.random() < 0.3:
        draft.done.append("columns in another order")
        names = [names[i] for i in draft.rng.permutation(len(names))]
    lines = _csv_lines(draft, names) if is_csv else _json_lines(draft, names)
    header = ",".join(names).encode()
    ends = b"\r\n" if draft.rng.random() < 0.2 else b"\n"
    if draft.rng.random() < 0.2:
        draft.done.append("blank lines")
        lines = [line + ends * int(draft.rng.integers(1, 3)) for line in lines]
    if is_csv:
        header = _header(draft, header)
        lines = [header, *lines]
    content = ends.join(lines) + (ends if draft.rng.random() < 0.8 else b"")
    if draft.rng.random() < 0.1:
        draft.done.append("byte order mark")
        content = b"\xef\xbb\xbf" + content
    _write_text(draft, content, len(lines) - len(draft.clean))


def _csv_lines(draft: Draft, names: list[str]) -> list[bytes]:
    rows = [{name: str(value) for name, value in row.items()} for row in draft.clean.to_dict("records")]
    for kinds, harmless in ((CELLS, False), (HARMLESS, True)):
        for row in draft.rows():
            kind = draft.pick(kinds)
            name, values = kinds[kind]
            rows[row][name] = draft.pick(values)
            draft.note(kind, row, harmless)
    lines = [",".join(row[name] for name in names).encode() for row in rows]
    for row in draft.rows():
        kind = draft.pick(["cell lacking", "cell too many", "not UTF-8"])
        cells = lines[row].split(b",")
        if kind == "not UTF-8":
            cells[names.index("city")] = b"Li\xe8ge"
        else:
            cells = cells[:-1] if kind == "cell lacking" else [*cells, b"1"]
        lines[row] = b",".join(cells)
        draft.note(kind, row)
    if draft.rng.random() < 0.15:
        for row in draft.rows()[:1]:
            cells = lines[row].split(b",")
            cells[int(draft.rng.integers(len(cells)))] = b'"open'
            lines[row] = b",".join(cells)
            draft.note("quotation without an end", row)
    return lines


def _json_lines(draft: Draft, names: list[str]) -> list[bytes]:
    rows = [{name: row[name] for name in names} for row in draft.clean.to_dict("records")]
    for one in rows:
        one |= {"seen": one["seen"].isoformat(), "extra": {"any": [1, "x"]}}
    for row in draft.rows():
        kind = draft.pick(VALUES)
        name, values = VALUES[kind]
        rows[row][name] = draft.pick(values)
        draft.note(kind, row)
    for row in draft.rows():
        draft.note("missing", row, True)
        rows[row].update(draft.pick([{"amount": None}, {"visits": float("nan")}, {"city": "Łódź"}]))
        if draft.rng.random() < 0.3:
            del rows[row]["length"]
    plain = bool(draft.rng.random() < 0.5)
    encoded = [json.dumps(one, ensure_ascii=plain or "\ud800" in one.values()).encode() for one in rows]
    for row in draft.rows():
        broken = draft.pick([line.encode() for line in LINES] + [encoded[row][:-1], b"\xff" + encoded[row], b"\0"])
        encoded[row] = broken
        draft.note("no object", row)
    return encoded


def _header(draft: Draft, header: bytes) -> bytes:
    if draft.rng.random() > 0.15:
        return header
    kind = draft.pick(["column missing", "column twice", "header not UTF-8"])
    draft.refuse(kind)
    damaged = {"column missing": header.replace(b"city", b"town"), "column twice": header.replace(b"length", b"amount")}
    return damaged.get(kind, header.replace(b"city", b"cit\xff"))


def _write_text(draft: Draft, content: bytes, above: int) -> None:
    end = draft.rng.random()
    if end < 0.1:
        cut = int(draft.rng.integers(len(content)))
        whole = len([line for line in content[:cut].splitlines() if line.strip()]) - above - 1
        draft.out_of_reach("cut off", max(0, whole))
        content = content[:cut]
        if whole < 1 or draft.refused:
            draft.out_of_reach("cut off")
        draft.refused = False
    elif end < 0.15:
        draft.refuse("UTF-16")
        content = content.decode("utf-8", "ignore").encode("utf-16")
    elif end < 0.2:
        draft.refuse("empty")
        content = draft.pick([b"", b"\n", b" \n\n"])
    elif end < 0.23:
        draft.refuse("random bytes")
        content = draft.rng.bytes(500)
    if draft.path.suffix == ".gz" and end < 0.97:
        content = gzip.compress(content)
        if end > 0.9:
            draft.out_of_reach("archive cut off")
            content = content[: int(draft.rng.integers(len(content)))]
            draft.refused = False
    elif draft.path.suffix == ".gz":
        draft.refuse("no archive")
    draft.path.write_bytes(content)


# ---------------------------------------------------------------------- Parquet and npz


def _parquet(draft: Draft) -> None:
    frame = draft.clean.copy()
    for row in draft.rows():
        frame.loc[row, draft.pick(NUMBERS)] = draft.pick([np.inf, -np.inf])
        draft.note("infinite", row)
    for row in draft.rows():
        frame.loc[row, draft.pick(["amount", "city", "seen"])] = None
        draft.note("missing", row, True)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    cities = [None if value is None or value is pd.NA else value.encode() for value in table["city"].to_pylist()]
    for row in draft.rows():
        kind = draft.pick(["not UTF-8", "huge"])
        cities[row] = {"huge": HUGE.encode(), "not UTF-8": b"Li\xe8ge"}[kind]
        draft.note(kind, row)
    table = table.set_column(table.column_names.index("city"), "city", pa.array(cities, pa.binary()).view(pa.string()))
    if draft.rng.random() < 0.2:
        kind = draft.pick(["column missing", "numbers as text", "text as numbers", "nested"])
        name, cells = {
            "column missing": ("town", table["amount"]),
            "numbers as text": ("amount", pa.array(["1.5"] * len(table))),
            "text as numbers": ("city", pa.array([7] * len(table))),
            "nested": ("visits", pa.array([[1.0]] * len(table))),
        }[kind]
        at = table.column_names.index("city" if kind == "column missing" else name)
        table = table.set_column(at, name, cells)
        draft.refuse(kind)
    stored = io.BytesIO()
    pq.write_table(table, stored, row_group_size=int(draft.rng.integers(1, 40)), write_page_checksum=True)
    draft.path.write_bytes(_damaged_bytes(draft, stored.getvalue()))


def _npz(draft: Draft) -> None:
    array = draft.clean[NUMBERS].to_numpy(copy=True)
    for row in draft.rows():
        array[row, int(draft.rng.integers(3))] = draft.pick([np.inf, -np.inf])
        draft.note("infinite", row)
    for row in draft.rows():
        array[row, int(draft.rng.integers(3))] = np.nan
        draft.note("missing", row, True)
    stored = io.BytesIO()
    saved: Any = array
    if draft.rng.random() < 0.2:
        kind = draft.pick(["another width", "one dimension", "objects"])
        saved = {"another width": array[:, :2], "one dimension": array[:, 0], "objects": array.astype(object)}[kind]
        draft.refuse(kind)
    draft.pick([np.savez, np.savez_compressed])(stored, X=saved)
    draft.path.write_bytes(_damaged_bytes(draft, stored.getvalue()))


def _damaged_bytes(draft: Draft, content: bytes) -> bytes:
    end = draft.rng.random()
    if end < 0.1:
        draft.refuse("cut off")
        return content[: int(draft.rng.integers(len(content)))]
    if end < 0.15:
        draft.refuse("random bytes")
        return draft.rng.bytes(500)
    if end < 0.3 and not draft.refused:
        # What a Parquet file says of itself at its end has no checksum: another type there is no damage to be seen.
        data = len(content) - 8 - int.from_bytes(content[-8:-4], "little") if draft.path.suffix == ".parquet" else 0
        at = int(draft.rng.integers(4, data or len(content)))
        draft.out_of_reach("a flipped bit")
        flipped = content[at] ^ (1 << int(draft.rng.integers(8)))
        return content[:at] + bytes([flipped]) + content[at + 1 :]
    return content
