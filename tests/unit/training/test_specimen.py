import numpy as np
import pytest

pytest.importorskip("ase")
pytest.importorskip("torch")

from scipy.spatial import cKDTree

from training.exitwave import (
    CacheError,
    WaveSettings,
    _vibrate,
    cache_path,
    exit_wave,
    exit_waves,
    load_wave,
    simulate,
)
from training.growth import columns_of, grow_particle, lattice_constant_angstrom, zone_rotation
from training.specimen import ParticleSettings, Specimen, make_particle

SMALL = ParticleSettings(side_px=96, diameter_angstrom=(9.0, 11.0), support_fraction=0.0, empty_fraction=0.0)


@pytest.mark.parametrize(
    ("zone", "spacing", "per_cell_area"),
    # nearest projected columns, and area per column, in units of the lattice constant (and its square)
    [
        ("100", 1 / 2, 1 / 4),
        ("110", np.sqrt(3 / 8), 1 / np.sqrt(8)),
        ("111", 1 / np.sqrt(6), 1 / np.sqrt(48)),
    ],
)
def test_columns_of_a_known_crystal(zone, spacing, per_cell_area):
    grid = np.stack(np.meshgrid(*[np.arange(-13, 14)] * 3, indexing="ij"), -1).reshape(-1, 3)
    sites = grid[(grid.sum(1) % 2 == 0) & ((grid**2).sum(1) <= 13**2)]
    xyz = zone_rotation(zone, 0.3, 0.0, 0.0).apply(sites / 2)
    column = columns_of(sites, zone)
    count = np.bincount(column)
    centre = np.stack([np.bincount(column, xyz[:, i]) / count for i in (0, 1)], -1)
    spread = np.abs(xyz[:, :2] - centre[column]).max()
    assert spread < 1e-12  # every atom of a column lies on one line along the beam
    distance = cKDTree(centre).query(centre, k=2)[0][:, 1]
    assert np.median(distance) == pytest.approx(spacing, rel=1e-9)
    disc = np.count_nonzero(np.hypot(*centre.T) < 5.1)
    assert disc == pytest.approx(np.pi * 5.1**2 / per_cell_area, rel=0.04)


def test_a_particle_is_compact_and_its_columns_are_where_its_atoms_are():
    specimen = make_particle(SMALL, 5)
    assert specimen.column_atoms.sum() == len(specimen.numbers) == len(specimen.xyz_angstrom)
    weighted = (specimen.column_yx_nm * specimen.column_atoms[:, None]).sum(0) / specimen.column_atoms.sum()
    assert weighted == pytest.approx(specimen.xyz_angstrom[:, 1::-1].mean(0) / 10, abs=1e-12)
    sites, occupied = grow_particle(np.random.default_rng(0), 4.08, 25.0)
    distance = cKDTree(sites[occupied]).query(sites[occupied], k=4)[0]
    assert (distance[:, 3] <= np.sqrt(2) + 1e-9).all()  # three neighbours at least: none floats


def test_columns_that_are_displaced_keep_their_atoms_and_are_where_these_are():
    displaced = SMALL.model_copy(update={"column_disorder_angstrom": (0.3, 0.3)})
    before, after = (make_particle(settings, 5) for settings in (SMALL, displaced))
    count = len(before.atom_column)
    moved = (after.xyz_angstrom - before.xyz_angstrom)[:count, :2]
    of_column = moved[np.unique(before.atom_column, return_index=True)[1]]
    np.testing.assert_allclose(moved, of_column[before.atom_column], atol=1e-9)  # no atom without its column
    np.testing.assert_allclose(10 * (after.column_yx_nm - before.column_yx_nm), of_column[:, ::-1], atol=1e-9)
    assert of_column.std() == pytest.approx(0.3, rel=0.25)
    np.testing.assert_array_equal(after.xyz_angstrom[count:], before.xyz_angstrom[count:])


def test_same_seed_same_specimen_and_other_seed_another():
    a, b, c = (make_particle(SMALL, seed) for seed in (3, 3, 4))
    assert np.array_equal(a.xyz_angstrom, b.xyz_angstrom)
    assert a.xyz_angstrom.shape != c.xyz_angstrom.shape or not np.array_equal(a.xyz_angstrom, c.xyz_angstrom)


def test_supports_are_not_labelled_and_do_not_overlap_the_particle():
    settings = ParticleSettings(
        side_px=160, diameter_angstrom=(14.0, 16.0), support_fraction=1.0, empty_fraction=0.0
    )
    kinds = set()
    for seed in range(8):
        specimen = make_particle(settings, seed)
        gold = specimen.numbers == 79
        kinds.add(specimen.kind.partition(", ")[2])
        assert specimen.column_atoms.sum() == gold.sum()
        assert cKDTree(specimen.xyz_angstrom[~gold]).query(specimen.xyz_angstrom[gold])[0].min() > 1.4
    assert len(kinds) > 1


@pytest.mark.parametrize(("under_fraction", "where"), [(0.0, "beside"), (1.0, "under")])
def test_a_support_lies_where_the_settings_say(under_fraction, where):
    settings = ParticleSettings(
        side_px=160,
        diameter_angstrom=(14.0, 16.0),
        supports=("ceria",),
        support_fraction=1.0,
        empty_fraction=0.0,
        under_fraction=under_fraction,
    )
    for seed in range(4):
        specimen = make_particle(settings, seed)
        gold = specimen.numbers == 79
        assert specimen.kind.endswith(f"ceria {where}")
        z, below = specimen.xyz_angstrom[gold, 2], specimen.xyz_angstrom[~gold, 2]
        shared = min(z.max(), below.max()) - max(z.min(), below.min())
        assert (shared < 0) == (where == "under")


def test_elements_go_by_name():
    assert lattice_constant_angstrom("Pt") == pytest.approx(3.92)
    with pytest.raises(ValueError, match="expected an fcc metal, got bcc"):
        lattice_constant_angstrom("Fe")
    with pytest.raises(ValueError, match="no such element"):
        lattice_constant_angstrom("Xx")


def test_abtem_is_transposed_and_converted_once():
    """One gold column off the diagonal shows at (y, x) nm / sampling, not at (x, y)."""
    x, y = 3.0, 9.0
    z = np.arange(4) * 2.9 + 2
    specimen = Specimen(
        numbers=np.full(4, 79),
        xyz_angstrom=np.stack([np.full(4, x), np.full(4, y), z], -1),
        box_angstrom=np.array([12.8, 12.8, 14.0]),
        thermal_angstrom=0.08,
        focus_z_angstrom=6.35,
        column_yx_nm=np.array([[y, x]]) / 10,
        column_atoms=np.array([4]),
        kind="a column",
    )
    wave = exit_wave(specimen, 64, WaveSettings())
    scattered = np.abs(wave.wave - 1) ** 2
    peak = np.unravel_index(np.argmax(scattered), scattered.shape)
    assert wave.sampling_nm == pytest.approx(0.02)
    assert np.abs(np.array(peak) - wave.column_yx_nm[0] / wave.sampling_nm).max() <= 1


def test_the_cache_gives_back_what_was_simulated_and_says_what_is_corrupt(tmp_path, caplog):
    waves = WaveSettings()
    path = cache_path(tmp_path, SMALL, waves, 1)
    simulate(SMALL, waves, 1, path)
    first = load_wave(path)
    direct = exit_wave(make_particle(SMALL, 1), 96, waves)
    assert np.array_equal(first.wave, direct.wave)
    assert np.array_equal(first.column_yx_nm, direct.column_yx_nm)
    assert cache_path(tmp_path, SMALL, waves, 2) != path
    assert cache_path(tmp_path, SMALL, WaveSettings(slice_angstrom=1.0), 1) != path

    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CacheError, match="not a readable exit wave"):
        load_wave(path)
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 0xFF
    path.write_bytes(altered)
    again = exit_waves(SMALL, waves, [1], tmp_path, workers=1)
    assert "simulating it again" in caplog.text
    assert np.array_equal(again[0].wave, first.wave)


def test_vibration_blurs_the_potential_as_debye_and_waller_say():
    """The mean of very many frozen displacements is the potential under a Gaussian of their rms."""
    rng = np.random.default_rng(0)
    x = np.arange(64) * 0.1
    rms = 0.25

    def atom(cx, cy):
        return np.exp(-((x[:, None] - cx) ** 2 + (x[None, :] - cy) ** 2) / (2 * 0.3**2))

    frozen = np.mean([atom(*(3.2 + rng.normal(0, rms, 2))) for _ in range(4000)], axis=0)
    vibrating = atom(3.2, 3.2)[None].copy()
    _vibrate(vibrating, rms, 0.1)
    assert np.abs(vibrating[0] - frozen).max() < 0.02
    assert np.abs(atom(3.2, 3.2) - frozen).max() > 0.3


def test_the_wave_is_focused_on_the_particles_middle():
    """However much empty box lies below a column, the wave is the same."""
    waves = []
    for below in (2.0, 40.0):
        specimen = Specimen(
            numbers=np.array([79]),
            xyz_angstrom=np.array([[6.4, 6.4, 3.0]]),
            box_angstrom=np.array([12.8, 12.8, 4.0 + below]),
            thermal_angstrom=0.08,
            focus_z_angstrom=3.0,
            column_yx_nm=np.array([[0.64, 0.64]]),
            column_atoms=np.array([1]),
            kind="an atom",
        )
        waves.append(exit_wave(specimen, 64, WaveSettings()).wave)
    assert np.abs(waves[0] - waves[1]).max() < 0.02
