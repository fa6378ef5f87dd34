"""Read torch's weight files from untrusted sources: nothing in them is run."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any


def read_weights(path: Path, device: Any = "cpu") -> Any:
    """What `torch.save` wrote: tensors and plain values alone. Raises whatever a malformed file leads to.

    A packed file, which torch never writes, is refused: it could announce a thousand times its size.
    """
    import torch

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if any(member.compress_type or member.file_size != member.compress_size for member in file.infolist()):
                raise ValueError("torch packs nothing in its files, and this one is packed")
    return torch.load(path, map_location=device, weights_only=True)
