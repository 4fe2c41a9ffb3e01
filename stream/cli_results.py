"""Commands that make something of pictures, recordings and results: thin, like the rest of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from stream.config import parse_settings
from stream.terminal import (
    DEFAULT_ENGINE,
    DeviceName,
    Engine,
    Json,
    PixelSizeNm,
    SpacingPx,
    progress_bar,
    size_or_auto,
    tell,
)  # fmt: skip

results = typer.Typer()
calibrate = typer.Typer(no_args_is_help=True, help="Measure a property of the instrument from a picture.")
results.add_typer(calibrate, name="calibrate")
RadiusPx = Annotated[
    float | None,
    typer.Option(help="Longest step of a track from frame to frame; else what is certain.", min=0.01),
]


@results.command(epilog="Example: hopscope detect image.dm4 --csv columns.csv")
def detect(
    images: Annotated[
        list[Path], typer.Argument(help="png, tif, bmp, npy, h5, dm3, dm4, of one image or many.")
    ],
    csv: Annotated[Path, typer.Option(help="file, frame, y, x, score, kind; pixels of the input image.")],
    engine: Engine = DEFAULT_ENGINE,
    pixel_size_nm: PixelSizeNm = None,
    spacing_px: SpacingPx = None,
    threshold: Annotated[
        float | None, typer.Option(help="Score of a column; without it the engine's own.")
    ] = None,
    device: DeviceName = "auto",
    as_json: Json = False,
) -> None:
    """Find the columns in images."""
    from stream.detect import detect_images

    size_nm = size_or_auto(pixel_size_nm)
    chosen = parse_settings({"engine": {"name": engine, "device": device}}, "detect").engine
    chosen = chosen.model_copy(update={"threshold": threshold})
    with progress_bar() as progress:
        task = progress.add_task("images", total=len(images))
        summary = detect_images(images, csv, chosen, size_nm, spacing_px, lambda _: progress.advance(task))
    tell(summary, as_json)


@results.command(
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


@results.command(epilog="Example: hopscope rates result.h5 --by facet --per s")
def rates(
    result: Annotated[Path, typer.Argument(help="What hopscope replay wrote.")],
    by: Annotated[
        Literal["all", "site", "facet", "coordination"],
        typer.Option(help="Sites together, each, by facet, or by the number of occupied neighbours."),
    ] = "all",
    per: Annotated[Literal["s", "e"], typer.Option(help="Per second, or per electron and nm².")] = "s",
    csv: Annotated[Path | None, typer.Option(help="Write the rates to this file as well.")] = None,
    survival: Annotated[
        Path | None, typer.Option(help="Table of the dwells' survival curves (Kaplan-Meier).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Rates of departures, hops and arrivals, dwell times and diffusion, with 95 % intervals."""
    from stream.rate_tables import plain, rates_report, show_rates, write_csv

    report = rates_report(result, by, per, survival is not None)
    if csv is not None:
        write_csv(csv, report["rates"])
    if survival is not None:
        write_csv(survival, report["survival"])
    if as_json:
        typer.echo(json.dumps(plain(report)))
    else:
        show_rates(report, Console())


@results.command(epilog="Example: hopscope compare vacuum.h5 oxygen.h5")
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
    per: Annotated[
        Literal["s", "e"],
        typer.Option(help="Per second, or per electron and nm²: each by its own dose rate."),
    ] = "s",
    csv: Annotated[Path | None, typer.Option(help="Write the compared rates to this file as well.")] = None,
    as_json: Json = False,
) -> None:
    """Compare two conditions: ratios of rates and dwell times, with tests and intervals."""
    from stream.rate_tables import compare_report, plain, show_comparison, write_csv

    report = compare_report(first, second, (first_range, second_range), by, per)
    if csv is not None:
        write_csv(csv, report["rates"])
    if as_json:
        typer.echo(json.dumps(plain(report)))
    else:
        show_comparison(report, Console())


@results.command(epilog="Example: hopscope track movie.h5 --find bright-atoms --csv tracks.csv")
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


@calibrate.command(epilog="Example: hopscope calibrate mtf vacuum.dm4 --png mtf.png")
def mtf(
    image: Annotated[Path, typer.Argument(help="Vacuum, or a stack of it, as the camera gave it.")],
    region: Annotated[
        str | None, typer.Option(help="The part that is vacuum, in pixels: y0:y1,x0:x1.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture of the spectrum and the fit.")] = None,
    as_json: Json = False,
) -> None:
    """Fit the camera's modulation transfer function to the noise of vacuum; prints lines for a recipe's [imaging]."""
    from stream.mtf import calibrate_mtf, draw_mtf

    fitted = calibrate_mtf(image, _region(region))
    if png is not None:
        draw_mtf(png, fitted)
    if as_json:
        typer.echo(json.dumps(fitted.summary()))
    else:
        typer.echo("\n".join(fitted.recipe_lines()))


def _region(text: str | None) -> tuple[slice, slice] | None:
    """`0:512,100:600` -> the slices along y and x."""
    if text is None:
        return None
    ends = [side.split(":") for side in text.split(",")]
    if [len(side) for side in ends] != [2, 2] or not all(
        end.strip().isdecimal() for side in ends for end in side
    ):
        raise typer.BadParameter(f"expected y0:y1,x0:x1 in pixels, got {text!r}", param_hint="--region")
    (y0, y1), (x0, x1) = ((int(first), int(last)) for first, last in ends)
    return slice(y0, y1), slice(x0, x1)
