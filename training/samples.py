"""Pictures of what a network sees while it learns: validation images, what is there and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from stream.columns import Columns
from training.dataset import Truth

Found = Sequence[tuple[Columns, Truth]]  # of each image
SHOWN = 3  # images in a row
_ZOOM, _SIDE_PX = 2, 256  # of the images, of which a corner is shown
_TRUE, _FOUND = (86, 180, 233), (240, 120, 0)  # told apart by everyone
_GREY = 3.0  # deviations from the local mean that are black and white


def draw_samples(
    path: Path,
    shown: dict[float, list[tuple[np.ndarray, Truth]]],
    found: Mapping[float, Found],
    threshold: float = 0.5,
) -> None:
    """A PNG of the first images at a high and a low dose, a row for each; circles are true columns, dots found ones.

    Of a stack its first image is shown.

    Parameters
    ----------
    shown : per dose, normalized images (k, ny, nx) f4 and truths.
    found : per dose and image, what was found, and the truth.
    threshold : score from which a column counts as found.
    """
    doses = sorted(shown, reverse=True)
    rows = list(dict.fromkeys([doses[len(doses) // 4], doses[-1 - len(doses) // 4]]))
    ny, nx = (min(n, _SIDE_PX) * _ZOOM for n in shown[rows[0]][0][0].shape[1:])
    count = min(SHOWN, len(shown[rows[0]]))
    sheet = Image.new("RGB", (count * nx, len(rows) * ny))
    for row, dose in enumerate(rows):
        for k in range(count):
            columns, truth = found[dose][k]
            seen = columns.yx_px[columns.score >= threshold]
            picture = _picture(shown[dose][k][0][0], truth.yx_px, seen)
            ImageDraw.Draw(picture).text(
                (4, 2), f"{dose:g} e/A2", fill=(255, 255, 255), stroke_width=1, stroke_fill=0
            )
            sheet.paste(picture, (k * nx, row * ny))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    sheet.save(partial, format="PNG")
    partial.replace(path)


def _picture(image: np.ndarray, true_yx_px: np.ndarray, found_yx_px: np.ndarray) -> Image.Image:
    """The image's corner, enlarged, with both marked."""
    grey = np.clip((image[:_SIDE_PX, :_SIDE_PX] / _GREY + 1) * 127.5, 0, 255).astype(np.uint8)
    picture = Image.fromarray(np.kron(grey, np.ones((_ZOOM, _ZOOM), np.uint8))).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for y, x in (true_yx_px + 0.5) * _ZOOM - 0.5:
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), outline=_TRUE)
    for y, x in (found_yx_px + 0.5) * _ZOOM - 0.5:
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=_FOUND)
    return picture
