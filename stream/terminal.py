"""The terminal during a command: progress, the live line, the summary, and a clean end on Ctrl-C."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stream.config import Settings

ALARMED = 4
DEFAULT_ENGINE = Settings().engine.name
Json = Annotated[bool, typer.Option("--json", help="Print a machine-readable summary on stdout.")]
Engine = Annotated[str, typer.Option(help="A shipped engine (see doctor) or the path of an .onnx file.")]
DeviceName = Annotated[
    str, typer.Option(help="auto, cpu, cuda:0, or cuda:0,cuda:1 for several in turn; the log says why.")
]
PixelSizeNm = Annotated[
    str | None,
    typer.Option(help="At the specimen, if the file does not say; auto: measured by the lattice in it."),
]
SpacingPx = Annotated[
    float | None,
    typer.Option(
        help="From a column to its nearest, for engines that are scaled by it; without it, measured.", min=1
    ),
]
console = Console(stderr=True)


def size_or_auto(text: str | None) -> float | Literal["auto"] | None:
    """What was given as --pixel-size-nm."""
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"expected nm per pixel or auto, got {text!r}", param_hint="--pixel-size-nm"
        ) from None


def run_session(
    settings: Settings,
    detector: tuple[Callable[..., None], tuple[Any, ...]] | None,
    seconds: float | None,
    headless: bool,
    as_json: bool,
    *,
    idle_exit: bool = False,
) -> None:
    from stream.processes import Supervisor

    supervisor = Supervisor(settings, detector)
    with interruptible() as stop:
        try:
            if not headless:
                console.print("starting (the first start compiles the numerical kernels) ...")
            supervisor.start()
            console.print(f"Ctrl-C ends; the page is at [bold]{supervisor.url}[/]", highlight=False)
            until_s = time.monotonic() + seconds if seconds else float("inf")
            with console.status("") as line:
                while not stop.is_set() and not supervisor.finished and time.monotonic() < until_s:
                    supervisor.tick(0.1)
                    if idle_exit and supervisor.session.series_ended:
                        break
                    if not headless:
                        line.update(_live_line(supervisor.status()))
        finally:
            summary = supervisor.stop()
    tell(summary, as_json)
    if summary["alarms"]:
        raise typer.Exit(ALARMED)


def _live_line(status: dict[str, Any]) -> str:
    counters, latency = status["counters"], status["latency_ms"]
    delay = f"{latency['p50']:.0f} ms" if latency["p50"] is not None else "-"
    return (
        f"received {counters['received']}  recorded {counters['recorded']}  analysed {counters['analysed']}  "
        f"skipped {counters['skipped']}  {status['frames_per_s']:.1f}/s  latency {delay}  "
        f"columns {counters['columns']}  events {counters['events']}"
    )


def tell(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary, default=str))
        return
    for key, value in summary.items():
        Console().print(f"{key:>14}  {value}", highlight=False)


def progress_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C and a service manager's SIGTERM set, so that work ends in good order."""
    stop = threading.Event()
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
