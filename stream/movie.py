"""A recording as a movie, with what was made of it: sites, hops, scale bar, time and dose."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import h5py
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stream.figures import FONT, round_length
from stream.files import open_recording
from stream.files.source import FileSource
from stream.frame import Frame, RecordingError, WireError
from stream.mp4 import Mp4File
from stream.paint import paint_arrows, paint_discs
from stream.rigid import turned
from stream.session import Session, read_session
from stream.webm import WebmFile

_SIDE_PX = 768, 1536  # smaller frames are enlarged to the first, larger ones reduced to the second
_STRIP_PX = 36
_FASTEST_FPS = 30.0
_FADE_S = 0.6  # of the movie, in which an arrow fades
# Okabe and Ito's colours
_OCCUPIED, _EMPTY, _HOP = (np.array(c, np.float64) for c in ((86, 180, 233), (240, 228, 66), (213, 94, 0)))
_DASHES = 4  # of the rings of places where no column was seen so far
_CONTAINERS: dict[str, type[WebmFile] | type[Mp4File]] = {".webm": WebmFile, ".mp4": Mp4File}

_Encoded: TypeAlias = tuple["Future[list[bytes]]", list[int]]


def write_movie(
    result: Path,
    recording: Path,
    out: Path,
    fps: float | None = None,
    on_frame: Callable[[int, int], object] = lambda done, total: None,
) -> None:
    """Write the movie of a recording with the result of its replay.

    Parameters
    ----------
    out : .webm (VP8) or .mp4 (AV1); written under another name and renamed when it is done.
    fps : frames of the series per second of the movie; by default as they were taken, at most 30. A
        frame that is missing leaves the one before standing.
    on_frame : called with the frames done and their total.

    Raises
    ------
    RecordingError
        For another suffix; if the recording is not the one the result was made of; as `read_session`.
    ValueError
        For an fps that is not above 0.
    """
    container = _CONTAINERS.get(out.suffix.lower())
    if container is None:
        raise RecordingError(
            f"cannot write {out}: expected a movie called .webm or .mp4, got {out.suffix or 'no suffix'}"
        )
    if fps is not None and not 0 < fps < np.inf:
        raise ValueError(f"a movie needs frames per second above 0, got {fps}")
    session = read_session(result)
    fps = min(1 / session.period_s, _FASTEST_FPS) if fps is None else fps
    with open_recording(recording) as source, h5py.File(result, "r") as file:
        _check(source, session, file)
        scene = _Scene(session, file, source, fps)
        partial = out.with_name(out.name + ".partial")
        try:
            with container(partial, scene.shape_yx) as movie, ThreadPoolExecutor(2) as pool:
                end_ms = _encode(movie, scene.frames(), fps, pool, lambda done: on_frame(done, len(source)))
                movie.finish(end_ms)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)


def _encode(
    movie: WebmFile | Mp4File,
    frames: Iterator[tuple[int, np.ndarray]],
    fps: float,
    pool: ThreadPoolExecutor,
    on_frame: Callable[[int], object],
) -> int:
    """Encode groups of frames side by side, write them in order; gives the end of the last."""
    waiting: deque[_Encoded] = deque()
    group: list[np.ndarray] = []
    times_ms: list[int] = []
    first, index = None, 0

    def write_first() -> None:
        encoded, times = waiting.popleft()
        movie.write(encoded.result(), times)

    def submit() -> None:
        waiting.append((pool.submit(movie.encode, np.stack(group)), times_ms.copy()))
        group.clear()
        times_ms.clear()

    for done, (index, picture) in enumerate(frames, 1):
        first = index if first is None else first
        group.append(picture)
        times_ms.append(round(1000 * (index - first) / fps))
        if len(group) == movie.group:
            submit()
        while len(waiting) > 3:
            write_first()
        on_frame(done)
    if group:
        submit()
    while waiting:
        write_first()
    return round(1000 * (index + 1 - (first or 0)) / fps)


@dataclass(frozen=True, slots=True)
class _Zoom:
    """How frames are shown: `times` picture pixels per frame pixel."""

    times: float
    shape_yx: tuple[int, int]  # of the frame in the picture, even

    @staticmethod
    def of(shape_yx: tuple[int, int]) -> _Zoom:
        side = max(shape_yx)
        times = float(np.clip(side, *_SIDE_PX)) / side
        ny, nx = (max(2, 2 * round(side * times / 2)) for side in shape_yx)
        return _Zoom(times, (ny, nx))

    def place(self, yx_px: np.ndarray) -> np.ndarray:
        """Pixels of the frame in the picture: pixel (0, 0) is the centre of the first pixel in both."""
        return (yx_px + 0.5) * self.times - 0.5


class _Scene:
    """Draws the frames of one recording."""

    def __init__(self, session: Session, file: h5py.File, source: FileSource, fps: float) -> None:
        self._session, self._source = session, source
        self._zoom = _Zoom.of(session.header.shape_yx)
        height, width = self._zoom.shape_yx
        self.shape_yx = height + _STRIP_PX, width
        self._levels = _grey_levels(source)
        self._live, self._smoothed = _Rows(file, "p"), _Rows(file, "smoothed")
        self._fade = max(4, round(_FADE_S * fps))
        events = session.events
        self._hops = events[events["kind"] == b"hop"]
        self._font = ImageFont.truetype(str(FONT), 17)
        self._pixel_nm = float(session.header.pixel_size_nm or 1.0)
        self._bar_nm = round_length(self._pixel_nm * width / self._zoom.times / 5)

    def frames(self) -> Iterator[tuple[int, np.ndarray]]:
        """Index and picture (ny, nx, 3) u1 of each frame that can be read."""
        for item in self._source:
            if isinstance(item, Frame):
                try:
                    counts = item.counts
                except WireError:
                    continue  # a gap, like one on the wire
                yield item.index, self._draw(item.index, counts)
                item.release()

    def _draw(self, index: int, counts: np.ndarray) -> np.ndarray:
        low, high = self._levels
        grey = np.clip((counts - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
        height, width = self._zoom.shape_yx
        smooth = Image.Resampling.BICUBIC if self._zoom.times >= 1 else Image.Resampling.BOX
        shown = Image.fromarray(grey).resize((width, height), smooth)
        picture = np.zeros((*self.shape_yx, 3), np.uint8)
        picture[:height] = np.asarray(shown)[:, :, None]
        row = int(np.searchsorted(self._session.frame, index))
        seen = row < len(self._session.frame) and self._session.frame[row] == index
        if seen:
            self._draw_sites(picture[:height], index, row)
        return self._stamp(picture, index, seen)

    def _draw_sites(self, picture: np.ndarray, index: int, row: int) -> None:
        session, zoom = self._session, self._zoom
        shifted = session.yx_nm / self._pixel_nm + session.drift_yx_px[row]
        middle = (np.array(session.header.shape_yx) - 1) / 2
        yx = zoom.place(turned(shifted, session.turn_rad[row], middle))
        p, live = (rows.at(index)[: len(yx)] for rows in (self._smoothed, self._live))
        p = np.where(np.isfinite(live) | (p > 0.5), p, np.nan)  # empty places only while somebody looks there
        known = np.flatnonzero(np.isfinite(p))
        spacing_px = (
            session.spacing_nm / self._pixel_nm * zoom.times if np.isfinite(session.spacing_nm) else 12.0
        )
        there = known[p[known] > 0.5]
        gone = known[p[known] <= 0.5]
        proposed = session.proposed(index)[gone]
        gone, never = gone[~proposed], gone[proposed]
        line_px = max(1.2, 0.06 * spacing_px)
        paint_discs(picture, yx[there], 0.16 * spacing_px, 0.0, _OCCUPIED, 0.9 * p[there])
        paint_discs(picture, yx[gone], 0.26 * spacing_px, line_px, _EMPTY, 0.9 * (1 - p[gone]))
        paint_discs(picture, yx[never], 0.22 * spacing_px, line_px, _EMPTY, 0.9 * (1 - p[never]), _DASHES)
        age = index - self._hops["frame"]
        now = self._hops[(age >= 0) & (age < self._fade)]
        if len(now):
            alpha = 1.0 - (index - now["frame"]) / self._fade
            start, end = yx[now["from_site"]], yx[now["to_site"]]
            paint_arrows(picture, start, end, 2 * line_px, 0.4 * spacing_px, _HOP, alpha)

    def _stamp(self, picture: np.ndarray, index: int, seen: bool) -> np.ndarray:
        """Scale bar, and below the frame its number, time and dose."""
        height, width = self._zoom.shape_yx
        image = Image.fromarray(picture)
        draw = ImageDraw.Draw(image)
        bar_px = round(self._bar_nm / self._pixel_nm * self._zoom.times)
        draw.rectangle((18, height - 30, 22 + bar_px, height - 20), fill="black")
        draw.rectangle((20, height - 28, 20 + bar_px, height - 22), fill="white")
        text = f"{self._bar_nm:g} nm"
        draw.text(
            (20 + bar_px / 2, height - 34),
            text,
            "white",
            self._font,
            "mb",
            stroke_width=2,
            stroke_fill="black",
        )
        middle = height + _STRIP_PX // 2
        draw.text((12, middle), self._when(index), "white", self._font, "lm")
        x = width - 12
        told = (
            (("→ hop", _HOP), ("◌ proposed", 0.8 * _EMPTY), ("○ empty", _EMPTY), ("● occupied", _OCCUPIED))
            if seen
            else (("not analysed", None),)
        )
        for name, colour in told:
            fill = "white" if colour is None else tuple(int(c) for c in colour)
            draw.text((x, middle), name, fill, self._font, "rm")
            x -= draw.textlength(name, self._font) + 16
        return np.asarray(image)

    def _when(self, index: int) -> str:
        session = self._session
        row = int(np.searchsorted(session.frame, index))
        known = row < len(session.frame) and session.frame[row] == index
        first = int(session.frame[0])
        past_s = (
            float(session.t_ns[row] - session.t_ns[0]) * 1e-9 if known else (index - first) * session.period_s
        )
        dose_rate = session.header.dose_rate_e_nm2_s
        dose_e_angstrom2 = 1e-2 * (dose_rate or 0.0) * (past_s + session.period_s)
        dose = f"   {dose_e_angstrom2:,.0f} e/Å²" if dose_rate else "   dose not known"
        return f"frame {index}   {past_s:.{_decimals(session.period_s)}f} s{dose}"


class _Rows:
    """P(occupied) by frame, read a block at a time."""

    def __init__(self, file: h5py.File, name: str) -> None:
        group = file["occupancy"]
        if not isinstance(group, h5py.Group):
            raise RecordingError(f"{file.filename} has no occupancy: expected what hopscope replay writes")
        self._table = group[name]
        self._frame = np.asarray(group["frame"])
        self._first, self._block = 0, np.empty((0, 0))

    def at(self, index: int) -> np.ndarray:
        row = int(np.searchsorted(self._frame, index))
        if not self._first <= row < self._first + len(self._block):
            self._first = row - row % 256
            self._block = np.asarray(self._table[self._first : self._first + 256], np.float64)  # pyright: ignore
        return self._block[row - self._first]


def _check(source: FileSource, session: Session, file: h5py.File) -> None:
    shape, made_of = source.header.shape_yx, session.header.shape_yx
    if tuple(shape) != tuple(made_of):
        raise RecordingError(
            f"{source.path} has frames of {shape}, {file.filename} was made of frames of {made_of}: expected the "
            "recording that was replayed"
        )
    missing = np.setdiff1d(session.frame, source.indices)
    if len(missing):
        raise RecordingError(
            f"{source.path} lacks {len(missing)} of the frames in {file.filename} (the first is {missing[0]}): "
            "expected the recording that was replayed"
        )


def _grey_levels(source: FileSource) -> tuple[float, float]:
    """Black and white of the whole movie, from frames all over it."""
    some = np.unique(np.linspace(0, len(source) - 1, 8).round().astype(int))
    values = np.concatenate([source.read(int(k))[::4, ::4].ravel() for k in some])
    low, high = np.quantile(values, [0.003, 0.997])
    return float(low), float(max(high, low + 1))


def _decimals(period_s: float) -> int:
    return int(np.clip(np.ceil(-np.log10(period_s)), 0, 6))
