"""The bench measures what it says, names what it skips, and is what the documents show."""

import contextlib
import json
import sys
import types
from pathlib import Path

import pytest
from conftest import SUITE

from benchmarks import suites, time_to_solve
from benchmarks.tables import read_rows
from bullet_envs import bench
from bullet_envs.agents import algorithm
from bullet_envs.bench import Case, Ratio, Section
from bullet_envs.cli import main

ROOT = Path(__file__).parent.parent


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(bench, "time", clock)
    return clock


def case(clock, name, seconds, num_envs=1, **kwargs):
    """Return a case whose steps take so long, and whose resets take much longer."""

    def wait(time):
        clock.now += time

    @contextlib.contextmanager
    def opened():
        yield lambda: wait(1000.0), lambda count: wait(seconds)

    return Case(name, opened, num_envs, **kwargs)


def test_rates_and_ratios_are_those_of_the_clock(clock, capsys):
    """A step of 10 ms is 100 steps/s, of 8 sub-environments 800; resets do not count."""
    cases = [case(clock, "ours", 0.01, num_envs=8), case(clock, "theirs", 0.02)]
    result = Section("a section", cases, [Ratio("ours", "theirs")]).run(5)
    assert result["rates"]["ours"] == pytest.approx({"low": 800, "median": 800, "high": 800})
    assert result["rates"]["theirs"]["median"] == pytest.approx(50)
    assert result["ratios"][0]["median"] == pytest.approx(16)
    shown = capsys.readouterr().out
    assert "| ours | 800 | 800 to 800 |" in shown
    assert "| ours / theirs | 16.00 | 16.00 to 16.00 |" in shown


def test_a_ratio_is_the_median_of_single_rounds():
    """A machine that is slow for a while slows both sides of a round, and no ratio."""
    rates = {"a": [100.0, 50.0, 10.0], "b": [50.0, 25.0, 5.0]}
    assert bench.ratio_of(Ratio("a", "b"), rates)["median"] == 2.0


def test_time_to_solve_names_seeds_that_did_not_solve(monkeypatch, capsys):
    """A training takes the seconds that it takes, solved or not, and the summary says which."""
    now = 0.0

    def training(seconds, unsolved=()):
        def solve(seed):
            nonlocal now
            now += seconds[seed]
            return seed not in unsolved

        return solve

    clock = types.SimpleNamespace(perf_counter=lambda: now)
    monkeypatch.setattr(time_to_solve, "time", clock)
    trainings = {"ours": training([1, 2, 3]), "theirs": training([4, 20, 6], unsolved=[1])}
    result = time_to_solve.TimeToSolve("time to solve", trainings, [Ratio("ours", "theirs")]).run(9)
    assert result["seconds"]["ours"]["median"] == 2 and result["seconds"]["theirs"]["median"] == 6
    assert result["seeds_solved"] == {"ours": 3, "theirs": 2}
    assert result["ratios"][0]["median"] == 0.25  # of 1/4, 2/20, 3/6
    assert "| theirs | 6.0 | 20.0 | 2 of 3 |" in capsys.readouterr().out
    results = {"date": "2020-01-01", "machine": "abacus", "repeats": 9, "sections": [result]}
    shown = time_to_solve.summary(results)
    assert "seconds to solve (less is better)" in shown
    assert "| ours (3 of 3 seeds) | theirs (2 of 3 seeds) | 0.25 |" in shown


@pytest.mark.slow
@pytest.mark.parametrize("name", ["our reinforce", "our dqn", "our ppo", "SB3 DQN", "SB3 PPO"])
def test_a_training_says_whether_it_solved(monkeypatch, name):
    """What any agent reaches is solved at the first evaluation, what none reaches never."""
    settings = {"n_timesteps": 1200, "eval_freq": 400}
    algo = {"SB3 DQN": "dqn", "SB3 PPO": "ppo"}.get(name, name.split()[1])
    learner = algorithm(algo)
    monkeypatch.setitem(learner.presets, "BulletCartPole-v0", settings)
    (solve,) = [
        solve
        for section in time_to_solve.sections()
        for title, solve in section.trainings.items()
        if title == f"{name} on BulletCartPole-v0"
    ]
    for threshold, solved in ((5.0, True), (501.0, False)):
        monkeypatch.setattr(time_to_solve, "SOLVED", threshold)
        assert solve(0) is solved


def test_a_suite_that_is_missing_is_named(clock, capsys):
    """It is skipped with its reason, and so are its ratios."""
    cases = [
        case(clock, "ours", 0.01),
        case(clock, "theirs", 0.02, needs=("json", "no_such_suite")),
    ]
    result = Section("a section", cases, [Ratio("ours", "theirs")]).run(1)
    assert result["skipped"] == {"theirs": "no_such_suite not installed"}
    assert result["ratios"] == []
    assert "| theirs | skipped: no_such_suite not installed | |" in capsys.readouterr().out


@pytest.fixture
def one_real_section(monkeypatch):
    """A bench of one of its real sections."""
    (section,) = [s for s in bench.sections() if s.title == "BulletCartPole-v0 with num_envs=16"]
    monkeypatch.setattr(bench, "sections", lambda: [section])
    monkeypatch.setattr(time_to_solve, "sections", list)


def test_the_command_writes_what_it_measured(tmp_path, capsys, one_real_section):
    """One section of the real bench, as table and JSON."""
    assert main(["bench", "--repeats", "1", "--json", str(tmp_path / "bench.json")]) == 0
    results = json.loads((tmp_path / "bench.json").read_text())
    (section,) = results["sections"]
    assert section["title"] == "BulletCartPole-v0 with num_envs=16"
    assert len(section["rates"]) == 5
    assert min(rate["median"] for rate in section["rates"].values()) > 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in section["rates"])


def time_everything(monkeypatch, *words):
    """Run `python -m benchmarks.time_to_solve`."""
    monkeypatch.setattr(sys, "argv", ["time_to_solve", *words])
    time_to_solve.main()


def test_make_bench_rewrites_a_document(tmp_path, monkeypatch, capsys):
    """Throughput and time to solve are written into JSON and document together."""
    ratio = {"name": "ours", "over": "theirs", "median": 2.0, "low": 1.5, "high": 2.5}
    section = {"title": "one environment", "in_summary": True, "ratios": [ratio]}
    monkeypatch.setattr(Section, "run", lambda *_: section)
    solved = {"seeds_solved": {"ours": 3, "theirs": 2}, "seeds": 3}
    monkeypatch.setattr(time_to_solve.TimeToSolve, "run", lambda *_: {**section, **solved})
    document = tmp_path / "speed.md"
    document.write_text("before\n<!-- bench -->\n<!-- /bench -->\nafter\n")
    files = ["--json", str(tmp_path / "bench.json"), "--document", str(document)]
    time_everything(monkeypatch, "--repeats", "1", *files)
    results = json.loads((tmp_path / "bench.json").read_text())
    sections = [*bench.sections(), time_to_solve.repeated_actions(), *time_to_solve.sections()]
    assert len(results["sections"]) == len(sections)
    text = document.read_text()
    assert f"before\n<!-- bench -->\n{time_to_solve.summary(results)}\n<!-- /bench -->" in text
    assert "| ours | theirs | 2.00 | 1.50 to 2.50 |" in text
    assert "| ours (3 of 3 seeds) | theirs (2 of 3 seeds) | 2.00 | 1.50 to 2.50 |" in text


def test_make_bench_replaces_sections(tmp_path, monkeypatch):
    """With --only those that are measured, which then say so; all others stay as they were."""
    ratio = {"name": "ours", "over": "theirs", "median": 2.0, "low": 1.5, "high": 2.5}
    titles = ["one environment", "BalancingPlate-v0 with 2 workers", "vector environments"]
    before = {
        **{"date": "2020-01-01", "machine": "abacus", "repeats": 7},
        "sections": [{"title": t, "in_summary": True, "ratios": [ratio]} for t in titles],
    }
    timed = {"title": titles[1], "in_summary": True, "ratios": [{**ratio, "median": 3.0}]}
    monkeypatch.setattr(Section, "run", lambda *_: timed)
    document, path = tmp_path / "speed.md", tmp_path / "bench.json"
    document.write_text("before\n<!-- bench -->\n<!-- /bench -->\nafter\n")
    path.write_text(json.dumps(before))
    words = ["--only", titles[1], "--repeats", "1", "--json", str(path)]
    time_everything(monkeypatch, *words, "--document", str(document))
    first, second, third = json.loads(path.read_text())["sections"]
    assert [first, third] == [before["sections"][0], before["sections"][2]]
    measured = second.pop("measured")
    assert second == timed and bench.machine() in measured and "abacus" not in measured
    text = document.read_text()
    assert "2020-01-01, abacus, 7 rounds" in text and f"\n{titles[1]}: {measured}." in text
    assert "| 3.00 |" in text and text.count("| 2.00 |") == 2


@pytest.mark.parametrize(
    "words, message",
    [
        (["--only", "spaceships"], "'spaceships'"),
        (["--repeats", "0"], "repeats=0 must be 1 or more"),
        (["--json", "/no/such/folder/x.json"], "/no/such/folder/x.json"),
        (["--document", "docs/speed.md"], "--document"),
        (["--env", "CartPole-v1"], "--env CartPole-v1 must be a registered task"),
    ],
)
def test_bad_options_are_refused(words, message, capsys, monkeypatch):
    """Before anything is timed."""
    monkeypatch.setattr(Section, "run", lambda *_: pytest.fail("timed"))
    with pytest.raises(SystemExit, match="2"):
        main(["bench", *words])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, error",
    [
        (["--document", "/no/such/speed.md"], FileNotFoundError),
        (["--document", "LICENSE"], ValueError),
        (["--document", "docs/speed.md", "--only", "time to solve"], SystemExit),
        (["--only", "spaceships"], ValueError),
    ],
)
def test_bad_options_of_make_bench_are_refused(words, error, monkeypatch, capsys):
    """Before anything is timed."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Section, "run", lambda *_: pytest.fail("timed"))
    monkeypatch.setattr(time_to_solve.TimeToSolve, "run", lambda *_: pytest.fail("timed"))
    with pytest.raises(error):
        time_everything(monkeypatch, *words)


def test_only_one_id(monkeypatch):
    """`--env` times the sections of that id; its vector environments and what they stand beside."""
    timed = []
    monkeypatch.setattr(Section, "run", lambda section, _: timed.append(section.title))
    assert main(["bench", "--env", "bullet_envs:BalancingPlate-v0"]) == 0
    assert timed == [
        *(f"BalancingPlate-v0 with num_envs={n}" for n in bench.NUM_ENVS),
        "BalancingPlate-v0 with 2 workers",
        "BalancingPlate-v0 with parameters drawn at every reset",
    ]


def test_every_registered_task_is_timed():
    """The suite's ids and a user's: single, and in vector environments of four sizes."""
    titles = [section.title for section in bench.sections()]
    (single, images) = (section for section in bench.sections() if "one env" in section.title)
    for task in SUITE:
        assert task.state_id in [case.name for case in single.cases]
        assert task.pixel_id in [case.name for case in images.cases]
    for env_id in ("BalancingPlatePixels-v0", "ElbowArm-v0"):
        assert f"{env_id} with num_envs=64" in titles


def test_profile_of_an_id(monkeypatch, capsys):
    """Where the time of a step goes, single and vector."""
    monkeypatch.setattr(bench, "ROUND", 0.01)
    assert main(["bench", "--profile", "--env", "BulletCartPole-v0"]) == 0
    shown = capsys.readouterr().out
    assert "BulletCartPole-v0, num_envs=64, " in shown and "(step)" in shown


def test_the_bench_needs_no_agents(run_python):
    """Nor what is not in the wheel; that would be a circle of imports."""
    code = """
import sys
from bullet_envs import bench
assert bench.sections()
mine = [name for name in sys.modules if name.startswith(("bullet_envs.agents", "benchmarks"))]
assert not mine and "torch" not in sys.modules, mine
"""
    done = run_python(code)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "words, titles",
    [
        ("one environment", ["one environment"]),
        ("One Env", ["one environment", "one environment, images"]),
    ],
)
def test_only_some_sections(words, titles, monkeypatch):
    """A whole title chooses one section, a part of titles all that have it."""
    timed = []
    monkeypatch.setattr(Section, "run", lambda section, _: timed.append(section.title))
    assert main(["bench", "--only", words]) == 0
    assert timed == titles


def test_what_was_measured_before_ctrl_c_is_kept(tmp_path, monkeypatch):
    """The JSON has the sections that were whole."""
    finished = {"title": "one environment"}

    def run(section, repeats):
        if section.title != "one environment":
            raise KeyboardInterrupt
        return finished

    monkeypatch.setattr(Section, "run", run)
    assert main(["bench", "--json", str(tmp_path / "bench.json")]) == 130
    assert json.loads((tmp_path / "bench.json").read_text())["sections"] == [finished]


def test_the_comparison_shows_the_committed_run():
    """So do the ratios beside other suites."""
    results = json.loads((ROOT / "docs" / "bench.json").read_text())
    shown = suites.table(read_rows(suites.CSV_PATH), results)
    text = (ROOT / "docs" / "comparison.md").read_text()
    assert f"<!-- suites -->\n{shown}\n<!-- /suites -->" in text
    with pytest.raises(KeyError, match="PyFlyt was not timed"):
        suites.ratio_to(results, "PyFlyt")


def test_a_document_shows_the_committed_run():
    """The table is that of docs/bench.json, to the letter."""
    results = json.loads((ROOT / "docs" / "bench.json").read_text())
    text = (ROOT / "docs" / "speed.md").read_text()
    assert f"<!-- bench -->\n{time_to_solve.summary(results)}\n" in text
