"""The site builds without a warning, has a page for each registered id, and no dead link."""

import dataclasses
import html
import os
import re
import shutil
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ALL_IDS, STATE_IDS

import bullet_envs

pytest.importorskip("sphinx")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
# As `make docs` does, with the tasks of robots.py registered too.
BUILD = "import robots, sys; from sphinx.cmd.build import main; sys.exit(main(sys.argv[1:]))"


class Page(HTMLParser):
    """The anchors and links of a page."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.text = set(), [], path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.anchors.add(value)
            elif name in ("href", "src"):
                self.links.append(value)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a copy of the documents, so that no page is written into the checkout."""
    source = tmp_path_factory.mktemp("source")
    generated = shutil.ignore_patterns("environments", "command_line.rst", "__pycache__")
    shutil.copytree(ROOT / "docs", source / "docs", ignore=generated)
    shutil.copy(ROOT / "README.md", source)
    for name in ("agents", "benchmarks", "examples", "videos"):
        (source / name).symlink_to(ROOT / name)
    return source


@pytest.fixture(scope="module")
def site(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    paths = os.pathsep.join(
        filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    )
    done = subprocess.run(
        [sys.executable, "-c", BUILD, "-q", "-W", "--keep-going", source / "docs", out],
        env={**os.environ, "PYTHONPATH": paths},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return out


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


@pytest.mark.parametrize("env_id", ALL_IDS)
def test_every_id_has_a_page(env_id, site, pages):
    """A page has what the live task has, and a video if there is one."""
    page = pages[site / "environments" / f"{env_id}.html"]
    task = bullet_envs.registration.load_task(bullet_envs.registered(env_id).task)()
    names = [*(field.name for field in dataclasses.fields(task)), *task.state_names]
    names += map(repr, task.perturbation_presets)
    assert not [name for name in names if f">{name}<" not in html.unescape(page.text)]
    videos = [link for link in page.links if link.endswith(".mp4")]
    assert bool(videos) == any((ROOT / "videos" / env_id).glob("*.mp4"))


def test_links_resolve(site, pages):
    """Files and anchors of all links within the site exist. Others are not fetched."""
    broken = []
    checked = 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file() or (
                anchor and target in pages and anchor not in pages[target].anchors
            ):
                broken.append(f"{path.relative_to(site)}: {link}")
            checked += 1
    assert not broken
    assert checked > 100 * len(bullet_envs.ENV_IDS)


@pytest.mark.parametrize("env_id", STATE_IDS)
def test_solutions_run(env_id, source, site, tmp_path, monkeypatch):
    """What a page says about solving its environment runs, in a short training."""
    monkeypatch.chdir(tmp_path)
    page = (source / "docs" / "environments" / f"{env_id}.rst").read_text(encoding="utf-8")
    code = textwrap.dedent(re.search(r"Solve it\n-+\n\n\.\. code.*\n\n((?: .*|\n)+)", page)[1])
    preset = f'**ppo.preset("{env_id}")'
    assert preset in code
    short = '"n_timesteps": 512, "n_steps": 16, "batch_size": 64'
    code = code.replace(preset, f"**{{{preset}, {short}}}").replace('"human"', '"rgb_array"')
    namespace = {}
    exec(code, namespace)
    assert namespace["env"].action_space.contains(namespace["action"])
    namespace["env"].close()
