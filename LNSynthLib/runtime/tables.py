"""Tables that people edit: CSV as spreadsheets save it, and CSV that a spreadsheet does not run.

Read are commas, semicolons or tabs; UTF-8 with or without a byte order mark, or UTF-16; any line ends; a first line
`sep=;`; empty rows and columns behind the table. A cell such as =HYPERLINK(...) is written as text, and read back as it
was.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import LNSynthError

STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # of what spreadsheets take for a formula


@dataclass
class Table:
    """A table in its own dialect. rows: (the line of the file that the row ends on, {column: text})."""

    columns: list[str]  # lower case
    rows: list[tuple[int, dict[str, str]]]
    delimiter: str = ","
    encoding: str = "utf-8"


def read_table(path: Path, needed: Collection[str]) -> Table:
    """Raises LNSynthError for a file that is not a table, lacks a `needed` column, or has a row that does not fit."""
    try:
        content = Path(path).read_bytes()
        encoding = _encoding(content)
        lines = io.StringIO(content.decode(encoding), newline="")
        first, hint = lines.readline(), 0
        if first.lower().startswith("sep=") and len(first.strip()) == 5:
            delimiter, hint = first[4], 1
        else:
            delimiter = max(",;\t", key=first.count)
            lines.seek(0)
        records = csv.reader(lines, delimiter=delimiter, strict=True)
        columns = [plain(name).strip().lower() for name in next(records, [])]
        found = [(records.line_num + hint, record) for record in records]
    except (OSError, UnicodeError, csv.Error) as error:
        raise LNSynthError(f"{path}: the table cannot be read ({error}); save it as CSV in UTF-8.") from None
    while columns and not columns[-1]:
        columns.pop()
    if missing := [name for name in needed if name not in columns]:
        raise LNSynthError(f"{path}, line {1 + hint}: there is no column {' and '.join(missing)}; the columns are "
                           f"{', '.join(columns) or 'none'}.")
    if twice := {name for name in columns if columns.count(name) > 1}:
        raise LNSynthError(f"{path}, line {1 + hint}: a column is called {' and '.join(map(repr, sorted(twice)))} "
                           "twice; give each its own name.")
    rows = []
    for line, record in found:
        if any(value.strip() for value in record[len(columns):]):
            raise LNSynthError(f"{path}, line {line}: there are more values than columns; put a text with "
                               f"{delimiter!r} in it between quotes.")
        if any(value.strip() for value in record):
            rows.append((line, dict(zip(columns, map(plain, record + [""] * len(columns)), strict=False))))
    return Table(columns, rows, delimiter, encoding)


def _encoding(content: bytes) -> str:
    if content.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    return "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"


def safe(cell: object) -> object:
    """The cell with an apostrophe before it where a spreadsheet would run it; numbers stay numbers."""
    if not isinstance(cell, str) or not cell.lstrip("'").startswith(STARTS) or _is_number(cell):
        return cell
    return f"'{cell}"


def plain(cell: str) -> str:
    """What `safe` was given."""
    return cell[1:] if cell.startswith("'") and safe(cell[1:]) == cell else cell


def csv_text(columns: Sequence[str], rows: Iterable[Mapping], delimiter: str = ",", lines: str = "\n") -> str:
    """The text of a table, its cells `safe`; a row's missing columns are empty."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=lines)
    writer.writerow([safe(name) for name in columns])
    writer.writerows([safe(row.get(name, "")) for name in columns] for row in rows)
    return text.getvalue()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text and text == text.strip()
