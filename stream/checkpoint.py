"""The tracker's state on disk, so that a crashed analysis goes on where it was."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import numpy as np

log = logging.getLogger("hopscope.checkpoint")


def save_checkpoint(path: Path, state: dict[str, np.ndarray]) -> None:
    """Replace the checkpoint in one step: a crash meanwhile leaves the old one."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **state)  # type: ignore[arg-type]
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, np.ndarray] | None:
    """The state last saved, or None if there is none (said aloud if it is damaged)."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        log.error("the checkpoint %s cannot be read (%s): tracking begins anew", path, error)
        return None
