"""Commands that make, measure and build engines; only here, and inside a command, training is imported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from stream.config import SettingsError
from stream.device import DeviceError
from stream.terminal import DEFAULT_ENGINE, Engine, Json, console, progress_bar, tell

engines = typer.Typer()
CardBackend = Literal["auto", "tensorrt", "torch", "onnxruntime-cuda"]


@engines.command(epilog="Example: hopscope train training/recipes/au-on-oxide.toml --out runs/au")
def train(
    recipe: Annotated[Path, typer.Argument(help="What to simulate, the network, and how to train it.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, curves and the engine.")],
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in that folder.")] = False,
    start_from: Annotated[
        Path | None,
        typer.Option(help="A checkpoint, or an engine's -fp32.onnx, whose weights to begin with."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="In place of the recipe's: of first weights and images.", min=0)
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, or a card like cuda:0; several: torchrun -m training.train.")
    ] = "auto",
    cache: Annotated[Path, typer.Option(help="Folder of exit waves.")] = Path("training/cache"),
    as_json: Json = False,
) -> None:
    """Train a network on simulated images and export it as an engine (needs the training extra)."""
    with _training_extra():
        from training.checkpoint import TrainingError
        from training.exitwave import CacheError
        from training.export import export as export_engine
        from training.recipe import RecipeError, load_recipe
        from training.train import train as run
    try:
        checkpoint = run(
            recipe, out, cache=cache, resume=resume, start_from=start_from, seed=seed, device=device
        )
        written = export_engine(checkpoint, load_recipe(recipe).name, out, cache=cache)
    except (RecipeError, TrainingError, CacheError) as error:
        raise SettingsError(str(error)) from None
    tell({"checkpoint": str(checkpoint), "engines": [str(path) for path in written]}, as_json)


@engines.command(epilog="Example: hopscope evaluate au-on-oxide-hrtem --out evaluation")
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
    draws: Annotated[
        int,
        # further sets are for choosing thresholds: `training.shots.MOST_DRAWS`
        typer.Option(help="Imaging conditions per specimen; STEM scenes have one.", min=1, max=12),
    ] = 4,
    against: Annotated[
        list[str] | None, typer.Option(help="Another engine to set beside it; repeatable.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="Without it, the one the manifest names.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder of exit waves.")] = Path("training/cache"),
    as_json: Json = False,
) -> None:
    """Measure an engine on simulated images no training has seen, and write a report (needs the training extra)."""
    with _training_extra():
        from training.exitwave import CacheError
        from training.measure import Reader
        from training.recipe import RecipeError, load_recipe, recipe_named
        from training.report import evaluate_engine
        from training.report_stem import evaluate_stem_engine
        from training.shots import validation_subjects
        from training.stem_images import validation_scenes
    from engines.runtime import open_engine
    from stream.infer import ColumnFinder

    if (out / "report.json").exists():
        raise SettingsError(f"{out} already holds a report, which is never overwritten; choose another --out")
    with ExitStack() as opened:
        manifests, readers = {}, {}
        for name in (engine, *(against or ())):
            one = opened.enter_context(open_engine(name, backend))
            # two of one name: the second as it was asked for
            label = name if one.manifest.name in readers else one.manifest.name
            manifests[label] = one.manifest
            readers[label] = Reader(partial(ColumnFinder, one), one.manifest.threshold)
        try:
            followed = load_recipe(recipe or recipe_named(next(iter(manifests.values())).recipe))
            with progress_bar() as progress:
                task = progress.add_task("images")

                def advance() -> None:
                    progress.advance(task)

                if followed.stem is not None:
                    scenes = validation_scenes(followed, specimens)
                    progress.update(task, total=len(scenes))
                    report = evaluate_stem_engine(followed, scenes, readers, manifests, out, on_shot=advance)
                else:
                    subjects = validation_subjects(followed, cache, specimens)
                    progress.update(task, total=draws * len(subjects[0]))
                    report = evaluate_engine(
                        followed, subjects, readers, manifests, out, draws=draws, on_shot=advance
                    )
        except (RecipeError, CacheError) as error:
            raise SettingsError(str(error)) from None
    images = report["images"] if followed.stem is not None else report["sets"]["usable"]["images"]
    tell({"report": str(out / "report.md"), "usable": images}, as_json)


@engines.command(
    "build-engine", epilog="Example: hopscope build-engine au-on-oxide-hrtem-fp32 --shapes 1024,2048x4096"
)
def build_engine(
    engine: Annotated[
        str, typer.Argument(help="A shipped engine (see doctor) or the path of an .onnx file.")
    ],
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "fp8", "int8"] | None,
        typer.Option(help="Without it fp16 from an -fp32 engine, int8 from an int8 one."),
    ] = None,
    shapes: Annotated[
        str | None,
        typer.Option(help="Images to be fast for, in pixels of the engine: sides, or NYxNX; with commas."),
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
    from engines.files import read_engine, read_golden

    manifest, network, path = read_engine(engine)
    example, _ = read_golden(path, manifest)
    plan, facts = build_plan(
        manifest, network, plans_folder(path), example=example, precision=precision, shapes_yx=_shapes_yx(shapes),
        flavour=flavour, device=device, say=lambda text: console.print(text, highlight=False, soft_wrap=True),
    )  # fmt: skip
    tell({"plan": str(plan), **asdict(facts)}, as_json)


@engines.command(epilog="Example: hopscope bench --seconds 60 --json")
def bench(
    seconds: Annotated[float, typer.Option(help="Of each live session; 0: stages and recording only.")] = 60,
    engine: Engine = DEFAULT_ENGINE,
    device: Annotated[
        str | None, typer.Option(help="A card, like cuda:0: its stages instead, saved with the card's name.")
    ] = None,
    engines: Annotated[
        str | None,
        typer.Option(
            help="With --device: engines, with commas; without it, the default's fast and accurate."
        ),
    ] = None,
    sides: Annotated[
        str, typer.Option(help="With --device: of the frames, in pixels.")
    ] = "512,1024,2048,4096",
    frames: Annotated[int, typer.Option(help="With --device: of the look at memory.", min=0)] = 10_000,
    backend: Annotated[CardBackend, typer.Option(help="With --device: what runs the engines.")] = "auto",
    save_to: Annotated[Path, typer.Option(help="With --device: folder of the results.")] = Path("deploy"),
    as_json: Json = False,
) -> None:
    """Measure this machine: every stage beside what it replaces, recording, and whole live sessions."""
    from stream.bench_table import save, tables

    rows: list[dict[str, object]] = []
    for row in _bench_rows(seconds, engine, device, engines, sides, frames, backend):
        rows.append(row)
        if device is not None:
            saved = save(rows, save_to)  # what is measured is kept, whatever comes after
        if not as_json:
            told = Console() if device is None else console
            told.print("  ".join(f"{key} {value}" for key, value in row.items()), highlight=False)
    if device is not None:
        if not as_json:
            for table in tables(rows):
                Console().print(table, "")
        console.print(f"saved in {saved}", highlight=False)
    if as_json:
        typer.echo(json.dumps(rows))


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
    seconds: float,
    engine: str,
    device: str | None,
    engines: str | None,
    sides: str,
    frames: int,
    backend: CardBackend,
) -> Iterator[dict[str, object]]:
    if device is None:
        from stream.bench import bench as measure

        return measure(engine, seconds)
    from stream.bench_device import bench_device
    from stream.device import Device, open_device

    choice = open_device(device)
    if len(choice.cards) != 1:
        raise DeviceError(
            f"bench --device measures one card: expected cuda:0, got {device} ({choice.reason})"
        )
    shipped = [DEFAULT_ENGINE, f"{DEFAULT_ENGINE}-fp32", f"{DEFAULT_ENGINE}-accurate-fp32"]
    names = engines.split(",") if engines else shipped
    sides_px = [ny for ny, _ in _shapes_yx(sides) or []]
    return bench_device(Device(choice.cards[0]), choice.cards[0], names, sides_px, 3.0, frames, backend)


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
