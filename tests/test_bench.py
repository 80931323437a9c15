"""The bench measures what it says, names what it skips, and is what the README shows."""

import contextlib
import json
import types
from pathlib import Path

import pytest

from bullet_envs import bench
from bullet_envs.agents import algorithm, races
from bullet_envs.bench import Contender, Ratio, Section
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


def contender(clock, name, seconds, rows=1, **kwargs):
    """Return a contender whose steps take so long, and whose resets take much longer."""

    def wait(time):
        clock.now += time

    @contextlib.contextmanager
    def opened():
        yield lambda: wait(1000.0), lambda count: wait(seconds)

    return Contender(name, opened, rows, **kwargs)


def test_rates_and_ratios_are_those_of_the_clock(clock, capsys):
    """A step of 10 ms is 100 steps/s, of 8 rows 800; what resets take does not count."""
    contenders = [contender(clock, "ours", 0.01, rows=8), contender(clock, "theirs", 0.02)]
    result = Section("a race", contenders, [Ratio("ours", "theirs")]).run(5)
    assert result["rates"]["ours"] == pytest.approx({"low": 800, "median": 800, "high": 800})
    assert result["rates"]["theirs"]["median"] == pytest.approx(50)
    assert result["ratios"][0]["median"] == pytest.approx(16)
    shown = capsys.readouterr().out
    assert "| ours | 800 | 800 to 800 |" in shown
    assert "| ours / theirs | 16.00 | 16.00 to 16.00 |" in shown


def test_a_ratio_is_the_median_of_single_turns():
    """A machine that is slow for a while slows both sides of a turn, and no ratio."""
    rates = {"a": [100.0, 50.0, 10.0], "b": [50.0, 25.0, 5.0]}
    assert bench.ratio_of(Ratio("a", "b"), rates)["median"] == 2.0


def test_a_race_names_seeds_that_did_not_solve(monkeypatch, capsys):
    """A training takes the seconds that it takes, solved or not, and the summary says which."""
    now = 0.0

    def training(seconds, unsolved=()):
        def solve(seed):
            nonlocal now
            now += seconds[seed]
            return seed not in unsolved

        return solve

    clock = types.SimpleNamespace(perf_counter=lambda: now)
    monkeypatch.setattr(races, "time", clock)
    trainings = {"ours": training([1, 2, 3]), "theirs": training([4, 20, 6], unsolved=[1])}
    result = races.Race("time to solve", trainings, [Ratio("ours", "theirs")]).run(9)
    assert result["seconds"]["ours"]["median"] == 2 and result["seconds"]["theirs"]["median"] == 6
    assert result["seeds_solved"] == {"ours": 3, "theirs": 2}
    assert result["ratios"][0]["median"] == 0.25  # of 1/4, 2/20, 3/6
    assert "| theirs | 6.0 | 20.0 | 2 of 3 |" in capsys.readouterr().out
    results = {"date": "2020-01-01", "machine": "abacus", "repeats": 9, "sections": [result]}
    shown = bench.summary(results)
    assert "seconds to solve (less is better)" in shown
    assert "| ours (3 of 3 seeds) | theirs (2 of 3 seeds) | 0.25 |" in shown


@pytest.mark.slow
@pytest.mark.parametrize("name", ["our reinforce", "our dqn", "our ppo", "SB3 DQN", "SB3 PPO"])
def test_a_training_says_whether_it_solved(monkeypatch, name):
    """What any agent reaches is solved at the first evaluation, what none reaches never."""
    settings = {"n_timesteps": 4096, "eval_freq": 512}
    learner = algorithm(name.split()[1].lower())
    monkeypatch.setitem(learner.presets, "BulletCartPole-v0", settings)
    (solve,) = [
        solve
        for race in races.races()
        for title, solve in race.trainings.items()
        if title == f"{name} on BulletCartPole-v0"
    ]
    for threshold, solved in ((5.0, True), (501.0, False)):
        monkeypatch.setattr(races, "SOLVED", threshold)
        assert solve(0) is solved


def test_a_peer_that_is_missing_is_named(clock, capsys):
    """It is skipped with its reason, and so are its ratios."""
    contenders = [
        contender(clock, "ours", 0.01),
        contender(clock, "theirs", 0.02, needs=("json", "no_such_peer")),
    ]
    result = Section("a race", contenders, [Ratio("ours", "theirs")]).run(1)
    assert result["skipped"] == {"theirs": "no_such_peer not installed"}
    assert result["ratios"] == []
    assert "| theirs | skipped: no_such_peer not installed | |" in capsys.readouterr().out


@pytest.fixture
def one_real_section(monkeypatch):
    """A bench of one of its real sections."""
    (section,) = [s for s in bench.sections() if s.title == "BulletCartPole-v0 with num_envs=16"]
    monkeypatch.setattr(bench, "sections", lambda: [section])
    monkeypatch.setattr(races, "races", list)


def test_the_command_writes_what_it_measured(tmp_path, capsys, one_real_section):
    """One section of the real bench, as table, JSON and part of a README."""
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench -->\n<!-- /bench -->\nafter\n")
    files = ["--json", str(tmp_path / "bench.json"), "--readme", str(readme)]
    assert main(["bench", "--repeats", "1", *files]) == 0
    results = json.loads((tmp_path / "bench.json").read_text())
    (section,) = results["sections"]
    assert section["title"] == "BulletCartPole-v0 with num_envs=16"
    assert len(section["rates"]) == 4
    assert min(rate["median"] for rate in section["rates"].values()) > 0
    assert bench.summary(results) in readme.read_text()
    shown = capsys.readouterr().out
    assert all(name in shown for name in section["rates"])


@pytest.mark.parametrize(
    "words, message",
    [
        (["--only", "spaceships"], "'spaceships'"),
        (["--repeats", "0"], "repeats=0 must be 1 or more"),
        (["--json", "/no/such/folder/x.json"], "/no/such/folder/x.json"),
        (["--readme", "/no/such/README.md"], "/no/such/README.md"),
        (["--readme", "LICENSE"], "<!-- bench -->"),
        (["--readme", "README.md", "--only", "batches"], "--only 'batches' and --readme"),
    ],
)
def test_bad_options_are_refused(words, message, capsys, monkeypatch):
    """Before anything is timed."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Section, "run", lambda *_: pytest.fail("timed"))
    with pytest.raises(SystemExit, match="2"):
        main(["bench", *words])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, titles",
    [
        ("one environment", ["one environment"]),
        ("Environment", ["one environment", "one environment, pictures"]),
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


def test_the_readme_shows_the_committed_run():
    """The table is that of docs/bench.json, to the letter."""
    results = json.loads((ROOT / "docs" / "bench.json").read_text())
    assert f"<!-- bench -->\n{bench.summary(results)}\n" in (ROOT / "README.md").read_text()
