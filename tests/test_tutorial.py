"""The tutorial runs as a notebook, from a wheel, and shows its videos."""

import base64
import json
import os
import re
import shlex
import shutil
import sysconfig
from pathlib import Path

import pytest
from test_documents import commands
from video_tools import decode
from wheels import ROOT, build_wheel, make_venv, run

nbclient = pytest.importorskip("nbclient")
pytest.importorskip("jupytext")
pytest.importorskip("ipykernel")
pytestmark = pytest.mark.slow

PAGE = "docs/tutorial.md"
PROGRAMS = {
    "jupytext": ["-m", "jupytext"],
    "jupyter execute": ["-c", "from nbclient.cli import main; main()", "--timeout=600"],
}
WHERE = "import bullet_envs, bullet_envs.agents as a; print(bullet_envs.__file__, a.__file__)"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """Return the notebook that the commands of the page make and execute."""
    folder = tmp_path_factory.mktemp("tutorial")
    wheel = build_wheel(tmp_path_factory.mktemp("copy"))
    packages = [Path(nbclient.__file__).parent.parent, sysconfig.get_path("purelib")]
    python = make_venv(folder / "venv", wheel, *packages)
    for file in run(python, "-c", WHERE, cwd=folder).split():
        assert Path(file).is_relative_to(folder / "venv")
    (folder / "docs").mkdir()
    shutil.copy(ROOT / PAGE, folder / "docs")
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    install, *others = commands(PAGE)
    assert install.startswith("pip install")
    for command, program in zip(others, PROGRAMS, strict=True):
        assert command.startswith(program)
        words = shlex.split(command.removeprefix(program))
        run(python, *PROGRAMS[program], *words, cwd=folder, PATH=path)
    return json.loads((folder / "tutorial.ipynb").read_text(encoding="utf-8"))


def outputs(notebook, kind):
    """Return what the cells show of a MIME type."""
    shown = [one for cell in notebook["cells"] for one in cell.get("outputs", ())]
    found = [one["data"][kind] for one in shown if kind in one.get("data", ())]
    return ["".join(one) for one in found]


def test_the_tutorial(notebook, tmp_path):
    """One test: two processes of pytest-xdist would execute the notebook twice, for minutes."""
    assert_every_cell_ran(notebook)
    assert_videos_are_in(notebook, tmp_path)
    assert_the_agent_is_trained(notebook)


def assert_every_cell_ran(notebook):
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = {one["output_type"] for cell in code for one in cell["outputs"]}
    assert "error" not in kinds


def assert_videos_are_in(notebook, tmp_path):
    """Short ones of random actions and of the delayed LQR, whole episodes of the others."""
    lengths = []
    for html in outputs(notebook, "text/html"):
        found = re.search(r'src="data:video/mp4;base64,([^"]+)"', html)
        (tmp_path / "a.mp4").write_bytes(base64.b64decode(found[1]))
        lengths.append(len(decode(tmp_path / "a.mp4")[0]))
    random, lqr, late, trained = lengths
    assert lqr == trained == 501
    assert max(random, late) < 100


def assert_the_agent_is_trained(notebook):
    texts = "".join(
        "".join(one["text"])
        for cell in notebook["cells"]
        for one in cell.get("outputs", ())
        if one["output_type"] == "stream"
    )
    assert "solved" in texts.splitlines()
