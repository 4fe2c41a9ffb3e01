"""Pictures of lattices of columns, as a dark-field detector shows them, and manifests of engines that know some."""

from __future__ import annotations

import numpy as np

from engines.files import MODELS
from engines.manifest import Manifest, ZoneAxis

GOLD = Manifest.load(MODELS / "au-on-oxide-hrtem.toml")
GRAPHENE = ZoneAxis(name="graphene", spacings_nm=(0.2131, 0.2131), angle_deg=60)
# a of 0.315 to 0.355 nm; spacings are a √3 / 2
MX2 = ZoneAxis(name="MX2", spacings_nm=(0.2896, 0.2896), angle_deg=60, constant_range=(0.942, 1.062))

# translations (2, 2) and columns (x, y in cells, height), nearest columns 1 apart
SQUARE = ((1.0, 0.0), (0.0, 1.0)), ((0.0, 0.0, 1.0),)
HEXAGONAL = ((1.0, 0.0), (0.5, 0.75**0.5)), ((0.0, 0.0, 1.0),)
OBLIQUE = ((1.0, 0.0), (0.35, 1.3)), ((0.0, 0.0, 1.0),)
PEROVSKITE = ((2**0.5, 0.0), (0.0, 2**0.5)), ((0.0, 0.0, 1.0), (0.5, 0.5, 0.45))
DISULPHIDE = ((3**0.5, 0.0), (3**0.5 / 2, 1.5)), ((0.0, 0.0, 1.0), (1 / 3, 1 / 3, 0.4))
Net = tuple[tuple[tuple[float, float], ...], tuple[tuple[float, float, float], ...]]


def knowing(*axes: ZoneAxis) -> Manifest:
    """An engine that is scaled by these lattices."""
    return GOLD.model_copy(update={"zone_axes": axes})


def columns(
    net: Net,
    spacing_px: float,
    turn_rad: float = 0.3,
    shape_yx: tuple[int, int] = (300, 300),
    width: float = 0.27,
) -> np.ndarray:
    """Gaussian columns on nothing, the highest 1: (ny, nx) f8; `width` is their sigma over the spacing."""
    turn = np.array([[np.cos(turn_rad), np.sin(turn_rad)], [-np.sin(turn_rad), np.cos(turn_rad)]])
    cell = spacing_px * np.array(net[0]) @ turn
    n = int(np.hypot(*shape_yx) / spacing_px) + 3
    places = (
        np.stack(np.meshgrid(np.arange(-n, n), np.arange(-n, n), indexing="ij"), -1).reshape(-1, 2) @ cell
    )
    image = np.zeros(shape_yx)
    sigma = width * spacing_px
    reach = int(np.ceil(4 * sigma))
    step = np.arange(-reach, reach + 1)
    for u, v, height in net[1]:
        for x, y in places + np.array([u, v]) @ cell + np.array(shape_yx[::-1]) / 2:
            if -reach < x < shape_yx[1] + reach and -reach < y < shape_yx[0] + reach:
                rows, across = round(y) + step, round(x) + step
                rows, across = (
                    axis[(axis >= 0) & (axis < size)]
                    for axis, size in zip((rows, across), shape_yx, strict=True)
                )
                falls = [
                    np.exp(-((axis - at) ** 2) / (2 * sigma**2)) for axis, at in ((rows, y), (across, x))
                ]
                image[np.ix_(rows, across)] += height * np.outer(*falls)
    return image


def counted(image: np.ndarray, electrons: float = 20, seed: int = 0) -> np.ndarray:
    """What a camera counts: (ny, nx) u2."""
    return np.random.default_rng(seed).poisson(electrons * np.clip(image, 0, None)).astype(np.uint16)


def amorphous(shape_yx: tuple[int, int], period_px: float, seed: int = 0) -> np.ndarray:
    """Random contrast of about one period, zero on average, of deviation 1: (ny, nx) f8."""
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=shape_yx))
    q = np.hypot(np.fft.fftfreq(shape_yx[0])[:, None], np.fft.fftfreq(shape_yx[1]))
    image = np.fft.ifft2(noise * np.exp(-(((q * period_px - 1) / 0.3) ** 2))).real
    return image / image.std()
