"""hopscope doctor: is this machine, installation and site.toml fit for a session?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from engines.files import list_engines
from engines.manifest import EngineMismatch
from stream.config import Settings
from stream.device import Choice, Device, DeviceError, open_device
from stream.find import open_where
from stream.frame import CalibrationError
from stream.infer import own_pixel_size_nm

PACKAGES = ("stream", "engines", "training")
ON_GPU = {  # what runs an engine there, by the name it is imported with, and how to get it
    "tensorrt": "pip install 'hopscope[gpu]'",
    "tensorrt_rtx": "pip install 'hopscope[rtx]', for RTX cards",
    "torch": "pip install torch, where TensorRT cannot be installed",
}


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, how it is, and what to do if it is not well."""

    check: str
    verdict: Literal["ok", "warning", "fault"]
    text: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(settings: Settings) -> Iterator[Finding]:
    """All checks, one after another; a fault means that `hopscope live` would refuse or lose data."""
    checks: tuple[Callable[[Settings], Finding], ...] = (
        _python, _names, _pixel_size, _device, _engine, _shared_memory, _disk, _page, _camera,
    )  # fmt: skip
    for check in checks:
        yield check(settings)


def check_calibration(settings: Settings) -> None:
    """Raise CalibrationError if the pixel size is neither set nor promised by the stream."""
    if settings.camera.pixel_size_nm == "auto":
        raise CalibrationError(
            'the pixel size is not known: expected camera.pixel_size_nm in nm, or "stream", got "auto", which measures '
            "recordings only; measure one of this magnification: hopscope detect --pixel-size-nm auto"
        )
    if settings.camera.pixel_size_nm is None:
        raise CalibrationError(
            "the pixel size is not known: expected camera.pixel_size_nm in site.toml, got nothing; set it "
            "under [camera] to the nm per pixel at the specimen at this magnification, or to "
            '"stream" if the sender puts pixel_size_nm into its start message'
        )


def foreign_owners() -> dict[str, list[str]]:
    """Distributions other than hopscope that own one of its import names."""
    owners = importlib.metadata.packages_distributions()
    return {
        name: foreign
        for name in PACKAGES
        if (foreign := sorted({d for d in owners.get(name, []) if d.lower() != "hopscope"}))
    }


def _python(_: Settings) -> Finding:
    version = platform.python_version()
    good = (3, 11) <= sys.version_info < (3, 14)
    return Finding(
        "python", "ok" if good else "fault", f"{version} on {platform.system()} {platform.machine()}"
    )


def _names(_: Settings) -> Finding:
    foreign = foreign_owners()
    if not foreign:
        return Finding("import names", "ok", f"{', '.join(PACKAGES)} belong to hopscope alone")
    text = "; ".join(f"{name} is also installed by {', '.join(dists)}" for name, dists in foreign.items())
    return Finding("import names", "fault", f"{text}: install hopscope in an environment of its own")


def _pixel_size(settings: Settings) -> Finding:
    try:
        check_calibration(settings)
    except CalibrationError as error:
        return Finding("pixel size", "fault", str(error))
    size = settings.camera.pixel_size_nm
    return Finding("pixel size", "ok", "from the stream" if size == "stream" else f"{size} nm/px")


def _device(settings: Settings) -> Finding:
    """Where columns would be found, and what there is to find them with; on a card the kernels are compiled."""
    try:
        choice = open_device(settings.engine.device)
        if not choice.cards:
            return Finding("device", "ok", f"the CPU, because {choice.reason}")
        return _cards(choice)
    except DeviceError as error:
        if settings.engine.device == "auto":
            return Finding("device", "warning", f"the CPU, because {error}")
        return Finding("device", "fault", str(error))


def _cards(choice: Choice) -> Finding:
    cards = []
    for index in choice.cards:
        facts = Device(index).facts()
        driver, capability = int(facts["driver_cuda"]), str(facts["capability"]).replace(".", "")
        cards.append(
            f"cuda:{index} {facts['card']} (sm_{capability}, {facts['memory_gib']} GiB), driver for CUDA "
            f"{driver // 1000}.{driver % 1000 // 10}, CuPy {facts['cupy']}"
        )
    here = [f"{name} {_version(name)}" for name in ON_GPU if importlib.util.find_spec(name)]
    text = f"{', '.join(cards)}, because {choice.reason}; engines by {', '.join(here) or 'nothing'}"
    if here:
        return Finding("device", "ok", text)
    remedies = "; ".join(f"{name}: {remedy}" for name, remedy in ON_GPU.items())
    return Finding("device", "warning", f"{text}. Install one of {remedies}")


def _version(module: str) -> str:
    try:
        return importlib.metadata.version(module.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _engine(settings: Settings) -> Finding:
    try:
        with closing(open_where(settings.engine, pictures=False)) as where:
            manifest = where.manifest
            own_pixel_size_nm(manifest, None, settings.camera.spacing_px)
            low, high = manifest.spacing_px_range or manifest.sampling_nm_px
            unit = "px between columns" if manifest.spacing_px_range else "nm/px"
            text = f"{manifest.name} on {where.runs_on}, {low} to {high} {unit}, golden output reproduced"
            wanted = open_device(settings.engine.device).cards
            if wanted and not where.on_cards:
                return Finding("engine", "warning", f"{text}, because {where.reason}")
    except (DeviceError, EngineMismatch, CalibrationError, OSError, ValueError, ImportError) as error:
        return Finding("engine", "fault", f"{error} (shipped: {', '.join(list_engines())})")
    return Finding("engine", "ok", text)


def _shared_memory(settings: Settings) -> Finding:
    shm = Path("/dev/shm")
    if not shm.is_dir():
        return Finding("shared memory", "ok", "no /dev/shm on this system: bounded by memory only")
    free_mib = shutil.disk_usage(shm).free >> 20
    text = f"{free_mib} MiB free, the ring takes {settings.ring.size_mib}"
    if free_mib < 2 * settings.ring.size_mib:
        return Finding("shared memory", "fault", text + "; expected twice that: lower ring.size_mib")
    return Finding("shared memory", "ok", text)


def _disk(settings: Settings) -> Finding:
    if not settings.record.enabled:
        return Finding("recording", "warning", "record.enabled is false: no frame will be kept")
    place = settings.record.directory.absolute()
    while not place.exists():
        place = place.parent
    free_mib = shutil.disk_usage(place).free >> 20
    text = f"{settings.record.directory}: {free_mib} MiB free, {settings.record.min_free_mib} kept free"
    if free_mib <= settings.record.min_free_mib:
        return Finding("recording", "fault", text + "; make room or set record.directory to another disk")
    return Finding("recording", "ok", text)


def _page(settings: Settings) -> Finding:
    address = (settings.page.host, settings.page.port)
    try:
        with socket.create_server(address):
            return Finding("page", "ok", f"port {settings.page.port} of {settings.page.host} is free")
    except OSError as error:
        return Finding("page", "fault", f"cannot listen on {address}: {error}; set page.port to another or 0")


def _camera(settings: Settings) -> Finding:
    url = urlparse(settings.camera.endpoint)
    if url.scheme != "tcp" or not url.hostname or not url.port:
        return Finding("camera", "ok", f"{settings.camera.endpoint} (not probed)")
    try:
        with socket.create_connection((url.hostname, url.port), timeout=2):
            return Finding("camera", "ok", f"{settings.camera.endpoint} answers")
    except OSError as error:
        text = f"{settings.camera.endpoint} does not answer yet ({error}); normal while the camera is idle"
        return Finding("camera", "warning", text)
