"""CSV that a spreadsheet does not run: a cell such as =HYPERLINK(...) is written as text, and read back as it was."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # of what spreadsheets take for a formula


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
