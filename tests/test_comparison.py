"""Agents are compared in the same episodes, and the video and the table say what happened."""

import json
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from test_cli import untrained
from test_perturbations import PERTURBED
from video_tools import decode, videos

from bullet_envs import cli
from bullet_envs.agents import comparison, load_agent
from bullet_envs.agents.comparison import by_name, evaluate_all, play, record, sheet, table
from bullet_envs.agents.evaluation import EVALUATION_SEEDS, Evaluation, evaluate
from bullet_envs.agents.wrappers import ActionRepeat

ENV_ID = "BulletCartPole-v0"
PIXEL_ID = "BulletCartPolePixels-v0"
WINDY = {
    "parameters": {"pole_mass": {"uniform": [0.05, 0.2]}},
    "actions": {"noise": {"slider": 0.5}},
    "pushes": [{"body": "pole", "impulse": 0.03, "direction": "random", "rate": 2}],
}


@pytest.fixture
def short(monkeypatch):
    """Episodes of 30 environment steps, which random actions may lose and the LQR does not."""
    monkeypatch.setattr(gym.spec(ENV_ID), "max_episode_steps", 30)


def moments_of(agent, seed=0):
    with agent.env.make_bare(render_mode="rgb_array") as env:
        return list(play(agent.algo, agent, env, seed))


@pytest.mark.parametrize("env_id", PERTURBED)
@pytest.mark.parametrize("repeat", [1, 2])
def test_perturbations_are_the_same_whatever_the_agent_does(env_id, repeat):
    """The generator, from which all is drawn, is in the same state after the same steps."""
    states = []
    for second in (False, True):
        with gym.make(env_id, perturbations=PERTURBED[env_id]) as bare:
            env = ActionRepeat(bare, repeat) if second else bare
            space = env.action_space
            action = int(second) if isinstance(space, gym.spaces.Discrete) else space.high * second
            _, info = env.reset(seed=5)
            seen = [info["parameters"]]
            for _ in range(8 if env is bare else 8 // repeat):
                env.step(action)
            seen.append(bare.unwrapped.np_random.bit_generator.state)
            seen.append(tuple(bare.unwrapped.state().values()))
        states.append(seen)
    assert states[0][:2] == states[1][:2]
    assert states[0][2] != states[1][2]


def test_episodes_begin_alike(short):
    """Whatever an agent is and sees: the first frame and the parameters are the same."""
    torch.manual_seed(0)
    repeating = untrained("dqn", ENV_ID, frame_stack=2, action_repeat=4)
    repeating.env.env_kwargs["perturbations"] = WINDY
    others = [load_agent(ENV_ID, name, perturbations=WINDY) for name in ("lqr", "random")]
    first, *rest = [moments_of(agent, seed=3)[0] for agent in (*others, repeating)]
    assert 0.05 < first.info["parameters"]["pole_mass"] < 0.2
    for other in rest:
        assert first.picture.state == other.picture.state
        assert first.info == other.info
        assert (other.length, other.episode_return) == (0, 0.0)
    assert first.picture.state != moments_of(others[0], seed=4)[0].picture.state


@pytest.mark.parametrize("algo", ["dqn", "lqg"])
def test_every_environment_step_is_a_moment(short, algo):
    """Within a repeated action too; the end and the return are those of `evaluate`."""
    torch.manual_seed(0)
    agent = load_agent(ENV_ID, "lqg", perturbations=WINDY)  # has a memory
    if algo == "dqn":
        agent = untrained("dqn", ENV_ID, frame_stack=2, action_repeat=3)
    seed = EVALUATION_SEEDS[0]
    moments = moments_of(agent, seed)
    evaluation = evaluate(agent, [seed])
    assert [one.length for one in moments] == list(range(len(moments)))
    assert [one.has_ended for one in moments] == [False] * (len(moments) - 1) + [True]
    last = moments[-1]
    assert (last.length, last.episode_return) == (evaluation.lengths[0], evaluation.returns[0])
    assert evaluation.terminated.tolist() == [last.terminated] == [algo == "dqn"]


def test_a_policy_is_told_the_parameters(short, monkeypatch):
    """One with a memory, as the LQG, must know them before its first action."""
    agent = load_agent(ENV_ID, "lqg", perturbations=WINDY)
    told, begin = [], type(agent.policy).begin

    def spy(policy, info, count):
        told.append((info, count))
        begin(policy, info, count)

    monkeypatch.setattr(type(agent.policy), "begin", spy)
    first, *_ = moments_of(agent)
    assert told == [(first.info, 1)] and "pole_mass" in first.info["parameters"]


def test_playing_changes_no_later_action():
    """Random actions of an evaluation are those that it takes without a video before it."""
    agent, other = load_agent(ENV_ID, "random"), load_agent(ENV_ID, "random")
    moments_of(agent)
    returns = [evaluate(one, EVALUATION_SEEDS[:5]).returns.tolist() for one in (agent, other)]
    assert returns[0] == returns[1]


def test_table_by_hand():
    """Figures of two agents in four episodes: won, won, equal, lost."""
    lengths = np.full(4, 9)
    x = Evaluation(np.array([5.0, 4, 3, 0]), lengths, np.array([False, False, False, True]))
    y = Evaluation(np.array([1.0, 2, 3, 2]), lengths, np.array([True, True, False, True]))
    lines = table({"lqr": x, "ppo-2": y}).splitlines()
    assert lines[0].split() == ["agent", "mean", "std", "worst", "lost"]
    assert lines[1].split() == ["lqr", "3.0", "1.9", "0.0", "25.0", "%"]
    assert lines[2].split() == ["ppo-2", "2.0", "0.7", "1.0", "75.0", "%"]
    name, *figures = re.split(r"[\s\[\],]+", lines[-1].rstrip("]"))
    assert name == "ppo-2"
    difference, low, high, improvement, least, most = map(float, figures)
    assert (difference, improvement) == (1.0, 0.625)
    assert -2 <= low < difference < high <= 4 and 0 <= least < improvement < most <= 1


def test_table_of_the_command(capsys):
    """It shows what `evaluate` returns, lost are those that terminated, and it repeats itself."""
    command = f"compare --env {ENV_ID} --algo lqr random --eval-episodes 30 --no-video"
    shown = []
    for _ in range(2):
        assert cli.main(command.split()) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    returns = evaluate(load_agent(ENV_ID, "random"), EVALUATION_SEEDS[:30]).returns
    figures = [f"{one:.1f}" for one in (returns.mean(), returns.std(), returns.min())]
    _, title, _, lqr, random, *_, pair = shown[0].splitlines()
    assert title == f"{ENV_ID}, return of 30 episodes from unseen initial states"
    assert lqr.split() == ["lqr", "500.0", "0.0", "500.0", "0.0", "%"]
    assert random.split() == ["random", *figures, "100.0", "%"]
    assert pair.split()[:2] == ["random", f"{500 - returns.mean():.1f}"]
    assert pair.endswith("1.000 [1.000, 1.000]")


def test_evaluations_are_those_of_the_agents_alone(short):
    """In all of their columns."""
    agents = by_name([load_agent(ENV_ID, name) for name in ("random", "lqr")])
    evaluations = evaluate_all(agents, EVALUATION_SEEDS[:25])
    assert evaluations["random"].terminated.any() and not evaluations["lqr"].terminated.any()
    for name, evaluation in evaluations.items():
        alone = evaluate(load_agent(ENV_ID, name), EVALUATION_SEEDS[:25])
        for column in ("returns", "lengths", "terminated"):
            assert np.array_equal(getattr(evaluation, column), getattr(alone, column))


def test_video_of_two_controllers(short, tmp_path, monkeypatch, capsys):
    """A frame of each step until the last has ended, two panels beside each other, and a JSON."""
    monkeypatch.chdir(tmp_path)
    command = f"compare --env {ENV_ID} --algo random lqr --seed 7 --eval-episodes 2"
    assert cli.main([*command.split(), "--env-kwargs", f"perturbations:{WINDY}"]) == 0
    path = tmp_path / "videos" / ENV_ID / "random-vs-lqr-start7.mp4"
    assert f"video: {path.relative_to(tmp_path)}\n" in capsys.readouterr().out
    assert videos(path.parent) == [path.stem]
    facts = json.loads(path.with_suffix(".json").read_text())
    frames, told = decode(path)
    width = comparison.PANEL_WIDTH
    assert frames.shape == (31 + 25, 360, 2 * width + comparison.GAP, 3)
    assert facts["held_frames"] == 25
    assert facts["fps"] == 50 and " 50 fps" in told
    assert (facts["frames"], facts["height"], facts["width"]) == frames.shape[:3]

    assert (facts["env_id"], facts["seed"]) == (ENV_ID, 7)
    assert facts["kwargs"] == {"perturbations": WINDY}
    with gym.make(ENV_ID, perturbations=WINDY) as env:
        assert facts["parameters"] == env.reset(seed=7)[1]["parameters"]
    lost, kept = facts["agents"]
    assert (lost["name"], lost["terminated"], lost["truncated"]) == ("random", True, False)
    assert (kept["name"], kept["terminated"], kept["truncated"]) == ("lqr", False, True)
    assert (kept["return"], kept["length"]) == (30.0, 30) and lost["length"] < 30

    # Lossy: about equal. The left panel stays, the right one moves.
    left, right = frames[:, :, :width].astype(int), frames[:, :, -width:].astype(int)
    end = lost["length"]
    assert np.abs(left[0] - right[0])[100:].mean() < 1.2  # below the text
    assert np.abs(left[end] - left[-1]).mean() < 0.2 > np.abs(right[30] - right[-1]).mean()
    assert np.abs(left[end - 1] - left[-1]).mean() > 0.3 < np.abs(right[end] - right[-1]).mean()
    rims = frames[-1, [1, 1, -2, -2], [width // 2, -width // 2] * 2].astype(int)
    assert [bool(red > green + 80) for red, green, _ in rims] == [True, False] * 2


@pytest.mark.sweep
def test_panels_say_who_acts(short, tmp_path, monkeypatch):
    """The agent's name first, then the id; nothing is written into them without overlay."""
    drawn = []
    monkeypatch.setattr(comparison, "sheet", lambda panels: drawn.append(panels) or sheet(panels))
    agents = by_name([load_agent(ENV_ID, name) for name in ("lqr", "random")])
    path = record(agents, 7, tmp_path, overlay=False)
    plain, drawn[:] = drawn[:], []
    record(agents, 7, tmp_path)
    changed = [np.any(old != new, axis=-1) for old, new in zip(plain[0], drawn[0], strict=True)]
    assert all(one[18:50, 18:60].any() and not one[70:150].any() for one in changed)
    lqr, random = (
        moments_of(agents["lqr"], 7)[0].overlay,
        moments_of(agents["random"], 7)[0].overlay,
    )
    assert (lqr.title, lqr.agent, random.title) == ("lqr", ENV_ID, "random")
    assert json.loads(path.with_suffix(".json").read_text())["held_frames"] == 25


@pytest.mark.parametrize("count, expected", [(2, (1284, 360)), (3, (1284, 724)), (4, (1284, 724))])
def test_layout(count, expected):
    """Two in a row, with even sides."""
    panels = [np.full((360, 640, 3), 10 * index, np.uint8) for index in range(count)]
    frame = sheet(panels)
    assert (frame.shape[1], frame.shape[0]) == expected
    for index, (top, left) in enumerate([(0, 0), (0, 644), (364, 0), (364, 644)][:count]):
        assert (frame[top : top + 360, left : left + 640] == 10 * index).all()


def test_frames_of_other_packages(tmp_path):
    """Those of Gymnasium are enlarged, so that the text can be read."""
    agents = by_name([load_agent("CartPole-v1", "random") for _ in range(2)])
    path = record(agents, 0, tmp_path)
    frames, _ = decode(path)
    assert frames.shape[1:] == (426, 1284, 3)


def test_ctrl_c_leaves_no_file(tmp_path, monkeypatch):
    """Neither a part of the video nor its JSON, and an older video stays."""
    agents = by_name([load_agent(ENV_ID, name) for name in ("random", "random")])
    path = record(agents, 0, tmp_path)
    before = path.read_bytes()
    frames = iter(range(5))

    def interrupted(panels):
        if next(frames) == 4:
            raise KeyboardInterrupt
        return sheet(panels)

    monkeypatch.setattr(comparison, "sheet", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(agents, 0, tmp_path)
    assert videos(path.parent) == ["random-vs-random-2-start0"]
    assert path.read_bytes() == before


def test_agents_of_one_algorithm_are_numbered():
    """In the order in which they are given."""
    agents = [load_agent(ENV_ID, name) for name in ("random", "lqr", "random")]
    named = by_name(agents)
    assert list(named) == ["random", "lqr", "random-2"]
    assert list(named.values()) == agents


def test_other_tasks_are_refused():
    """Keywords of the task must be equal; those of how an agent sees and acts may differ."""
    lqr = load_agent(ENV_ID, "lqr")
    by_name([lqr, load_agent(ENV_ID, "lqr", continuous=True)])
    by_name([load_agent(PIXEL_ID, "random", size=size) for size in (32, 64)])
    with pytest.raises(
        ValueError, match=r"lqr-2 acts in \S+ with {'force': 5}, lqr in \S+ with {}"
    ):
        by_name([lqr, load_agent(ENV_ID, "lqr", force=5)])
