"""The phantom shows what its truth says, at the dose it says."""

import h5py
import hdf5plugin  # noqa: F401  (registers the filter that the movie is compressed with)
import numpy as np
import pytest
from scipy.ndimage import gaussian_laplace, minimum_filter
from scipy.spatial import KDTree

from stream.frame import Frame, RecordingError, SeriesEnd, SeriesHeader
from stream.phantom import Phantom
from stream.phantom_movie import read_truth, write_movie
from stream.phantom_particle import LATTICE_NM, SPACING_NM


@pytest.fixture(scope="module")
def session() -> Phantom:
    return Phantom(seed=5, shape_px=256, frames=600, drift_px_per_frame=0.2)


def test_is_a_frame_source_with_the_detectors_clock() -> None:
    phantom = Phantom(seed=1, shape_px=128, frames=3, frame_period_s=0.04, series_id=7)
    header, *frames, end = list(phantom)
    assert isinstance(header, SeriesHeader)
    assert (header.series_id, header.shape_yx, header.frames_expected) == (7, (128, 128), 3)
    assert header.dose_rate_e_nm2_s == pytest.approx(31_000 / 0.04)
    assert end == SeriesEnd(7)
    for index, frame in enumerate(frames):
        assert isinstance(frame, Frame)
        assert (frame.series_id, frame.index, frame.t_ns) == (7, index, index * 40_000_000)
        assert len(frame.payload) == frame.encoding.frame_bytes == header.frame_bytes
        counts = np.frombuffer(frame.payload, header.dtype).reshape(header.shape_yx)
        np.testing.assert_array_equal(counts, phantom.render(index))


def test_endless_session_goes_on_and_tells_its_truth_so_far() -> None:
    phantom = Phantom(seed=1, shape_px=128, frames=None)
    source = iter(phantom)
    assert isinstance(next(source), SeriesHeader)
    assert [next(source).index for _ in range(5)] == list(range(5))
    assert phantom.header.frames_expected is not None
    assert phantom.header.frames_expected >= 10**9
    with pytest.raises(ValueError, match="truth_until"):
        _ = phantom.truth
    finite = Phantom(seed=1, shape_px=128, frames=300)
    np.testing.assert_array_equal(phantom.truth_until(300).hops, finite.truth.hops)
    np.testing.assert_array_equal(phantom.render(299), finite.render(299))
    assert phantom.render(50_000).shape == (128, 128)


def test_waves_add(session: Phantom) -> None:
    """A canvas that went through hundreds of moves equals one drawn afresh: nothing is left behind."""
    fresh = Phantom(seed=5, shape_px=256, frames=600, drift_px_per_frame=0.2)
    for index in range(0, 600, 7):
        session.render(index)
    np.testing.assert_array_equal(session.intensity(599), fresh.intensity(599))
    np.testing.assert_array_equal(session.intensity(0), fresh.intensity(0))


def test_image_is_the_square_of_the_sum_of_the_columns_waves() -> None:
    phantom = Phantom(seed=2, shape_px=160, frames=1, support=False, drift_px_per_frame=0)
    wave = np.ones((400, 400), complex)
    side = phantom._images.side_px
    truth = phantom.truth
    for yx, height in zip(truth.columns(0), truth.height[truth.initial], strict=True):
        top, left = (np.floor(yx).astype(int) + 120) - side // 2
        patch = phantom._images.patch(int(height), tuple(yx % 1))
        wave[top : top + side, left : left + side] += patch
    expected = np.abs(wave[120:-120, 120:-120]) ** 2
    np.testing.assert_allclose(phantom.intensity(0), expected, atol=2e-5)


@pytest.mark.parametrize("index", [0, 137, 402, 599])
@pytest.mark.parametrize(("max_height", "within_px"), [(2, 0.1), (14, 0.2)])
def test_truth_is_where_the_columns_are(index: int, max_height: int, within_px: float) -> None:
    """At high dose the darkest points of inner columns lie on the truth, drift included.

    Columns taller on one side than on the other pull a minimum aside; where all are alike nothing does.
    """
    phantom = Phantom(
        seed=5, shape_px=256, dose_e_nm2=1e7, drift_px_per_frame=0.3, jump_px=6, max_height=max_height
    )
    truth = phantom.truth
    smooth = gaussian_laplace(phantom.render(index).astype(float), 3.0)
    columns = truth.columns(index)
    inner = [len(near) == 7 for near in KDTree(columns).query_ball_point(columns, 1.1 * SPACING_NM / 0.02)]
    found = []
    for y, x in np.rint(columns[inner]).astype(int):
        box = smooth[y - 3 : y + 4, x - 3 : x + 4]
        dy, dx = np.unravel_index(box.argmax(), box.shape)
        assert 0 < dy < 6
        assert 0 < dx < 6
        column, row = box[dy - 1 : dy + 2, dx], box[dy, dx - 1 : dx + 2]
        found.append([y - 3 + dy + _vertex(column), x - 3 + dx + _vertex(row)])
    off = np.array(found) - columns[inner]
    assert len(off) > 40
    assert np.abs(off.mean(axis=0)).max() < 0.03
    assert np.sqrt((off**2).sum(axis=1).mean()) < within_px


def _vertex(three: np.ndarray) -> float:
    low, middle, high = three
    return 0.5 * (low - high) / (low - 2 * middle + high)


def test_drift_is_as_fast_as_asked_and_moves_every_column() -> None:
    truth = Phantom(seed=3, shape_px=512, frames=20_000, drift_px_per_frame=0.15, support=False).truth
    step = np.diff(truth.drift_yx_px, axis=0)
    assert np.sqrt((step**2).mean()) == pytest.approx(0.15, rel=0.1)
    np.testing.assert_array_equal(truth.drift_yx_px[0], 0)
    moved = truth.site_yx_px(900) - truth.site_yx_px(0) - truth.drift_yx_px[900]
    assert np.abs(moved).max() < 1e-9
    still = Phantom(seed=3, shape_px=128, frames=50, drift_px_per_frame=0, jump_px=5, jump_every=20).truth
    assert len(np.unique(still.drift_yx_px, axis=0)) == 3
    assert np.abs(still.drift_yx_px).max() <= 5


def test_sites_are_the_lattice_of_gold(session: Phantom) -> None:
    truth = session.truth
    distance = KDTree(truth.yx_nm).query(truth.yx_nm, k=2)[0][:, 1]
    np.testing.assert_allclose(distance, LATTICE_NM * np.sqrt(3 / 8), atol=1e-9)
    assert truth.height.min() == 2
    assert truth.height.max() == 14
    assert not truth.initial.all()
    middle = truth.columns(0).mean(axis=0)
    assert np.abs(middle - 127.5).max() < 25


@pytest.mark.parametrize(("contrast", "sign"), [("dark", -1), ("bright", 1)])
def test_columns_of_every_height_have_the_contrast_asked_for(contrast, sign) -> None:
    phantom = Phantom(seed=4, contrast=contrast, frames=1, drift_px_per_frame=0)
    image = phantom.intensity(0)
    truth = phantom.truth
    peak = sign * -gaussian_laplace(image, 3.0)
    y, x = np.rint(truth.columns(0)).astype(int).T
    height = truth.height[truth.initial]
    for atoms in range(2, 15):
        at = height == atoms
        assert np.median(peak[y[at], x[at]]) > 0.01, f"columns of {atoms} atoms"


@pytest.mark.parametrize("dose_e_nm2", [100, 3_100, 31_000, 2e6])
def test_dose_is_respected(dose_e_nm2: float) -> None:
    phantom = Phantom(seed=8, shape_px=256, frames=1, dose_e_nm2=dose_e_nm2, drift_px_per_frame=0)
    counts = phantom.render(0)
    assert counts.dtype == np.uint16
    expected = dose_e_nm2 * 0.02**2
    vacuum = counts[:40].astype(float)
    assert vacuum.mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / vacuum.size))
    assert vacuum.var() == pytest.approx(expected, rel=0.06)


def test_a_laplacian_of_gaussian_finds_the_columns_at_310_electrons_per_square_angstrom() -> None:
    phantom = Phantom(seed=1, support=False, frames=1)
    response = -gaussian_laplace(phantom.render(0).astype(float), 3.5)
    peaks = np.argwhere((response == minimum_filter(response, 9)) & (response < -0.165))
    columns = phantom.truth.columns(0)
    distance, nearest = KDTree(columns).query(peaks)
    hits = len(np.unique(nearest[distance < 6]))
    assert 2 * hits / (len(peaks) + len(columns)) > 0.98


def test_default_session_is_lively_enough_to_measure() -> None:
    truth = Phantom(seed=0, support=False).truth
    changes = np.diff(truth.occupancy.astype(int), axis=0)
    active = (changes != 0).any(axis=0)
    assert 150 < len(truth.hops) < 600
    assert active.sum() > 40
    dwell = np.concatenate([np.diff(np.flatnonzero(column)) for column in changes[:, active].T])
    assert np.mean((dwell >= 5) & (dwell <= 200)) > 0.6


def test_bad_pixels_are_bad_and_named() -> None:
    phantom = Phantom(seed=1, shape_px=128, frames=2, bad_pixels=10)
    bad = phantom.header.bad_pixels
    assert bad is not None
    assert bad.sum() == 10
    for index in range(2):
        values = phantom.render(index)[bad]
        assert sorted(values) == [0] * 5 + [65535] * 5
    assert phantom.render(0)[~bad].max() < 100


def test_movie_and_truth_survive_the_file(tmp_path) -> None:
    phantom = Phantom(seed=6, shape_px=(128, 160), frames=300, jump_px=3, bad_pixels=4)
    path = tmp_path / "movie.h5"
    done = []
    write_movie(path, phantom, lambda n, total: done.append((n, total)))
    assert done == [(n, 300) for n in range(1, 301)]
    truth, again = phantom.truth, read_truth(path)
    for name in ("yx_nm", "height", "initial", "hops", "drift_yx_px"):
        np.testing.assert_array_equal(getattr(truth, name), getattr(again, name), err_msg=name)
    assert (again.pixel_size_nm, again.shape_yx) == (0.02, (128, 160))
    with h5py.File(path) as file:
        assert file["frames"].dtype == np.uint16
        assert file["frames"].chunks == (1, 128, 160)
        assert dict(file["frames"].attrs) == pytest.approx(
            {
                "pixel_size_nm": 0.02,
                "frame_period_s": 1 / 30,
                "dose_rate_e_nm2_s": 930_000.0,
                "beam_energy_ev": 300e3,
            }
        )
        np.testing.assert_array_equal(file["frame_index"], np.arange(300))
        np.testing.assert_array_equal(file["bad_pixels"], phantom.header.bad_pixels)
        np.testing.assert_array_equal(file["truth/occupancy"], truth.occupancy)
        offset = file["truth/columns_offset"][:]
        for index in (0, 150, 255, 256, 299):
            np.testing.assert_array_equal(file["frames"][index], phantom.render(index))
            rows = file["truth/columns_yx_px"][offset[index] : offset[index + 1]]
            np.testing.assert_allclose(rows, truth.columns(index), atol=1e-4)


def test_movie_never_overwrites_and_foreign_files_have_no_truth(tmp_path) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["frames"] = np.zeros((2, 8, 8), "u2")
    with pytest.raises(RecordingError, match="exists"):
        write_movie(path, Phantom(seed=1, shape_px=128, frames=2))
    with pytest.raises(RecordingError, match="truth"):
        read_truth(path)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"frames": 0}, "frame"),
        ({"shape_px": 64}, "field"),
        ({"pixel_size_nm": 0.2}, "nm/px"),
        ({"frame_period_s": 0.0}, "period"),
        ({"contrast": "grey"}, "contrast"),
        ({"dose_e_nm2": 0}, "dose"),
        ({"dose_e_nm2": 1e9}, "dose"),
        ({"particle_nm": 0.3}, "diameter"),
        ({"max_height": 1}, "max_height"),
        ({"hop_rate": 0.5}, "hop_rate"),
        ({"exchange_rate": -0.1}, "exchange_rate"),
        ({"drift_px_per_frame": -1.0}, "drift"),
        ({"jump_every": 0}, "jump"),
        ({"bad_pixels": -1}, "bad"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, word) -> None:
    with pytest.raises(ValueError, match=word):
        Phantom(**{"shape_px": 128, **settings})


def test_frames_outside_the_session_do_not_exist(session: Phantom) -> None:
    for index in (-1, 600):
        with pytest.raises(ValueError, match="no frame"):
            session.render(index)
        with pytest.raises(ValueError, match="no frame"):
            session.truth.columns(index)
