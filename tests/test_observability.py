"""Whether pictures carry the state, in short; all of it is measured by `make observability`."""

import numpy as np
import pytest
import torch
from conftest import PIXEL_IDS

from bullet_envs.agents import load_agent, observability
from bullet_envs.agents.observability import Pictures, join, measure, table


def some_pictures(length, first=0):
    """Return an episode whose picture ``n`` is all ``first + n``."""
    numbers = np.arange(first, first + length, dtype=np.uint8)
    pictures = np.broadcast_to(numbers[:, None, None, None], (length, 2, 2, 3)).copy()
    return Pictures(pictures, numbers[:, None].astype(np.float32), np.zeros(length, np.int64))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_stacks_stay_within_their_episode(stride):
    """A stack is of pictures so many actions apart; before an episode's first it repeats that."""
    data = join([some_pictures(6), some_pictures(1, 50), some_pictures(9, 100)])
    assert data.starts.tolist() == [0] * 6 + [6] + [7] * 9
    stacks = data.stacks(np.arange(16), stride)[..., 0, 0, 0]
    for row, stack in enumerate(stacks.tolist()):
        start = data.starts[row]
        places = [max(start, row - 2 * stride), max(start, row - stride), row]
        assert stack == data.pictures[places, 0, 0, 0].tolist()
        assert stack[-1] == data.states[row]


def test_r2_of_good_and_bad_estimates(monkeypatch):
    """1 for the truth, 0 for its mean, and less for what is worse."""
    data = join([some_pictures(100), some_pictures(60, 100)])
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


# Fewer and shorter rounds than the measurement has.
SHORT = {"PICTURES": 5000, "UNSEEN": 500, "ROUNDS": 2, "EPOCHS": 8}


def short_measurement(monkeypatch, env_id):
    for name, value in SHORT.items():
        monkeypatch.setattr(observability, name, value)
    row = measure(env_id, 64, 2, 1, episodes=10)
    r2 = np.array([float(value) for value in row["r2"].split()])
    # The height of the ball, say, is of no use to the regulator.
    used = np.any(load_agent(env_id.replace("Pixels", ""), "lqr").gain != 0, axis=0)
    return row["mean"], r2[used]


@pytest.mark.slow
@pytest.mark.parametrize("env_id", PIXEL_IDS)
def test_pictures_carry_the_state(monkeypatch, env_id):
    """What a network sees in them tells each column, and the LQR balances on what it tells."""
    mean, r2 = short_measurement(monkeypatch, env_id)
    assert mean >= 475, (mean, r2)
    assert r2.min() > 0.5, r2


def blank(stacks):
    return torch.zeros_like(stacks)


def still(stacks):
    """Return stacks of the latest picture only, in which nothing moves."""
    return stacks[:, -1:].expand_as(stacks)


@pytest.mark.slow
@pytest.mark.parametrize("hide", [blank, still])
@pytest.mark.parametrize("env_id", PIXEL_IDS)
def test_the_measurement_can_fail(monkeypatch, env_id, hide):
    """Of blank pictures nothing is told, of a still one no speed: on neither the LQR balances."""
    monkeypatch.setitem(SHORT, "PICTURES", 1000)  # what is not there takes no long search
    build = observability.build_network

    def blinded(*arguments):
        network = build(*arguments)
        network.register_forward_pre_hook(lambda module, given: (hide(given[0]),))
        return network

    monkeypatch.setattr(observability, "build_network", blinded)
    mean, r2 = short_measurement(monkeypatch, env_id)
    assert mean < 250, (mean, r2)
    assert r2.min() < 0.5 and (hide is still or r2.max() < 0.1), r2
