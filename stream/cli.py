"""The command line: thin; every command hands over to the module that does the work.

Exit codes: 0 done; 1 a fault in hopscope; 2 wrong usage; 3 refused (settings, calibration, input; the
message says what to change); 4 done, but with an alarm (frames that were not recorded, say).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

# Before numpy is loaded: the network has the cores, small matrix products must not contend for them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from engines.manifest import EngineMismatch
from stream.cli_engines import engines
from stream.cli_results import results
from stream.config import Settings, SettingsError, load_settings, parse_settings
from stream.device import DeviceError, open_device
from stream.frame import CalibrationError, RecordingError, WireError
from stream.terminal import (
    DEFAULT_ENGINE,
    Engine,
    Json,
    PixelSizeNm,
    SpacingPx,
    console,
    interruptible,
    progress_bar,
    run_session,
    size_or_auto,
    tell,
)  # fmt: skip

REFUSED = 3
app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown", help=__doc__
)


Seconds = Annotated[float | None, typer.Option(help="End by itself after so many seconds.", min=0.1)]
Headless = Annotated[bool, typer.Option(help="No live line on the terminal; for scripts.")]


@app.command(epilog="Example: hopscope demo --seconds 60")
def demo(
    seconds: Seconds = None,
    fps: Annotated[float, typer.Option(help="Frames per second of the simulated detector.", min=0.1)] = 30,
    shape: Annotated[int, typer.Option(help="Pixels to a side.", min=128, max=4096)] = 512,
    seed: Annotated[int, typer.Option(help="Another seed is another session.")] = 1,
    frames: Annotated[int | None, typer.Option(help="End after so many frames.", min=1)] = None,
    engine: Engine = DEFAULT_ENGINE,
    port: Annotated[int, typer.Option(help="Of the page; 0: any free one.")] = 8321,
    keep: Annotated[Path | None, typer.Option(help="Keep the recording in this folder.")] = None,
    headless: Headless = False,
    as_json: Json = False,
) -> None:
    """Show everything on a simulated detector: a gold particle whose columns hop, over a real socket."""
    from stream.demo import demo_settings, simulated_detector

    with tempfile.TemporaryDirectory(prefix="hopscope-demo-", ignore_cleanup_errors=True) as scratch:
        settings = demo_settings(keep or Path(scratch), engine=engine, port=port)
        detector = (simulated_detector, (settings.camera.endpoint, fps, shape, seed, frames))
        run_session(settings, detector, seconds, headless, as_json)


@app.command(epilog="Example: hopscope live --config site.toml")
def live(
    config: Annotated[Path, typer.Option(help="The site's settings; deploy/site.toml explains each.")],
    seconds: Seconds = None,
    idle_exit: Annotated[bool, typer.Option(help="End when the first series is over; for scripts.")] = False,
    headless: Headless = False,
    as_json: Json = False,
) -> None:
    """Listen to the camera: record every frame, find the columns, show the page."""
    from stream.doctor import check_calibration

    settings = load_settings(config)
    check_calibration(settings)
    open_device(settings.engine.device)  # refused here, before anything listens to the camera
    run_session(settings, None, seconds, headless, as_json, idle_exit=idle_exit)


@app.command(epilog="Example: hopscope publish movie.h5 --to tcp://127.0.0.1:31001 --fps 30")
def publish(
    file: Annotated[Path, typer.Argument(help="A recording: nxs, h5, tif, dm3, dm4, npy, ...")],
    to: Annotated[
        str, typer.Option(help="Address to send from, as a camera does.")
    ] = "tcp://127.0.0.1:31001",
    fps: Annotated[
        float | None, typer.Option(help="Frames per second; without it, as recorded.", min=0.01)
    ] = None,
    dialect: Annotated[
        Literal["dectris-v2", "array-1.0"], typer.Option(help="What to speak.")
    ] = "dectris-v2",
    as_json: Json = False,
) -> None:
    """Play a recording over ZeroMQ as a camera would."""
    from stream.files import open_recording
    from stream.replay import play

    with open_recording(file) as recording, progress_bar() as progress, interruptible() as stop:
        task = progress.add_task(f"publishing to {to}", total=len(recording))
        pace = fps or (1 / recording.header.frame_period_s if recording.header.frame_period_s else 10.0)
        sent = play(
            recording,
            to,
            fps=pace,
            dialect=dialect,
            stop=stop.is_set,
            on_frame=lambda _: progress.advance(task),
        )
    tell(asdict(sent), as_json)


@app.command(epilog="Example: hopscope replay movie.h5 --out result.h5")
def replay(
    file: Annotated[Path, typer.Argument(help="A recording: nxs, h5, tif, dm3, dm4, npy, ...")],
    out: Annotated[Path, typer.Option(help="Where the tables and maps go (HDF5).")],
    engine: Engine = DEFAULT_ENGINE,
    pixel_size_nm: PixelSizeNm = None,
    spacing_px: SpacingPx = None,
    frame_period_s: Annotated[float | None, typer.Option(help="If the file does not say.")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda:0, or cuda:0,cuda:1 for several in turn.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings for tracking and so on.")] = None,
    as_json: Json = False,
) -> None:
    """Analyse a recording frame by frame, losing nothing, into documented tables."""
    from stream.offline import analyse_recording

    settings = _override(
        load_settings(config), engine, size_or_auto(pixel_size_nm), spacing_px, frame_period_s, device
    )
    with progress_bar() as progress, interruptible() as stop:
        task = progress.add_task(file.name, total=None)

        def show(doing: str, done: int, total: int) -> None:
            progress.update(task, description=f"{file.name}: {doing}", completed=done, total=total)

        summary = analyse_recording(file, out, settings, stop.is_set, show)
    tell(summary, as_json)


@app.command(epilog="Example: hopscope simulate --out movie.h5 --frames 600 --dose-e-nm2 31000 --seed 7")
def simulate(
    out: Annotated[Path, typer.Option(help="The movie and its truth (HDF5).")],
    frames: Annotated[int, typer.Option(min=1)] = 600,
    shape: Annotated[int, typer.Option(help="Pixels to a side.", min=128, max=4096)] = 512,
    dose_e_nm2: Annotated[float, typer.Option(help="Electrons per nm² and frame.", min=1)] = 31000,
    seed: Annotated[int, typer.Option()] = 1,
    as_json: Json = False,
) -> None:
    """Write a simulated session with its truth: columns of every frame, occupancy, every hop."""
    from stream.phantom import Phantom
    from stream.phantom_movie import write_movie

    with progress_bar() as progress:
        task = progress.add_task(str(out), total=frames)
        try:
            phantom = Phantom(seed=seed, shape_px=shape, frames=frames, dose_e_nm2=dose_e_nm2)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        write_movie(out, phantom, lambda *_: progress.advance(task))
    hops = phantom.truth.hops
    tell({"file": str(out), "frames": frames, "sites": len(phantom.truth.yx_nm), "hops": len(hops)}, as_json)


@app.command(epilog="Example: hopscope doctor --config site.toml")
def doctor(
    config: Annotated[Path | None, typer.Option(help="The site's settings to check.")] = None,
    as_json: Json = False,
) -> None:
    """Check machine, installation and settings; the exit code is 3 if a session would be refused."""
    from stream.doctor import examine

    findings = []
    for finding in examine(load_settings(config)):
        findings.append(finding)
        if not as_json:
            colour = {"ok": "green", "warning": "yellow", "fault": "red"}[finding.verdict]
            line = f"[{colour}]{finding.verdict:>8}[/] {finding.check}: {escape(finding.text)}"
            Console().print(line, highlight=False, soft_wrap=True)
    if as_json:
        typer.echo(json.dumps([finding.as_dict() for finding in findings]))
    if any(finding.verdict == "fault" for finding in findings):
        raise typer.Exit(REFUSED)


app.add_typer(results)
app.add_typer(engines)


def _override(
    settings: Settings,
    engine: str,
    pixel_size_nm: float | Literal["auto"] | None,
    spacing_px: float | None,
    frame_period_s: float | None,
    device: str | None,
) -> Settings:
    """What the command line says goes before what the file says."""
    parts = settings.model_dump()
    parts["engine"] |= {"name": engine} | ({} if device is None else {"device": device})
    told = {"pixel_size_nm": pixel_size_nm, "spacing_px": spacing_px, "frame_period_s": frame_period_s}
    parts["camera"] |= {name: value for name, value in told.items() if value is not None}
    return parse_settings(parts, "the command line")


def main() -> None:
    """Entry of the `hopscope` command."""
    from stream.processes import Refused

    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    try:
        app()
    except (
        Refused, SettingsError, CalibrationError, DeviceError, EngineMismatch, RecordingError, WireError,
    ) as error:  # fmt: skip
        _refuse(str(error))
    except OSError as error:  # files, disks, ports: the message is the system's, or says more
        _refuse(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))


def _refuse(text: str) -> None:
    console.print(f"[red]refused:[/] {escape(text)}", highlight=False, soft_wrap=True)
    sys.exit(REFUSED)


if __name__ == "__main__":
    main()
