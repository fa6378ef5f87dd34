"""What a job says of its temporary files and of the numbers in its masks, in the names that the scene has for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


class Names:
    """Files of a job and what they are called; `names(text)` is the text as people read it."""

    def __init__(self):
        self._files: list[tuple[str, str, dict[int, str]]] = []

    def add(self, path: Path | None, node, ids: Mapping[int, str] | None = None) -> None:
        """node: of the scene, which the file was written from; ids: {value in the mask: segment id}."""
        if path is None:
            return
        inner = node.GetSegmentation() if ids else None
        named = {value: inner.GetSegment(segment_id).GetName() for value, segment_id in (ids or {}).items()}
        self._files.append((str(path), node.GetName(), named))

    def __call__(self, text: str) -> str:
        """Paths as the nodes' names; "node 3" as the segment's name, in the mask that the text begins with.

        The parts of a mask of one segment are told apart by numbers in the library: all have its name.
        """
        told = [(text.find(path), -len(path), path, name, nodes) for path, name, nodes in self._files if path in text]
        masks = [nodes for *_, nodes in sorted(told, key=lambda one: one[:2]) if nodes]
        if masks:
            known = masks[0]
            only = next(iter(known.values())) if len(known) == 1 else None
            text = re.sub(r"\bnode (\d+)\b", lambda found: known.get(int(found[1]), only or found[0]), text)
        for _at, _length, path, name, _nodes in sorted(told, key=lambda one: one[1]):
            text = text.replace(path, name)
        return text
