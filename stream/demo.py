"""hopscope demo: a simulated detector in place of the camera; everything behind the socket is the real thing."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from stream.child import Orders
from stream.config import Camera, EngineSettings, Page, Record, Settings
from stream.frame import Frame
from stream.phantom import Phantom
from stream.processes import free_port
from stream.replay import play

TALLEST_ATOMS = 10  # of a column; in thicker particles the shipped engine wavers in the middle


def demo_settings(directory: Path, *, engine: str, port: int) -> Settings:
    """Settings of a demo: loopback camera, recording into `directory`, calibration from the stream."""
    return Settings(
        camera=Camera(endpoint=f"tcp://127.0.0.1:{free_port()}", pixel_size_nm="stream"),
        record=Record(directory=directory, min_free_mib=256),
        engine=EngineSettings(name=engine),
        page=Page(port=port),
    )


def demo_phantom(*, seed: int, shape_px: int, frames: int | None, fps: float) -> Phantom:
    """The demo's specimen: thin enough for the shipped engine."""
    return Phantom(
        seed=seed, shape_px=shape_px, frames=frames, frame_period_s=1 / fps, max_height=TALLEST_ATOMS
    )


def simulated_detector(
    connection: Connection, endpoint: str, fps: float, shape_px: int, seed: int, frames: int | None
) -> None:
    """Entry of the detector's process: sends a phantom session as a DECTRIS camera would."""
    orders = Orders(connection)
    sent = {"frames": 0}

    def report() -> dict[str, Any]:
        return {"counters": {"sent": sent["frames"]}}

    def on_frame(_: Frame) -> None:
        sent["frames"] += 1

    phantom = demo_phantom(seed=seed, shape_px=shape_px, frames=frames, fps=fps)
    orders.say_ready()
    play(
        phantom,
        endpoint,
        fps=fps,
        dialect="dectris-v2",
        algorithm="bslz4",
        stop=lambda: orders.due(report),
        on_frame=on_frame,
    )
    orders.say_done(report())
