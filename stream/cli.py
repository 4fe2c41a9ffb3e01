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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

# Before numpy is loaded: the network has the cores, small matrix products must not contend for them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from engines.manifest import EngineMismatch
from stream.config import Settings, SettingsError, load_settings
from stream.device import DeviceError
from stream.frame import CalibrationError, RecordingError, WireError
from stream.terminal import console, interruptible, progress_bar, run_session, tell

REFUSED = 3
app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown", help=__doc__
)

Json = Annotated[bool, typer.Option("--json", help="Print a machine-readable summary on stdout.")]
Engine = Annotated[str, typer.Option(help="A shipped engine (see doctor) or the path of an .onnx file.")]
Seconds = Annotated[float | None, typer.Option(help="End by itself after so many seconds.", min=0.1)]
Headless = Annotated[bool, typer.Option(help="No live line on the terminal; for scripts.")]
RadiusPx = Annotated[
    float | None,
    typer.Option(help="Longest step of a track from frame to frame; else what is certain.", min=0.01),
]
DEFAULT_ENGINE = Settings().engine.name


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
    pixel_size_nm: Annotated[
        float | None, typer.Option(help="At the specimen, if the file does not say.")
    ] = None,
    frame_period_s: Annotated[float | None, typer.Option(help="If the file does not say.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings for tracking and so on.")] = None,
    as_json: Json = False,
) -> None:
    """Analyse a recording frame by frame, losing nothing, into documented tables."""
    from stream.offline import analyse_recording

    settings = _override(load_settings(config), engine, pixel_size_nm, frame_period_s)
    with progress_bar() as progress, interruptible() as stop:
        task = progress.add_task(file.name, total=None)
        summary = analyse_recording(
            file, out, settings, stop.is_set, lambda n, total: progress.update(task, completed=n, total=total)
        )
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


@app.command(epilog="Example: hopscope detect image.dm4 --csv columns.csv")
def detect(
    images: Annotated[
        list[Path], typer.Argument(help="png, tif, bmp, npy, h5, dm3, dm4; stacks frame by frame.")
    ],
    csv: Annotated[Path, typer.Option(help="file, frame, y, x, score, kind; pixels of the input image.")],
    engine: Engine = DEFAULT_ENGINE,
    pixel_size_nm: Annotated[
        str | None,
        typer.Option(help="At the specimen, if the file does not say; auto: estimated from the lattice."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Score of a column; without it the engine's own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the columns in images."""
    from stream.detect import detect_images

    size_nm = _size_or_auto(pixel_size_nm)
    with progress_bar() as progress:
        task = progress.add_task("images", total=len(images))
        summary = detect_images(images, csv, engine, size_nm, threshold, lambda _: progress.advance(task))
    tell(summary, as_json)


@app.command(
    epilog="Example: hopscope export result.h5 --png pictures --movie movie.webm --recording movie.h5"
)
def export(
    result: Annotated[Path, typer.Argument(help="What hopscope replay wrote.")],
    csv: Annotated[Path | None, typer.Option(help="Folder for the tables.")] = None,
    png: Annotated[Path | None, typer.Option(help="Folder for the figures.")] = None,
    movie: Annotated[
        Path | None, typer.Option(help="A movie of the recording: .webm (VP8) or .mp4 (AV1).")
    ] = None,
    recording: Annotated[Path | None, typer.Option(help="What was replayed; for the movie.")] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames per second of the movie; without it, as taken.", min=0.1)
    ] = None,
    tracks: Annotated[
        Path | None, typer.Option(help="Table of the columns linked from frame to frame, for trackpy.")
    ] = None,
    radius_px: RadiusPx = None,
    as_json: Json = False,
) -> None:
    """Turn a result file into CSV tables, figures and a movie with what was found drawn in."""
    from stream.export import export_result
    from stream.movie import write_movie

    if csv is None and png is None and tracks is None and movie is None:
        raise typer.BadParameter(
            "nothing to write: expected --csv DIR, --png DIR, --tracks FILE or --movie FILE"
        )
    if (movie is None) != (recording is None):
        raise typer.BadParameter(
            "a movie needs its frames: expected --movie FILE and --recording FILE together"
        )
    written = export_result(result, csv, png, tracks, radius_px)
    if movie is not None and recording is not None:
        with progress_bar() as progress:
            task = progress.add_task(movie.name, total=None)
            write_movie(
                result,
                recording,
                movie,
                fps,
                lambda n, total: progress.update(task, completed=n, total=total),
            )
        written.append(movie)
    tell({"written": [str(path) for path in written]}, as_json)


@app.command(epilog="Example: hopscope rates result.h5 --by facet --per s")
def rates(
    result: Annotated[Path, typer.Argument(help="What hopscope replay wrote.")],
    by: Annotated[
        Literal["all", "site", "facet", "coordination"],
        typer.Option(help="Sites together, each, by facet, or by the number of occupied neighbours."),
    ] = "all",
    per: Annotated[Literal["s", "e"], typer.Option(help="Per second, or per electron and nm².")] = "s",
    csv: Annotated[Path | None, typer.Option(help="Write the rates to this file as well.")] = None,
    as_json: Json = False,
) -> None:
    """Rates of departures, hops and arrivals, dwell times and diffusion, with 95 % intervals."""
    from stream.rate_tables import plain, rates_report, show_rates, write_csv

    report = rates_report(result, by, per)
    if csv is not None:
        write_csv(csv, report["rates"])
    if as_json:
        typer.echo(json.dumps(plain(report)))
    else:
        show_rates(report, Console())


@app.command(epilog="Example: hopscope compare vacuum.h5 oxygen.h5")
def compare(
    first: Annotated[Path, typer.Argument(help="What hopscope replay wrote of one condition.")],
    second: Annotated[
        Path | None, typer.Argument(help="... of the other; without it, two ranges of the first.")
    ] = None,
    first_range: Annotated[
        str | None, typer.Option("--first", help="Only this range of the first, begin:end in s.")
    ] = None,
    second_range: Annotated[
        str | None, typer.Option("--second", help="Only this range of the second, begin:end in s.")
    ] = None,
    by: Annotated[
        Literal["all", "site", "facet", "coordination"],
        typer.Option(help="Compare together or class by class; site and facet within one file only."),
    ] = "all",
    csv: Annotated[Path | None, typer.Option(help="Write the compared rates to this file as well.")] = None,
    as_json: Json = False,
) -> None:
    """Compare two conditions: ratios of rates and dwell times, with tests and intervals."""
    from stream.rate_tables import compare_report, plain, show_comparison, write_csv

    report = compare_report(first, second, (first_range, second_range), by)
    if csv is not None:
        write_csv(csv, report["rates"])
    if as_json:
        typer.echo(json.dumps(plain(report)))
    else:
        show_comparison(report, Console())


@app.command(epilog="Example: hopscope track movie.h5 --find bright-atoms --csv tracks.csv")
def track(
    file: Annotated[Path, typer.Argument(help="A recording: nxs, h5, tif, dm3, dm4, npy, ...")],
    find: Annotated[
        Literal["bright-atoms", "dark-atoms", "bright-particles", "dark-particles"],
        typer.Option(help="Atoms that outshine the lattice they sit in, or all particles of one size."),
    ],
    csv: Annotated[Path, typer.Option(help="y, x, frame, particle, mass, drift_y, drift_x; for trackpy.")],
    period_px: Annotated[
        float | None, typer.Option(help="Of the lattice or array; else from its power spectrum.", min=2)
    ] = None,
    radius_px: RadiusPx = None,
    as_json: Json = False,
) -> None:
    """Follow single atoms or particles without a network: find, take the drift away, link."""
    from stream.files import open_recording
    from stream.follow import follow
    from stream.tracks import check_free, write_tracks

    check_free(csv)
    with open_recording(file) as recording, progress_bar() as progress:
        task = progress.add_task(file.name, total=len(recording))
        done = follow(
            recording,
            find,
            period_px=period_px,
            radius_px=radius_px,
            on_frame=lambda n, total: progress.update(task, completed=n, total=total),
        )
    write_tracks(csv, done.points, done.track)
    tell({"file": str(csv), **done.summary()}, as_json)


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


@app.command(epilog="Example: hopscope train training/recipes/au-on-oxide.toml --out runs/au")
def train(
    recipe: Annotated[Path, typer.Argument(help="What to simulate, the network, and how to train it.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, curves and the engine.")],
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in that folder.")] = False,
    start_from: Annotated[Path | None, typer.Option(help="A checkpoint whose weights to begin with.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder of exit waves.")] = Path("training/cache"),
    as_json: Json = False,
) -> None:
    """Train a network on simulated images and export it as an engine (needs the training extra)."""
    with _training_extra():
        from training.export import export as export_engine
        from training.recipe import load_recipe
        from training.train import train as run
    checkpoint = run(recipe, out, cache=cache, resume=resume, start_from=start_from)
    written = export_engine(checkpoint, load_recipe(recipe).name, out, cache=cache)
    tell({"checkpoint": str(checkpoint), "engines": [str(path) for path in written]}, as_json)


@app.command(epilog="Example: hopscope evaluate au-on-oxide-hrtem --out evaluation")
def evaluate(
    engine: Annotated[
        str, typer.Argument(help="A shipped engine (see doctor), an .onnx file or its manifest.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for report.md, report.json and pictures.")] = Path(
        "evaluation"
    ),
    backend: Annotated[
        Literal["auto", "openvino", "onnxruntime"], typer.Option(help="Runs the network.")
    ] = "auto",
    specimens: Annotated[
        int | None, typer.Option(help="Validation specimens; without it, the recipe's.", min=1)
    ] = None,
    draws: Annotated[int, typer.Option(help="Imaging conditions per specimen.", min=1)] = 4,
    against: Annotated[
        list[str] | None, typer.Option(help="Another engine to set beside it; repeatable.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="Without it, the one the manifest names.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder of exit waves.")] = Path("training/cache"),
    as_json: Json = False,
) -> None:
    """Measure an engine on simulated images no training has seen, and write a report (needs the training extra)."""
    with _training_extra():
        from training.measure import Reader
        from training.recipe import RecipeError, load_recipe, recipe_named
        from training.report import evaluate_engine, validation_subjects
    from engines.runtime import open_engine
    from stream.infer import ColumnFinder

    if (out / "report.json").exists():
        raise SettingsError(f"{out} already holds a report, which is never overwritten; choose another --out")
    with ExitStack() as opened:
        manifests, readers = {}, {}
        for name in (engine, *(against or ())):
            one = opened.enter_context(open_engine(name, backend))
            label = (
                name if one.manifest.name in readers else one.manifest.name
            )  # two of one name: as asked for
            manifests[label] = one.manifest
            readers[label] = Reader(partial(ColumnFinder, one), one.manifest.threshold)
        try:
            followed = load_recipe(recipe or recipe_named(next(iter(manifests.values())).recipe))
        except RecipeError as error:
            raise SettingsError(str(error)) from None
        subjects = validation_subjects(followed, cache, specimens)
        with progress_bar() as progress:
            task = progress.add_task("images", total=draws * len(subjects[0]))
            report = evaluate_engine(
                followed,
                subjects,
                readers,
                manifests,
                out,
                draws=draws,
                on_shot=lambda: progress.advance(task),
            )
    tell({"report": str(out / "report.md"), "usable": report["sets"]["usable"]["images"]}, as_json)


@app.command(
    "build-engine", epilog="Example: hopscope build-engine au-on-oxide-hrtem-fp32 --shapes 1024,2048x4096"
)
def build_engine(
    engine: Annotated[
        str, typer.Argument(help="A shipped engine (see doctor) or the path of an .onnx file.")
    ],
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        typer.Option(help="Without it the fastest that the engine's file allows."),
    ] = None,
    shapes: Annotated[
        str | None, typer.Option(help="Images to be fast for, in pixels: sides, or NYxNX; with commas.")
    ] = None,
    flavour: Annotated[
        Literal["tensorrt", "tensorrt-rtx"] | None,
        typer.Option(help="The library; without it the first that is installed."),
    ] = None,
    device: Annotated[int, typer.Option(help="Number of the card.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Build an engine's TensorRT plan for this card, so that no session waits for it (needs the gpu extra)."""
    from engines.build import build_plan, plans_folder
    from engines.runtime import read_engine

    manifest, network, path = read_engine(engine)
    plan, facts = build_plan(
        manifest, network, plans_folder(path), precision=precision, shapes_yx=_shapes_yx(shapes),
        flavour=flavour, device=device, say=lambda text: console.print(text, highlight=False, soft_wrap=True),
    )  # fmt: skip
    tell({"plan": str(plan), **asdict(facts)}, as_json)


@app.command(epilog="Example: hopscope bench --seconds 60 --json")
def bench(
    seconds: Annotated[float, typer.Option(help="Of each live session; 0: stages and recording only.")] = 60,
    engine: Engine = DEFAULT_ENGINE,
    device: Annotated[
        str | None, typer.Option(help="A card, like cuda:0: its stages instead, saved with the card's name.")
    ] = None,
    engines: Annotated[str | None, typer.Option(help="With --device: engines, with commas.")] = None,
    sides: Annotated[
        str, typer.Option(help="With --device: of the frames, in pixels.")
    ] = "512,1024,2048,4096",
    frames: Annotated[int, typer.Option(help="With --device: of the look at memory.", min=0)] = 10_000,
    save_to: Annotated[Path, typer.Option(help="With --device: folder of the results.")] = Path("deploy"),
    as_json: Json = False,
) -> None:
    """Measure this machine: every stage beside what it replaces, recording, and whole live sessions."""
    rows: list[dict[str, object]] = []
    for row in _bench_rows(seconds, engine, device, engines, sides, frames):
        rows.append(row)
        if not as_json:
            Console().print("  ".join(f"{key} {value}" for key, value in row.items()), highlight=False)
    if device is not None:
        from stream.bench_device import save

        console.print(f"saved in {save(rows, save_to)}", highlight=False)
    if as_json:
        typer.echo(json.dumps(rows))


def _size_or_auto(text: str | None) -> float | Literal["auto"] | None:
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"expected nm per pixel or auto, got {text!r}", param_hint="--pixel-size-nm"
        ) from None


@contextmanager
def _training_extra() -> Iterator[None]:
    """Imports of what only the training extra brings."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{error.name} is missing: training needs more than the base install; "
            "pip install 'hopscope[training]'"
        ) from None


def _bench_rows(
    seconds: float, engine: str, device: str | None, engines: str | None, sides: str, frames: int
) -> Iterator[dict[str, object]]:
    if device is None:
        from stream.bench import bench as measure

        return measure(engine, seconds)
    from stream.bench_device import bench_device
    from stream.device import Device, open_device

    choice = open_device(device)
    if choice.index is None:
        raise DeviceError(f"bench --device measures a card: expected cuda:0, got {choice.reason}")
    names = engines.split(",") if engines else [DEFAULT_ENGINE, f"{DEFAULT_ENGINE}-fp32"]
    sides_px = [ny for ny, _ in _shapes_yx(sides) or []]
    return bench_device(Device(choice.index), choice.index, names, sides_px, 3.0, frames)


def _shapes_yx(text: str | None) -> list[tuple[int, int]] | None:
    """`1024,2048x4096` -> [(1024, 1024), (2048, 4096)]."""
    if text is None:
        return None
    shapes = []
    for word in text.split(","):
        sides = word.strip().lower().split("x")
        if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
            raise typer.BadParameter(f"expected sides in pixels like 1024 or 2048x4096, got {word!r}")
        shapes.append((int(sides[0]), int(sides[-1])))
    return shapes


def _override(
    settings: Settings, engine: str, pixel_size_nm: float | None, frame_period_s: float | None
) -> Settings:
    camera = settings.camera.model_dump()
    if pixel_size_nm is not None:
        camera["pixel_size_nm"] = pixel_size_nm
    if frame_period_s is not None:
        camera["frame_period_s"] = frame_period_s
    parts = {**settings.model_dump(), "camera": camera}
    parts["engine"] = {**parts["engine"], "name": engine}
    return Settings.model_validate(parts)


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
