"""Pictures of cases for reports, montages and the demo: slices as people read them, contours, colors, a labelled grid.

Arrays are canonical (axes x, y, z closest to RAS+). Slices come out as radiologists look at them: the patient's right
on the left side of the picture, front on top (axial) or head on top (coronal, sagittal with the front on the left).
A picture is an RGB array (rows, columns, 3), uint8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..runtime.files import atomic_path

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # the array axis that a plane cuts
WINDOW = (-160.0, 240.0)  # HU, the usual abdominal window
NODE_COLOR = (68, 172, 100)  # Slicer's color for lymph nodes (SCT 59441001)
Colors = Mapping[int, Sequence[int]]  # label id: RGB
INK, PAPER, WARNING = (225, 225, 225), (16, 16, 18), (190, 30, 40)


def grey(values: np.ndarray, window: tuple[float, float] = WINDOW) -> np.ndarray:
    """HU (any shape) to RGB greys, uint8 (..., 3): window[0] and below black, window[1] and above white."""
    low, high = window
    scaled = (np.clip(values, low, high).astype(np.float32) - low) * np.float32(255 / (high - low))
    return np.repeat(np.rint(scaled).astype(np.uint8)[..., None], 3, axis=-1)


def cut(array: np.ndarray, plane: str, index: int) -> np.ndarray:
    """One slice of a canonical (x, y, z) array, as (rows, columns) in display orientation."""
    slab = np.take(array, index, axis=PLANES[plane])  # (x, y), (x, z) or (y, z)
    return slab.T[::-1, ::-1]


def widest(mask: np.ndarray, plane: str) -> int:
    """Index of the slice that shows most of a mask; the middle one where the mask is empty."""
    axis = PLANES[plane]
    area = np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis))
    return int(area.argmax()) if area.any() else mask.shape[axis] // 2


def contour(picture: np.ndarray, mask: np.ndarray, color: Sequence[int] = NODE_COLOR) -> np.ndarray:
    """A copy of the picture with the outline of a (rows, columns) mask drawn just outside it, one pixel thick.

    Drawn outside so that the mask's own voxels stay to be seen; of an instance mask, each instance gets its outline.
    """
    mask = np.asarray(mask)
    edge = np.zeros(mask.shape, bool)
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        beside = np.roll(mask, shift, axis)
        border: list[slice | int] = [slice(None)] * 2
        border[axis] = 0 if shift > 0 else -1
        beside[tuple(border)] = 0
        edge |= (beside != 0) & (mask == 0)
    drawn = picture.copy()
    drawn[edge] = color
    return drawn


def tint(picture: np.ndarray, labels: np.ndarray, colors: Colors, alpha: float = 0.35) -> np.ndarray:
    """A copy of the picture with each label of a (rows, columns) map in its color; those without one stay grey."""
    drawn = picture.astype(np.float32)
    for label, color in colors.items():
        where = labels == label
        drawn[where] = (1 - alpha) * drawn[where] + alpha * np.asarray(color, np.float32)
    return np.rint(drawn).astype(np.uint8)


def view(
    ct_hu: np.ndarray,
    spacing: Sequence[float],
    plane: str = "axial",
    index: int | None = None,
    *,
    nodes: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    colors: Colors | None = None,
    window: tuple[float, float] = WINDOW,
    mm_per_pixel: float = 1.0,
) -> np.ndarray:
    """One slice of a case as a picture with square pixels.

    ct_hu    (X, Y, Z) HU, canonical; spacing in mm; nodes and labels on the same grid
    index    slice along the plane's axis; None: the slice that shows most of the nodes
    nodes    outlined; labels with their colors (id: RGB, see `LabelTable`) tinted
    """
    if index is None:
        index = widest(nodes, plane) if nodes is not None else ct_hu.shape[PLANES[plane]] // 2
    across, up = (spacing[a] for a in range(3) if a != PLANES[plane])
    rows, columns = cut(ct_hu, plane, index).shape
    size = max(1, round(rows * up / mm_per_pixel)), max(1, round(columns * across / mm_per_pixel))
    picture = grey(stretch(cut(ct_hu, plane, index), size, smooth=True), window)
    if labels is not None:
        picture = tint(picture, stretch(cut(labels, plane, index), size), colors or {})
    if nodes is not None:
        picture = contour(picture, stretch(cut(nodes, plane, index), size))
    return picture


def stretch(slab: np.ndarray, size: tuple[int, int], smooth: bool = False) -> np.ndarray:
    """A (rows, columns) slab at another size: linear where smooth (float32), else nearest (masks and labels)."""
    from PIL import Image

    if not smooth:
        at = (((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(size, slab.shape, strict=True))
        return slab[np.ix_(*at)]
    image = Image.fromarray(np.ascontiguousarray(slab, np.float32))
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))


def montage(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str] = (),
    columns: Sequence[str] = (),
    banner: str = "",
    caption: str = "",
) -> np.ndarray:
    """A grid of pictures (rows may differ in length, pictures in size), titled left of each row and above each column.

    banner    words in a red bar on top, such as SYNTHETIC or PHANTOM; caption: a line below
    """
    from PIL import Image, ImageDraw

    gap, line = 4, 18
    heights = [max((p.shape[0] for p in row), default=0) for row in rows]
    count = max((len(row) for row in rows), default=0)
    widths = [max((row[i].shape[1] for row in rows if i < len(row)), default=0) for i in range(count)]
    font = _font(13)
    left = gap + max((int(font.getlength(t)) + 2 * gap for t in titles), default=0)
    top = gap + (line + gap if banner else 0) + (line if any(columns) else 0)
    width = max(left + sum(w + gap for w in widths), int(font.getlength(banner or caption)) + 4 * gap)
    height = top + sum(h + gap for h in heights) + (line if caption else 0)
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    if banner:
        draw.rectangle((0, 0, width, line + gap), fill=WARNING)
        draw.text((width // 2, (line + gap) // 2), banner, fill=(255, 255, 255), font=font, anchor="mm")
    x_of = [left + sum(w + gap for w in widths[:i]) for i in range(count)]
    for x, w, title in zip(x_of, widths, columns, strict=False):
        draw.text((x + w // 2, top - line // 2), title, fill=INK, font=font, anchor="mm")
    y = top
    for i, (row, h) in enumerate(zip(rows, heights, strict=True)):
        if i < len(titles):
            draw.text((gap, y + h // 2), titles[i], fill=INK, font=font, anchor="lm")
        for x, picture in zip(x_of, row, strict=False):
            image.paste(Image.fromarray(np.ascontiguousarray(picture)), (x, y))
        y += h + gap
    if caption:
        draw.text((gap, y + line // 2 - 2), caption, fill=INK, font=font, anchor="lm")
    return np.asarray(image)


def write_png(path: Path, picture: np.ndarray, description: str = "") -> None:
    """Writes a picture as PNG, whole or not at all; `description` goes into the file's text."""
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    if description:
        info.add_text("Description", description)
    with atomic_path(path) as beside:
        Image.fromarray(np.ascontiguousarray(picture)).save(beside, format="PNG", pnginfo=info)


def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(size)  # Pillow's own, so that no system font is needed
