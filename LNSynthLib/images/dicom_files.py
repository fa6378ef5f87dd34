"""DICOM files one by one: read without a traceback, and unpacked no further than they may go."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from ..runtime.errors import LNSynthError
from ..runtime.stream import PIECE, check_room

DEFLATED = "1.2.840.10008.1.2.1.99"  # the transfer syntax in which all but the first group is packed
MOST_INFLATED = 1 << 31              # bytes, which no header and no segmentation reaches


def read_header(file: Path, fields: Sequence[str]):
    """These fields of a DICOM file before its pixels; None where the file is none, or is damaged.

    Raises LNSynthError for a deflated one that would unpack to more than the memory, or MOST_INFLATED: pydicom unpacks
    it whole, whatever its size.
    """
    import pydicom

    check_inflated(file)
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(fields))
        for name in fields:
            header.get(name)  # pydicom interprets a field when it is asked for
        return header
    except Exception:  # pydicom raises whatever a malformed file makes it stumble over
        return None


def transfer_syntax(file: Path) -> str:
    """Of a DICOM file; empty where it tells none, or is no DICOM file."""
    from pydicom.filereader import read_file_meta_info

    try:
        with open(file, "rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return ""
        return str(read_file_meta_info(file).get("TransferSyntaxUID", ""))
    except Exception:
        return ""


def check_inflated(file: Path) -> None:
    """Raises LNSynthError for a deflated DICOM file that cannot be unpacked, or to too much."""
    if transfer_syntax(file) != DEFLATED:
        return
    from pydicom.filereader import read_file_meta_info

    size, inflate = 0, zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        with open(file, "rb") as stream:
            stream.seek(144 + read_file_meta_info(file).FileMetaInformationGroupLength)
            while not inflate.eof and (packed := inflate.unconsumed_tail or stream.read(PIECE)):
                size += len(inflate.decompress(packed, PIECE))
                if size > MOST_INFLATED:
                    raise LNSynthError(f"{file}: it is stored deflated and unpacks to more than "
                                       f"{MOST_INFLATED >> 30} GB; export it with another transfer syntax.")
        check_room(file, 2 * size)
    except (OSError, AttributeError, TypeError, zlib.error):
        raise LNSynthError(f"{file}: it is stored deflated and is damaged; copy or export it again.") from None
