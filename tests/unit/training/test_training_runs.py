# ruff: noqa: E402  (what needs torch is imported after asking for it)
"""Whole trainings of a tiny recipe: interrupted, repeated, stopped early, by several processes."""

import csv
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("abtem")

from threadpoolctl import threadpool_info, threadpool_limits

import training.train as training_run
from stream.columns import Columns
from tests.helpers.tiny_recipe import write_recipe
from training.average import average
from training.checkpoint import Checkpoint, TrainingError
from training.curves import Curve, EarlyStopping
from training.dataset import Truth
from training.descent import LOSSES, Descent
from training.evaluate import Score
from training.samples import _FOUND, _TRUE, draw_samples
from training.spread import spread

run = partial(training_run.train, device="cpu", threads=1, workers=0)


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def same_weights(a: Checkpoint, b: Checkpoint) -> bool:
    return all(torch.equal(weights, b.network[name]) for name, weights in a.network.items())


def test_interrupted_and_resumed_is_the_same_to_the_bit(cache, tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path)
    whole = Checkpoint.load(run(recipe, tmp_path / "whole", cache=cache))

    down = Descent.down
    calls = []

    def cut_short(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return down(*args)

    monkeypatch.setattr(Descent, "down", cut_short)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "cut", cache=cache)
    monkeypatch.undo()
    assert Checkpoint.load(tmp_path / "cut/checkpoint.pt").step == 2
    resumed = Checkpoint.load(run(recipe, tmp_path / "cut", cache=cache, resume=True))
    assert resumed.step == whole.step == 4
    for name, weights in whole.network.items():
        assert torch.equal(weights, resumed.network[name]), name

    with pytest.raises(TrainingError, match="already holds a training"):
        run(recipe, tmp_path / "cut", cache=cache)
    other = write_recipe(tmp_path, rate="1e-3")
    with pytest.raises(TrainingError, match="another recipe"):
        run(other, tmp_path / "cut", cache=cache, resume=True)


def test_a_loss_that_is_no_number_stops_at_once_and_spoils_nothing(cache, tmp_path, monkeypatch):
    monkeypatch.setitem(LOSSES, "cross-entropy", lambda logits, labels: logits.sum() * math.nan)
    with pytest.raises(TrainingError, match="the loss is nan at step 1"):
        run(write_recipe(tmp_path), tmp_path / "out", cache=cache)
    assert not (tmp_path / "out/checkpoint.pt").exists()


def test_checkpoints_that_are_none_are_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match="not a checkpoint"):
        Checkpoint.load(path)
    with pytest.raises(TrainingError, match="nothing to resume"):
        run(write_recipe(tmp_path), tmp_path / "empty", resume=True)


def test_a_gradient_that_is_no_number_stops_before_the_weights_take_it(cache, tmp_path, monkeypatch):
    def root_of_nothing(logits, labels):  # 0, with an infinite slope
        return (logits - logits.detach()).abs().sum().sqrt()

    monkeypatch.setitem(LOSSES, "cross-entropy", root_of_nothing)
    with pytest.raises(TrainingError, match="the gradient is nan at step 1"):
        run(write_recipe(tmp_path), tmp_path / "out", cache=cache)


def test_what_is_written(cache, tmp_path):
    run(write_recipe(tmp_path, validate_every=2), tmp_path / "out", cache=cache)
    curve = rows(tmp_path / "out/curve.csv")
    assert int(curve[-1]["step"]) == 4
    assert 0 < float(curve[-1]["s_waiting_for_images"]) < float(curve[-1]["s_per_step"])
    validation = rows(tmp_path / "out/validation.csv")
    assert [int(row["step"]) for row in validation] == [2, 4]
    assert 0 <= float(validation[-1]["f1_310_e_angstrom2"]) <= 1
    pictures = sorted(path.name for path in (tmp_path / "out/samples").iterdir())
    assert pictures == ["step-000002.png", "step-000004.png"]
    with Image.open(tmp_path / "out/samples/step-000004.png") as sheet:
        assert sheet.size == (2 * 2 * 96, 2 * 2 * 96)  # two specimens at two doses, enlarged twice
    assert not list((tmp_path / "out").rglob("*.part"))


STEM_RECIPE = """
name = "tiny-stem"
[engine]
description = "for tests"
[stem]
[lattice]
names = ["MoS2"]
[validation_lattice]
names = ["WS2"]
[data]
validation = 2
crop_px = 64
batch = 2
doses_e_angstrom2 = [10000.0, 1000.0]
[train]
steps = {steps}
checkpoint_every = 1
bf16 = false
"""


def test_stem_images_train_a_network_of_several_classes(tmp_path):
    """By a worker, and without any exit wave."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(STEM_RECIPE.format(steps=2), encoding="utf-8")
    cache = tmp_path / "cache"
    whole = Checkpoint.load(run(recipe, tmp_path / "whole", cache=cache, workers=1))
    assert not cache.exists()
    classes = 1 + len(whole.recipe.classes)
    assert whole.network["head.bias"].shape == (classes,) == (5,)
    (row,) = rows(tmp_path / "whole/validation.csv")
    assert list(row) == ["step", "f1_10000_e_angstrom2", "f1_1000_e_angstrom2"]
    assert (tmp_path / "whole/samples/step-000002.png").exists()
    further = run(
        recipe, tmp_path / "further", cache=cache, start_from=tmp_path / "whole/checkpoint.pt", seed=3
    )
    assert Checkpoint.load(further).begun_with == whole.lineage
    assert "seed 0, 2 steps, commit " in whole.lineage[0]
    other = Checkpoint.load(further)
    mean = average(whole.recipe, [whole, other], cache)
    weight = "head.weight"
    torch.testing.assert_close(mean.network[weight], (whole.network[weight] + other.network[weight]) / 2)
    assert mean.begun_with == ("the mean of", whole.lineage[-1], other.lineage[-1])
    spread = [name for name in mean.network if name.endswith("running_var")]
    assert not any(torch.equal(mean.network[name], whole.network[name]) for name in spread)
    with pytest.raises(TrainingError, match="two or more trainings of a slim16_s2"):
        average(whole.recipe, [whole], cache)
    with pytest.raises(TrainingError, match="to 4 classes, this recipe trains a slim16_s2 of 1 images to 1"):
        run(write_recipe(tmp_path), tmp_path / "other", start_from=tmp_path / "whole/checkpoint.pt")


def test_a_process_that_makes_images_has_one_thread_everywhere():
    class Threads(torch.utils.data.Dataset):
        def __getitem__(self, _: int) -> list[int]:
            return [torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())]

    with threadpool_limits(2):
        loader = torch.utils.data.DataLoader(
            Threads(), batch_size=None, sampler=[0], num_workers=1, worker_init_fn=training_run._one_thread
        )
        (threads,) = loader
    assert len(threads) > 1
    assert set(threads) == {1}


def test_pictures_mark_what_is_there_and_what_was_found(tmp_path):
    image = np.zeros((1, 64, 64), np.float32)
    truth = Truth(np.array([[10.0, 20.0]]), np.array([3]), 0.02, "")
    yx, score = np.array([[40.0, 50.0], [10.0, 50.0]], np.float32), np.array([0.9, 0.4], np.float32)
    found = Columns(yx, np.full(2, np.nan, np.float32), score, np.ones(2, np.uint8))
    draw_samples(tmp_path / "s.png", {100.0: [(image, truth)]}, {100.0: [(found, truth)]})
    with Image.open(tmp_path / "s.png") as sheet:
        pixels = np.asarray(sheet)
    for colour, y, x in ((_TRUE, 10, 20), (_FOUND, 40, 50)):
        at = np.argwhere((pixels == colour).all(-1))
        assert at.mean(0) == pytest.approx([2 * y + 0.5, 2 * x + 0.5], abs=0.5)


def test_a_resumed_table_drops_the_rows_that_come_again(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text("step,loss,old\n50,0.5,1\n100,0.4,1\n150,0.3,1\n")
    Curve(path, ["loss", "new"], first=100).add(150, "0.31", "7")
    assert path.read_text().split() == ["step,loss,new", "50,0.5,", "100,0.4,", "150,0.31,7"]
    Curve(path, ["loss"])
    assert path.read_text().split() == ["step,loss"]


def test_one_seed_is_one_training_and_another_seed_another(cache, tmp_path):
    recipe = write_recipe(tmp_path)
    first, again, other = (
        Checkpoint.load(run(recipe, tmp_path / name, cache=cache, seed=seed))
        for name, seed in (("first", 3), ("again", 3), ("other", 4))
    )
    assert same_weights(first, again)
    assert not same_weights(first, other)
    assert first.recipe.train.seed == 3
    between = spread([tmp_path / "first", tmp_path / "other"])
    assert "over 2 seeds (3, 4)" in between.markdown()
    assert between.f1["f1_310_e_angstrom2"][1] == float(
        rows(tmp_path / "other/validation.csv")[-1]["f1_310_e_angstrom2"]
    )
    with pytest.raises(TrainingError, match="expected each once"):
        spread([tmp_path / "first", tmp_path / "again"])
    with pytest.raises(TrainingError, match="two trainings or more"):
        spread([tmp_path / "first"])
    with pytest.raises(TrainingError, match="trained with seed 3, not 0: resume with --seed 3"):
        run(recipe, tmp_path / "first", cache=cache, resume=True)
    assert run(recipe, tmp_path / "first", cache=cache, resume=True, seed=3).exists()


def test_the_weight_of_positions_is_of_the_loss(cache, tmp_path):
    """Of the first step, before any weight has moved: what is added is the weight times the same misplacement."""
    first = []
    for weight in (0.0, 1.0, 3.0):
        (tmp_path / str(weight)).mkdir()
        recipe = write_recipe(tmp_path / str(weight), steps=1, more=f"position_weight = {weight}")
        run(recipe, tmp_path / str(weight) / "out", cache=cache)
        first.append(float(rows(tmp_path / str(weight) / "out" / "curve.csv")[0]["loss"]))
    plain, once, thrice = first
    assert once > plain
    assert thrice - plain == pytest.approx(3 * (once - plain), rel=1e-3)


def test_waiting_for_a_better_validation_counts_only_while_the_rate_is_low():
    stopping = EarlyStopping(patience=2)
    assert stopping.is_best(0.5, late=False)
    assert [stopping.is_best(0.4, late=False) for _ in range(5)] == [False] * 5
    assert not stopping.done
    assert not stopping.is_best(0.5, late=True)  # as good is no better
    assert stopping.is_best(0.6, late=True)
    assert not stopping.is_best(0.5, late=True)
    assert not stopping.done
    assert not stopping.is_best(math.nan, late=True)
    assert stopping.done
    assert not EarlyStopping(0, stale=9).done  # 0: never


def test_early_stopping_keeps_the_best_and_does_not_go_on(cache, tmp_path, monkeypatch):
    scores = iter([0.1] * 5 + [0.7] * 5 + [0.3] * 1000)  # one of five doses after the other
    monkeypatch.setattr(
        training_run,
        "score_at",
        lambda *_: Score(found=int(100 * (f1 := next(scores))), missed=int(200 * (1 - f1))),
    )
    recipe = write_recipe(tmp_path, steps=40, validate_every=2, more="patience = 3")
    best = run(recipe, tmp_path / "out", cache=cache)
    assert best == tmp_path / "out/best.pt"
    assert Checkpoint.load(best).step == 4
    last = Checkpoint.load(tmp_path / "out/checkpoint.pt")
    # from step 4 to 40 the rate falls as a cosine: below half its peak at 22: 22, 24 and 26 count
    assert last.step == 26
    written = (tmp_path / "out/checkpoint.pt").stat().st_mtime_ns
    assert run(recipe, tmp_path / "out", cache=cache, resume=True) == best
    assert (tmp_path / "out/checkpoint.pt").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("device", "complaint"), [("cuda:99", "torch sees"), ("gpu", "expected auto, cpu, cuda")]
)
def test_a_device_that_is_not_there_is_refused(tmp_path, device, complaint):
    with pytest.raises(TrainingError, match=complaint):
        run(write_recipe(tmp_path), tmp_path / "out", device=device)
    assert not (tmp_path / "out").exists()


RANK = """
import sys, torch
import training.train as run
go_down, folder = run._go_down, sys.argv.pop()
def and_tell(descent, *rest):
    go_down(descent, *rest)
    torch.save(dict(descent.network.named_parameters()), f"{folder}/rank-{descent.ranks.rank}.pt")
run._go_down = and_tell
run.main()
"""


def torchrun(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    (folder / "rank.py").write_text(RANK)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    training = ["--device", "cpu", "--workers", "0", "--no-export"]
    return subprocess.run(
        [*launch, *map(str, [folder / "rank.py", *arguments, *training, folder])],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow  # two interpreters load torch
def test_two_processes_train_one_network_and_one_writes(cache, tmp_path):
    recipe = write_recipe(tmp_path, validate_every=2)
    done = torchrun(tmp_path, recipe, tmp_path / "two", "--cache", cache)
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1)]
    two = Checkpoint.load(tmp_path / "two/checkpoint.pt")
    for name, weights in ranks[0].items():
        assert torch.equal(weights, ranks[1][name]), name
        assert torch.equal(weights.detach(), two.network[name]), name
    assert (two.step, two.processes) == (4, 2)
    assert [row["step"] for row in rows(tmp_path / "two/validation.csv")] == ["2", "4"]
    assert [row["step"] for row in rows(tmp_path / "two/curve.csv")] == ["4"]
    # rank 1 saw images of its own: of one process alone other weights come out
    one = Checkpoint.load(run(recipe, tmp_path / "one", cache=cache))
    assert not same_weights(one, two)
    # what is finished can be taken up by one process, as an export does; what is not, cannot
    longer = Checkpoint(**{**two.__dict__, "step": 2})
    longer.save(tmp_path / "two/checkpoint.pt")
    with pytest.raises(TrainingError, match="trained by 2 processes, not 1"):
        run(recipe, tmp_path / "two", cache=cache, resume=True)
