"""The bytes of a volume's file: read once, in order, unpacked on the way, and checked to the last one.

zlib compares the checksum (CRC-32 of gzip, Adler-32 of zlib) and the length of every stream that it reads to its end,
so the end is always read.
"""

from __future__ import annotations

import math
import os
import zlib
from pathlib import Path

import numpy as np

from .errors import LNSynthError

GZIP, ZLIB_OR_GZIP = 31, 47  # zlib's names for the two wrappers
RATIO = 1032                 # deflate packs no more bytes than this into one
PIECE = 1 << 20


class Stream:
    """A file from where it stands to its end, as plain bytes.

    packing  GZIP (one or more members) or ZLIB_OR_GZIP; None reads the bytes as they are
    Every method raises LNSynthError where the file is damaged or truncated.
    """

    def __init__(self, path: Path, file, packing: int | None = None):
        self.path, self.file, self.packing = path, file, packing
        self.most = (os.fstat(file.fileno()).st_size - file.tell()) * (RATIO if packing else 1)
        self.inflate = zlib.decompressobj(packing or GZIP)  # not used where nothing is packed

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        if count > self.most:
            raise unreadable(self.path)
        pieces = []
        while count:
            pieces.append(self._some(count))
            count -= len(pieces[-1])
        return b"".join(pieces)

    def voxels(self, shape: tuple, dtype: np.dtype) -> np.ndarray:
        """All that is left, as an array of that shape (first axis fastest) and type, in this machine's byte order.

        Refused before anything is allocated where the file cannot hold that much, or the memory cannot.
        """
        size = math.prod(shape) * dtype.itemsize
        if min(shape) < 1 or size > self.most:
            raise unreadable(self.path)
        check_room(self.path, size)
        try:
            buffer = np.empty(size, np.uint8)
            view, at = memoryview(buffer.data), 0
            while at < size:
                piece = self._some(size - at)
                view[at:at + len(piece)] = piece
                at += len(piece)
            if self._piece(1):
                raise LNSynthError(f"{self.path}: the file holds more than its header announces, so one of them is "
                                   "damaged; copy or export it again.")
            array = buffer.view(dtype).reshape(shape, order="F")
            return array.astype(dtype.newbyteorder("="), copy=False)
        except MemoryError:
            raise _no_room(self.path, size) from None

    def _some(self, count: int) -> bytes:
        """One byte at least, `count` at most."""
        piece = self._piece(min(count, PIECE))
        if not piece:
            raise unreadable(self.path)
        return piece

    def _piece(self, count: int) -> bytes:
        """Up to `count` bytes; none at the end of the file."""
        try:
            return self._unpack(count) if self.packing else self.file.read(count)
        except (OSError, EOFError, zlib.error) as error:
            raise unreadable(self.path) from error

    def _unpack(self, count: int) -> bytes:
        while True:
            if self.inflate.eof:  # another gzip member, or zeros that fill up a block, or nothing
                packed = self.inflate.unused_data.lstrip(b"\0")
                while not packed:
                    if not (more := self.file.read(PIECE)):
                        return b""
                    packed = more.lstrip(b"\0")
                self.inflate = zlib.decompressobj(self.packing or GZIP)
            else:
                packed = self.inflate.unconsumed_tail or self.file.read(PIECE)
            plain = self.inflate.decompress(packed, count)
            if plain:
                return plain
            if not packed and not self.inflate.eof:
                raise EOFError


def check_room(path: Path, size: int) -> None:
    """Raises LNSynthError where `size` bytes are more than the memory that is free."""
    import psutil

    if size > psutil.virtual_memory().available:
        raise _no_room(path, size)


def _no_room(path: Path, size: int) -> LNSynthError:
    return LNSynthError(f"{path}: its header announces {size / 1e9:.1f} GB of voxels, more than the memory that is "
                        "free; crop it, free some memory, or copy the file again if it is not that large.")


def unreadable(path: Path) -> LNSynthError:
    return LNSynthError(f"{path}: the file is damaged, truncated or not what its name says; copy or export it again.")
