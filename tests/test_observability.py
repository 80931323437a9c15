"""Whether images carry the state, in short; all of it is measured by `make observability`."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PIXEL_IDS

from benchmarks import observability
from benchmarks.observability import Images, join, measure, table
from benchmarks.tables import read_rows
from bullet_envs import registered
from bullet_envs.agents import load_agent


def some_images(length, first=0):
    """Return an episode whose image ``n`` is all ``first + n``."""
    numbers = np.arange(first, first + length, dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None, None], (length, 2, 2, 3)).copy()
    return Images(images, numbers[:, None].astype(np.float32), np.zeros(length, np.int64))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_stacks_stay_within_their_episode(stride):
    """A stack is of images so many actions apart; before an episode's first it repeats that."""
    data = join([some_images(6), some_images(1, 50), some_images(9, 100)])
    assert data.first.tolist() == [0] * 6 + [6] + [7] * 9
    stacks = data.stacks(np.arange(16), stride)[..., 0, 0, 0]
    for index, stack in enumerate(stacks.tolist()):
        start = data.first[index]
        places = [max(start, index - 2 * stride), max(start, index - stride), index]
        assert stack == data.images[places, 0, 0, 0].tolist()
        assert stack[-1] == data.states[index]


def test_r2_of_good_and_bad_estimates(monkeypatch):
    """1 for the truth, 0 for its mean, and less for what is worse."""
    data = join([some_images(100), some_images(60, 100)])
    estimator = observability.Estimator(20, data.states)

    def tells(estimates):
        monkeypatch.setattr(estimator, "estimate", lambda stacks: estimates(stacks))
        return estimator.r2(data, 1)

    truth = lambda stacks: stacks[:, -1, 0, 0, :1].numpy().astype(float)  # noqa: E731
    assert tells(truth) == [1.0]
    assert tells(lambda stacks: np.full((len(stacks), 1), data.states.mean())) == pytest.approx([0])
    assert tells(lambda stacks: -truth(stacks))[0] < -1


def test_table_of_rows():
    """A head per id with the names of its columns, and a line per row, R² to two digits."""
    row = {"size": "64", "stride": "2", "supersampling": "1", "mean": "498.25", "worst": "431"}
    row |= {"env_id": "BulletCartPolePixels-v0", "r2": "0.996 0.954 0.999 0.987"}
    assert table([row]).splitlines() == [
        "| BulletCartPolePixels-v0: px | stride | supersampling | x | x_dot | theta | theta_dot |"
        " LQR on the estimate | worst |",
        "|---|---|---|---|---|---|---|---|---|",
        "| 64 | 2 | 1 | 1.00 | 0.95 | 1.00 | 0.99 | 498.2 | 431 |",
    ]


# Less than the measurement has.
SHORT = {"IMAGES": 1500, "UNSEEN": 500, "ROUNDS": 2, "EPOCHS": 8}


def short_measurement(monkeypatch, env_id):
    for name, value in SHORT.items():
        monkeypatch.setattr(observability, name, value)
    row = measure(env_id, 64, 2, 1, episodes=3)
    r2 = np.array([float(value) for value in row["r2"].split()])
    # The height of the ball, say, is of no use to the regulator.
    used = np.any(load_agent(registered(env_id).state_id, "lqr").policy.gain != 0, axis=0)
    return row["mean"], r2[used]


@pytest.mark.sweep
def test_images_carry_the_state(monkeypatch):
    """What a network sees in them tells each column, and the LQR balances on what it tells.

    On the cart-pole; `make observability` measures the plate too, which takes more images.
    """
    mean, r2 = short_measurement(monkeypatch, "BulletCartPolePixels-v0")
    assert mean >= 475, (mean, r2)
    assert r2.min() > 0.5, r2


def still(stacks):
    """Return stacks of the latest image only, in which nothing moves."""
    return stacks[:, -1:].expand_as(stacks)


@pytest.mark.sweep
def test_the_measurement_can_fail(monkeypatch):
    """Of still images no speed is told, and the LQR does not balance."""
    # What is not there takes no long search.
    monkeypatch.setitem(SHORT, "IMAGES", 1000)
    monkeypatch.setitem(SHORT, "ROUNDS", 1)
    build = observability.build_network

    def blinded(*arguments):
        network = build(*arguments)
        network.register_forward_pre_hook(lambda module, given: (still(given[0]),))
        return network

    monkeypatch.setattr(observability, "build_network", blinded)
    mean, r2 = short_measurement(monkeypatch, "BulletCartPolePixels-v0")
    assert mean < 250, (mean, r2)
    assert r2.min() < 0.5, r2


PIXEL_ID = "BulletCartPolePixels-v0"


def run(monkeypatch, *words):
    """Run `python -m benchmarks.observability`."""
    monkeypatch.setattr(sys, "argv", ["observability", *words])
    observability.main()


@pytest.fixture
def tiny(monkeypatch):
    """Let a measurement take a second."""
    for name, value in {"IMAGES": 256, "UNSEEN": 64, "ROUNDS": 1, "EPOCHS": 1}.items():
        monkeypatch.setattr(observability, name, value)


@pytest.mark.sweep
def test_one_setting_is_printed(monkeypatch, capsys, tiny):
    """The table of one row: its setting, R² of each column and the returns."""
    words = f"--env {PIXEL_ID} --size 20 --stride 3 --supersampling 2 --eval-episodes 2"
    run(monkeypatch, *words.split())
    title, line, row = capsys.readouterr().out.strip().splitlines()
    assert title.startswith(f"| {PIXEL_ID}: px | stride | supersampling | x | x_dot |")
    assert title.count("|") == line.count("|") == row.count("|")
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:3] == ["20", "3", "2"]
    assert all(-20 < float(cell) < 1 for cell in cells[3:7])
    assert 5 < int(cells[8]) <= float(cells[7]) < 500


def test_what_the_csv_lacks_is_measured(tmp_path, monkeypatch, capsys):
    """Rows that are there are kept; the table of the document is written anew."""
    monkeypatch.setattr(observability, "PIXEL_IDS", PIXEL_IDS)  # without those of robots.py
    monkeypatch.setattr(observability, "SETTINGS", ((64, 2, 1), (48, 2, 1)))
    asked = []

    def measured(env_id, *setting):
        asked.append((env_id, *setting))
        names = ("size", "stride", "supersampling")
        columns = 10 if "Plate" in env_id else 4
        row = {"env_id": env_id, **dict(zip(names, setting, strict=True))}
        return {**row, "r2": " ".join(["0.5"] * columns), "mean": 100.0, "worst": 9}

    monkeypatch.setattr(observability, "measure", measured)
    old = tmp_path / "old.csv"
    old.write_text(
        "env_id,size,stride,supersampling,r2,mean,worst\n"
        f"{PIXEL_ID},64,2,1,0.9 0.9 0.9 0.9,499.0,498\n"
    )
    document = tmp_path / "pixels.md"
    document.write_text("<!-- observability -->\n<!-- /observability -->\n")
    run(monkeypatch, "--csv", str(old), "--document", str(document))
    assert asked == [
        (PIXEL_ID, 48, 2, 1),
        ("BalancingPlatePixels-v0", 64, 2, 1),
        ("BalancingPlatePixels-v0", 48, 2, 1),
    ]
    rows = read_rows(old)
    assert [(row["env_id"], row["size"], row["mean"]) for row in rows] == [
        (PIXEL_ID, "48", "100.0"),
        (PIXEL_ID, "64", "499.0"),
        ("BalancingPlatePixels-v0", "48", "100.0"),
        ("BalancingPlatePixels-v0", "64", "100.0"),
    ]
    assert table(rows) in document.read_text()


@pytest.mark.parametrize(
    "setting, message",
    [
        ((PIXEL_ID, 15, 2, 1), "size=15 must be a whole number from 16 to 512"),
        ((PIXEL_ID, 16, 2, 1), "20 x 20 pixels or more"),
        ((PIXEL_ID, 64, 0, 1), "stride=0 must lie from 1 to 16"),
        ((PIXEL_ID, 64, 17, 1), "stride=17 must lie from 1 to 16"),
        ((PIXEL_ID, 64, 2, 5), "supersampling=5 must be a whole number from 1 to 4"),
        ((PIXEL_ID, 64, 2, 1, 0), "episodes=0 must lie from 1 to 1000"),
        ((PIXEL_ID, 64, 2, 1, 1001), "episodes=1001 must lie from 1 to 1000"),
        (("BulletCartPole-v0", 64, 2, 1), "must be one of BulletCartPolePixels-v0"),
        (("CartPole-v1", 64, 2, 1), "must be one of BulletCartPolePixels-v0"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(setting, message):
    """Before anything is measured."""
    with pytest.raises(ValueError, match=message):
        measure(*setting)


def test_the_committed_table_is_that_of_the_document():
    """`make observability` writes the table that docs/pixels.md shows."""
    document = (Path(__file__).parent.parent / "docs" / "pixels.md").read_text()
    rows = read_rows(observability.CSV_PATH)
    assert len(rows) == len(PIXEL_IDS) * len(observability.SETTINGS)
    assert table(rows) in document
