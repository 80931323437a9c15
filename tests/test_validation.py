"""Report cards: every figure from an evaluation that can be repeated, and pages that show them."""

import json
import math
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import PIXEL_IDS, STATE_IDS

from bullet_envs import certificate
from bullet_envs.agents import load_agent, report, robustness, validation
from bullet_envs.agents.evaluation import EVALUATION_SEEDS, Evaluation, evaluate
from bullet_envs.agents.failure_search import POPULATION, Ranges, options_of, ranges_of, search
from bullet_envs.cli import main
from bullet_envs.perturbations import VARIANTS, parse_perturbations
from bullet_envs.tasks.cart_pole import CartPole

SMALL = validation.Size(20, 3, 2, 1, refinements=1, width=160)


def task_of(env_id):
    """Return the task of an id."""
    return gym.make(env_id).unwrapped.task


def evaluation(mean):
    """Return an evaluation of ten episodes with a mean return."""
    returns = np.full(10, float(mean))
    return Evaluation(returns, np.full(10, 500), returns < 475)


@pytest.mark.parametrize("env_id", STATE_IDS + PIXEL_IDS)
def test_every_field_is_legal_at_every_value(env_id):
    """Each parameter of the task is there, and what a value asks for is taken."""
    env = gym.make(env_id)
    task, is_image = env.unwrapped.task, env_id in PIXEL_IDS
    fields = robustness.fields_of(task, None if is_image else robustness.column_spreads(env))
    names = [field.name for field in fields]
    assert len(set(names)) == len(names)
    assert {parameter.name for parameter in task.parameters} <= set(names)
    assert ("image noise" in names) is is_image
    for field in fields:
        assert field.values == tuple(sorted(field.values)) and field.nominal not in field.values
        for value in (field.nominal, *field.values):
            parsed = parse_perturbations(field.perturb(value), task, is_image)
            assert value == field.nominal or parsed != parse_perturbations({}, task, is_image)


def test_spreads_are_in_si_units():
    """Of the plate's scaled columns too, and equal in every process."""
    env = gym.make("BalancingPlate-v0")
    spreads = robustness.column_spreads(env)
    assert spreads == robustness.column_spreads(gym.make("BalancingPlate-v0"))
    ball_x, pitch = spreads[0], spreads[6]
    assert 0.02 < ball_x < 0.1  # m, on a plate of half-width 0.15
    assert 0.02 < pitch < 0.2  # rad: unscaled it would be ten times as much


FIELD = robustness.Field("mass", "kg", 1.0, (0.25, 0.5, 2.0, 4.0), lambda value: {"mass": value})
DELAY = robustness.Field("delay", "periods", 0, (1, 2, 4, 8), lambda value: {"mass": value}, True)


@pytest.mark.parametrize(
    ("field", "borne", "below", "above"),
    [
        (FIELD, (0.3, 3.1), 0.296875, 3.125),
        (FIELD, (0.1, 9.0), None, None),
        (FIELD, (0.6, 1.7), 0.59375, 1.75),
        (FIELD, (2.0, 1.0), 1.0, 1.0),
        (DELAY, (-1, 2), None, 3),
        (DELAY, (-1, 7), None, 8),
        (DELAY, (-1, 0), None, 1),
    ],
)
def test_margins(field, borne, below, above):
    """The value nearest to the nominal one that is not borne, to a sixteenth of a step."""
    low, high = borne

    def play(every):
        return [evaluation(500 if low <= one["mass"] <= high else 100) for one in every]

    swept = robustness.sweep(play, field, 475.0)
    assert swept["margins"] == {"below": below, "above": above}
    values = [point["value"] for point in swept["points"]]
    assert values == sorted(values) and {field.nominal, *field.values} <= set(values)
    assert all(point["mean"] in (500, 100) for point in swept["points"])


def test_no_threshold_no_margins():
    """And what has been played without perturbation is not played again."""
    played = []

    def play(every):
        played.extend(one["mass"] for one in every)
        return [evaluation(0) for _ in every]

    swept = robustness.sweep(play, FIELD, None, evaluation(500))
    assert swept["margins"] == {"below": None, "above": None}
    assert sorted(played) == [0.25, 0.5, 2.0, 4.0]
    assert swept["points"][2]["mean"] == 500


@pytest.mark.parametrize(
    ("env_id", "few"), [("BulletCartPolePixels-v0", True), ("BulletCartPole-v0", False)]
)
def test_a_search_on_images_tries_few_sizes(env_id, few):
    """Since each needs a renderer; other parameters are as they were drawn."""
    subject = validation.Subject(env_id, "random", {"perturbations": "medium"})
    found = validation.adversary(subject, 2, True)
    ranges, _ = validation.searched(subject)
    lengths, masses = (
        {one["values"][ranges.names.index(name)] for one in found}
        for name in ("pole_length", "pole_mass")
    )
    assert len(found) == 2 * POPULATION and len(masses) > POPULATION
    assert (len(lengths) <= VARIANTS) is few
    assert all(0.75 < length < 1.33 for length in lengths)


def test_what_the_engine_cannot_have_is_left_out():
    """The margin is beyond it."""

    def play(every):
        masses = [one["mass"] for one in every]
        return [None if m == 2.0 else evaluation(500 if m < 3.1 else 100) for m in masses]

    swept = robustness.sweep(play, FIELD, 475.0)
    assert [point["value"] for point in swept["points"] if point["value"] <= 2] == [0.25, 0.5, 1.0]
    assert swept["margins"] == {"below": None, "above": 3.125}


def test_a_sweep_is_of_the_agent_in_that_environment():
    """Its points are what evaluate() returns there."""
    subject = validation.Subject("BulletCartPole-v0", "lqr")
    size = replace(SMALL, swept=5)
    swept = validation.robustness(subject, "action delay", size, validation.nominal(subject, 5))
    agent = load_agent("BulletCartPole-v0", "lqr", perturbations={"actions": {"delay": 4}})
    returns = evaluate(agent, EVALUATION_SEEDS[:5]).returns
    (point,) = (point for point in swept["points"] if point["value"] == 4)
    assert point["mean"] == returns.mean() < 475
    assert point["low"] <= point["mean"] <= point["high"]
    assert swept["margins"] == {"below": None, "above": 4}


def test_perturbations_are_added_to_those_of_the_environment():
    """A preset's too; what is the same is replaced."""
    task = task_of("BulletCartPole-v0")
    base = {
        "actions": {"delay": 2, "noise": {"slider": 1.0}},
        "observations": {"noise": {"x": 0.1, "theta": 0.1}},
        "pushes": [{"body": "cart", "force": 1.0}],
    }
    added = {
        "actions": {"delay": 3},
        "observations": {"noise": {"theta": 0.5}},
        "pushes": [{"body": "pole", "force": 2.0}],
    }
    assert robustness.merged(base, added, task, False) == {
        "actions": {"delay": 3, "noise": {"slider": 1.0}},
        "observations": {"noise": {"x": 0.1, "theta": 0.5}},
        "pushes": [{"body": "cart", "force": 1.0}, {"body": "pole", "force": 2.0}],
    }
    preset = robustness.merged("medium", {"actions": {"delay": 3}}, task, False)
    assert preset["actions"]["delay"] == 3 and "images" not in preset
    assert preset["parameters"] == task.perturbation_presets["medium"]["parameters"]
    assert robustness.merged(None, added, task, False) == added


@pytest.mark.sweep
def test_the_search_finds_what_random_sampling_misses():
    """Of the bundled A2C, which loses one robot in a hundred of those of the ranges."""
    ranges, agent = validation.searched(validation.Subject("BulletCartPole-v0", "a2c"))
    lost = {
        adapts: sum(found.terminated for found in search(agent, ranges, 8, adapts=adapts))
        for adapts in (True, False)
    }
    assert lost[True] > 10 * max(lost[False], 1)


@pytest.mark.parametrize(
    ("env_id", "algo"),
    [
        ("BulletCartPole-v0", "dqn"),
        ("BulletCartPole-v0", "lqg"),  # which the infos tell the parameters
        ("BalancingPlate-v0", "reinforce"),  # which repeats its actions
    ],
)
def test_the_episodes_of_a_search_are_those_of_their_options(env_id, algo):
    """What it says of an episode holds when that is played alone."""
    subject = validation.Subject(env_id, algo)
    ranges, agent = validation.searched(subject)
    assert set(ranges.names) & {"force", "torque"}
    found = search(agent, ranges, 1)
    assert len(found) == POPULATION
    assert all(
        low <= value <= high
        for one in found
        for low, value, high in zip(ranges.low, one.values, ranges.high, strict=True)
    )
    env = agent.make_env()
    task = env.unwrapped.task
    for one in (min(found, key=lambda one: one.length), max(found, key=lambda one: one.length)):
        observation, info = env.reset(seed=0, options=options_of(task, ranges, one.values))
        assert info["parameters"] == dict(
            zip(
                ranges.names[ranges.coordinates :],
                map(pytest.approx, one.values[ranges.coordinates :]),
                strict=True,
            )
        )
        agent.policy.begin(info, 1)
        total, length, costs, ended = 0.0, 0, [], False
        while not ended:
            action, _ = agent.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, info = env.step(action)
            total += reward
            length += info.get("action_repeats", 1)
            coordinates = np.array(task.coordinates(list(env.unwrapped.state().values())))
            costs.append(np.square(coordinates / task.tolerances).mean())
            ended = terminated or truncated
        played = (total, length, terminated)
        assert played == (one.episode_return, one.length, one.terminated)
        assert one.cost == pytest.approx(np.mean(costs), rel=1e-3)
    env.close()


def test_plates_are_searched_in_coordinates_on_the_plate():
    """Balls lie on the plate and roll, and all that varies initially is searched."""
    task = task_of("BalancingPlate-v0")
    ranges = ranges_of(task, {})
    for values in (ranges.low, ranges.high):
        task.named_state(options_of(task, ranges, values)["state"])
    assert ranges.low[list(ranges.names).index("pitch")] == pytest.approx(-0.05, abs=1e-3)


def test_worst_episodes_are_distinct():
    """The worst first; a start near one that was chosen is passed over."""
    subject = validation.Subject("BulletCartPole-v0", "lqr")
    names = ("x", "x_dot", "theta", "theta_dot")
    ranges = Ranges(names, np.full(4, -1.0), np.full(4, 1.0), 4)
    starts = {0.0: 100, 0.1: 110, 0.8: 120, -0.9: 400}
    found = [
        {"values": [x, 0, 0, 0], "episode_return": total, "cost": 1.0}
        for x, total in starts.items()
    ]
    played = {"returns": [500.0, 300.0]}
    worst = validation.worst_episodes(subject, played, {"search": found}, ranges)
    assert [one["return"] for one in worst] == [100, 120, 300.0]
    assert [one["source"] for one in worst] == ["search", "search", "evaluation"]
    assert worst[0]["options"]["state"]["x"] == 0.0
    assert worst[2]["seed"] == EVALUATION_SEEDS[1] and worst[2]["options"] is None


@pytest.fixture
def small(monkeypatch):
    """A card of few episodes and fields."""
    monkeypatch.setattr(validation, "QUICK", SMALL)
    fields_of = robustness.fields_of
    few = ("force", "pole_length", "action delay", "noise of theta")
    monkeypatch.setattr(
        validation,
        "fields_of",
        lambda *of: [
            replace(one, values=one.values[-2:]) for one in fields_of(*of) if one.name in few
        ],
    )
    monkeypatch.setattr(validation, "_FIELDS", {})
    monkeypatch.setattr(validation, "FAILURES", 1)
    camera = replace(CartPole.video_camera, width=160, height=120, shadow=False)
    monkeypatch.setattr(CartPole, "video_camera", camera)


@pytest.mark.slow
@pytest.mark.sweep
def test_a_card_goes_on_and_is_repeated_to_the_bit(tmp_path, small, monkeypatch, capsys):
    """What was measured before Ctrl-C is not measured again, and a second card is the same."""
    subject = validation.Subject("BulletCartPole-v0", "lqr")
    real, done = validation.robustness, []

    def stops(subject, name, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(name)
        return real(subject, name, *rest)

    monkeypatch.setattr(validation, "robustness", stops)
    with pytest.raises(KeyboardInterrupt):
        validation.measure(subject, tmp_path / "a", quick=True)
    kept = json.loads((tmp_path / "a" / "cells.json").read_text())["cells"]
    assert [key for key in kept if key.startswith("robustness")] == [
        f"robustness/{name}/lqr" for name in done
    ]
    again = []
    monkeypatch.setattr(validation, "robustness", lambda *of: again.append(of[1]) or real(*of))
    first = validation.measure(subject, tmp_path / "a", quick=True)
    assert not set(again) & set(done) and len(again) == 2
    second = validation.measure(subject, tmp_path / "b", quick=True)
    assert json.dumps(first) == json.dumps(second)
    assert first["nominal"]["lqr"]["returns"] == [500.0] * 20
    assert set(first["nominal"]) == {"lqr", "random"}
    # A video that is no longer there is recorded again, and what a killed process left is removed.
    video = validation.video_of(tmp_path / "a", 1)
    video.unlink()
    part = video.with_name(f"{video.stem}.1-2.part.mp4")
    part.touch()
    assert json.dumps(validation.measure(subject, tmp_path / "a", quick=True)) == json.dumps(first)
    assert video.is_file() and not part.exists()
    # Another agent's cells are not taken for its own.
    validation.measure(replace(subject, agent="random"), tmp_path / "a", quick=True)
    identity = json.loads((tmp_path / "a" / "cells.json").read_text())["identity"]
    assert identity["agent"] == "random"


def _fail():
    time.sleep(0.3)
    raise ValueError("of a cell")


@pytest.mark.parametrize("workers", [1, 2])
def test_cells_are_measured_by_any_number_of_processes(tmp_path, workers):
    """What was done is kept when a cell raises, and no process goes on after it."""
    jobs = [validation.Job(str(n), math.sqrt, (n,)) for n in (4, 9, 16)]
    bad = [
        validation.Job("bad", _fail, ()),
        *(validation.Job(f"sleep{n}", time.sleep, (60,)) for n in range(workers - 1)),
    ]
    cells = validation.Cells(tmp_path / "cells.json", {})
    begun = time.monotonic()
    with (
        pytest.raises(ValueError, match="of a cell"),
        validation.processes(workers) as pool,
    ):
        cells.measure(jobs, pool, "roots")
        cells.measure([*jobs, *bad], pool, "one fails")
    while multiprocessing.active_children():
        assert time.monotonic() - begun < 50
        time.sleep(0.1)
    kept = validation.Cells(tmp_path / "cells.json", {})
    assert [kept[job.key] for job in jobs] == [2.0, 3.0, 4.0] and "bad" not in kept


@pytest.mark.slow
def test_the_command_writes_a_card(tmp_path, small, monkeypatch, capsys):
    """JSON, Markdown and one HTML file, with the videos of failures that replay to the bit."""
    findings = [certificate.Finding("seeded", True, "the same seed gives the same episode")]
    monkeypatch.setattr(certificate, "certify", lambda *of, **kwargs: findings)
    env_id = "bullet_envs:BulletCartPole-v0"  # as one of a module of one's own
    arguments = ["validate", "--env", env_id, "--algo", "dqn", "--quick"]
    assert main([*arguments, "-o", str(tmp_path), "--workers", "1"]) == 0
    assert f"{tmp_path}/report.html" in capsys.readouterr().out
    data = json.loads((tmp_path / "report.json").read_text())
    agent = load_agent("BulletCartPole-v0", "dqn")
    returns = evaluate(agent, EVALUATION_SEEDS[:20]).returns
    assert data["nominal"]["dqn"]["mean"] == returns.mean()
    assert data["identity"]["weights"] == agent.weights_hash
    assert {one["name"] for one in data["robustness"]} == {
        *("force", "pole_length", "action delay", "noise of theta")
    }
    text = (tmp_path / "report.md").read_text()
    assert f"| dqn | 20 | {returns.mean():.1f} [" in text
    assert "| seeded | passed | the same seed gives the same episode |" in text
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3 + 2 * validation.FAILURES
    assert page.count("data:video/mp4;base64,") == validation.FAILURES
    assert "http" not in page.replace("http-equiv", "")
    for index in range(1, validation.FAILURES + 1):
        card = tmp_path / f"failure-{index}-episode-0.json"
        assert main(["replay", str(card)]) == 0
        assert "equal to the recorded one" in capsys.readouterr().out
        failure = data["failures"][index - 1]
        assert json.loads(card.read_text())["return"] == failure["return"]


def test_a_failed_check_of_the_environment_is_the_exit_code(tmp_path, monkeypatch, capsys):
    """Without an agent, the certificate is printed and written."""
    for passed, code in ((True, 0), (False, 1)):
        findings = [certificate.Finding("seeded", passed, "of two episodes")]
        monkeypatch.setattr(certificate, "certify", lambda *of, f=findings, **kwargs: f)
        assert main(["validate", "--env", "CartPole-v1", "-o", str(tmp_path)]) == code
        assert "of two episodes" in capsys.readouterr().out
        (kept,) = json.loads((tmp_path / "certificate.json").read_text())
        assert kept == {"name": "seeded", "passed": passed, "summary": "of two episodes"}


def test_only_what_can_be_perturbed_has_a_card(tmp_path):
    """Another id, or a parameter that there is not, is one sentence."""
    subject = validation.Subject("CartPole-v1", "random")
    with pytest.raises(ValueError, match="CartPole-v1 must be an id of this package"):
        validation.measure(subject, tmp_path)
    subject = validation.Subject("BulletCartPole-v0", "lqr")
    with pytest.raises(ValueError, match=r"'mass' must be a parameter .*: force, cart_mass"):
        validation.measure(subject, tmp_path, heat_map=("force", "mass"))
    assert not list(tmp_path.iterdir())


def test_the_document_has_every_check():
    """A row for each, in their order."""
    text = (Path(__file__).parent.parent / "docs" / "validation.md").read_text()
    rows = text.partition("<!-- checks -->")[2].partition("<!-- /checks -->")[0].strip()
    assert [row.split("`")[1] for row in rows.splitlines()[2:]] == list(certificate.CHECKS)


def test_the_telling_coordinates():
    """Those by which kept and lost initial states differ, on one side or on both."""
    rng = np.random.default_rng(0)
    coordinates = rng.uniform(-1, 1, (300, 4))
    returns = 500 - 300 * (np.abs(coordinates[:, 2]) > 0.8) - 100 * (coordinates[:, 1] > 0.5)
    measured = {
        "initial_states": {"names": ["a", "b", "c", "d"], "coordinates": coordinates.tolist()},
        "nominal": {"ppo": {"returns": returns.tolist()}},
    }
    assert report._telling_coordinates(measured) == ["b", "c"]


def test_figures_have_intervals():
    """Mean, IQM and share lost lie within theirs."""
    rng = np.random.default_rng(0)
    returns = rng.uniform(100, 500, 200)
    played = {
        "returns": returns.tolist(),
        "lengths": returns.astype(int).tolist(),
        "terminated": (returns < 300).tolist(),
    }
    of = validation.nominal_figures(played)
    assert of["low"] < of["mean"] < of["high"] and of["mean"] == pytest.approx(returns.mean())
    assert of["iqm_interval"][0] < of["iqm"] < of["iqm_interval"][1]
    assert of["lost_interval"][0] < of["lost"] < of["lost_interval"][1]
    assert of["lost"] == (returns < 300).mean() and math.isclose(of["worst"], returns.min())
