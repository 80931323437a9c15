"""The site builds without a warning, has a page for each registered id, and no dead link.

Where there is Chromium, every page is opened on a wide and a narrow screen, light and dark.
"""

import dataclasses
import html
import importlib
import io
import json
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
from browser import Handler, seen_by_chromium
from conftest import ALL_IDS, STATE_IDS, TRAINED_HERE

import bullet_envs
from bullet_envs.agents import algorithm, settings_ranges

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
    (ROOT / "build").mkdir(exist_ok=True)  # keeps MathJax, which is fetched once
    linked = "agents assets benchmarks build bullet_envs examples videos CITATION.cff"
    for name in linked.split():
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


def has_mathjax(site):
    """Return whether it could be fetched."""
    return (site / "_static" / "tex-svg.js").is_file()


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
    assert f"Environment {env_id}" in page.text
    videos = [link for link in page.links if link.endswith(".mp4")]
    assert bool(videos) == any((ROOT / "videos" / env_id).glob("*.mp4"))
    cards = {Path(link).stem for link in page.links if "report_cards" in link}
    assert cards >= {path.stem for path in (ROOT / "docs/report_cards").glob(f"{env_id}-*.md")}


@pytest.mark.parametrize("algo", TRAINED_HERE)
def test_the_command_line_has_every_setting(algo, site, pages):
    """With its range; and the presets of the algorithm."""
    text = pages[site / "command_line.html"].text
    section = text.partition(f'<section id="{algo}">')[2].partition("</section>")[0]
    for name, shown in settings_ranges(algo).items():
        assert f">{name}<" in section
        assert shown in html.unescape(section)
    assert all(env_id in section for env_id in algorithm(algo).presets)


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


def test_tables_are_tables(pages):
    """None has become a paragraph, as by a comment between its rows."""
    assert not [path.name for path, page in pages.items() if re.search(r"<p>\s*\|", page.text)]


def test_options_keep_their_dashes(site, pages):
    """Two of them, also outside of code."""
    text = html.unescape(pages[site / "command_line.html"].text)
    assert "settings of --algo" in text and "\N{EN DASH}" not in text


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


SEARCHED = "balancing plate reward"


def test_search_index_has_the_words(site):
    """Each word is in the index of the search, and all of them in the page of the plate."""
    from sphinx.search.en import SearchEnglish

    stem = SearchEnglish({}).stem
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(re.search(r"Search\.setIndex\((.*)\)", text, re.DOTALL)[1])
    plate = index["docnames"].index("environments/BalancingPlate-v0")
    for word in SEARCHED.split():
        places = [index[kind].get(stem(word), []) for kind in ("terms", "titleterms")]
        found = [page for one in places for page in (one if isinstance(one, list) else [one])]
        assert plate in found, word


def test_another_mathjax_is_refused(tmp_path, monkeypatch):
    """A file that is not the release is not kept."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    mathjax = importlib.import_module("mathjax")
    monkeypatch.setattr(mathjax.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"other"))
    with pytest.raises(ValueError, match="not the release of MathJax"):
        mathjax.fetch(tmp_path)
    assert not list(tmp_path.iterdir())


def test_external_links_are_listed(site, pages):
    """Those of every page, for someone to look through. The pages themselves load nothing."""
    listed = (site / "external_links.txt").read_text(encoding="utf-8").splitlines()
    links = {link for page in pages.values() for link in page.links if "://" in link}
    assert {line.partition(" ")[0] for line in listed} == links
    loaded = re.compile(r"<(?:script|img|video|iframe|link)\b[^>]*(?:src|href)=.https?:[^>]*>")
    found = [tag for page in pages.values() for tag in loaded.findall(page.text)]
    assert not found or not has_mathjax(site)


# Put at the head of each page: what goes wrong in it, from its first script on.
RECORDER = b"""<script>
window.faults = [];
const fault = e => faults.push(e.message || `cannot load ${e.target.src || e.target.href}`);
addEventListener("error", fault, true);
addEventListener("unhandledrejection", e => faults.push(String(e.reason)));
for (const level of ["error", "warn"]) {
  const log = console[level];
  console[level] = (...words) => { faults.push(words.join(" ")); log(...words); };
}
</script>"""
# Opens each page in a frame as wide as a screen, and sends back what it saw there.
DRIVER = """<!doctype html><body><script>
const jobs = JOBS;
const wait = ms => new Promise(done => setTimeout(done, ms));
async function until(what, seconds = 20) {
  for (let i = 0; i < 20 * seconds && !what(); i++) await wait(50);
}
async function look({path, width, theme}) {
  localStorage.setItem("theme", theme);
  const frame = document.createElement("iframe");
  frame.style.cssText = `width: ${width}px; height: 900px; border: 0`;
  const loaded = new Promise(done => frame.onload = done);
  frame.src = path;
  document.body.append(frame);
  await loaded;
  const page = frame.contentWindow, root = page.document.documentElement;
  if (page.MathJax && page.MathJax.startup) await page.MathJax.startup.promise;
  const results = page.document.querySelector("#search-results");
  if (results) await until(() => results.querySelector("li a"));
  const tooWide = [...page.document.querySelectorAll("article *")].filter(one => {
    const box = one.getBoundingClientRect();
    // What holds the article scrolls on narrow screens, so it does not count.
    for (let up = one; up && up.tagName !== "ARTICLE"; up = up.parentElement)
      if (["auto", "scroll", "hidden"].includes(page.getComputedStyle(up).overflowX)) return false;
    return box.width && box.right > width + 1;
  });
  const seen = {
    path, width, theme, faults: page.faults,
    overflow: root.scrollWidth - root.clientWidth,
    tooWide: tooWide.slice(0, 3).map(one => one.outerHTML.slice(0, 120)),
    images: [...page.document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
    formulas: page.document.querySelectorAll(".math").length,
    drawn: page.document.querySelectorAll(".math mjx-container svg").length,
    colour: page.getComputedStyle(page.document.body).backgroundColor,
    found: results ? [...results.querySelectorAll("li a")].map(a => a.getAttribute("href")) : [],
  };
  frame.remove();
  return seen;
}
(async () => {
  const seen = [];
  for (const job of jobs)
    seen.push(await look(job).catch(error => ({...job, faults: [String(error)]})));
  await fetch("/seen", {method: "POST", body: JSON.stringify(seen)});
})();
</script>"""


class RecordingHandler(Handler):
    """Puts the recorder of faults into each page."""

    def page(self):
        path = Path(self.translate_path(self.path))
        if path.suffix == ".html" and path.is_file():
            return path.read_bytes().replace(b"<head>", b"<head>" + RECORDER, 1)
        return None


@pytest.fixture(scope="module")
def seen(site, pages, tmp_path_factory):
    """Return what Chromium sees of every page, on two screens, light and dark."""
    if not has_mathjax(site):
        pytest.skip("npm's registry cannot be reached")
    paths = [f"/{path.relative_to(site).as_posix()}" for path in sorted(pages)]
    paths = [path for path in paths if path != "/search.html"]
    jobs = [
        {"path": path, "width": width, "theme": theme}
        for path in [*paths, f"/search.html?q={SEARCHED.replace(' ', '+')}"]
        for width in (1280, 390)
        for theme in ("light", "dark")
    ]
    driver = DRIVER.replace("JOBS", json.dumps(jobs))
    profile = tmp_path_factory.mktemp("profile")
    seen = seen_by_chromium(site, driver, profile, 300, RecordingHandler)
    assert len(seen) == len(jobs)
    return seen


@pytest.mark.parametrize("fault", ["faults", "tooWide", "images"])
def test_no_page_has_a_fault(fault, seen):
    """No error or warning in the console, nothing wider than the screen, every image is there."""
    wrong = [(one["path"], one["width"], one[fault]) for one in seen if one[fault]]
    assert not wrong


def test_no_page_scrolls_sideways(seen):
    """Wide tables scroll by themselves."""
    assert not [(one["path"], one["width"]) for one in seen if one["overflow"] > 0]


def test_formulas_are_drawn(seen):
    """By the MathJax of the site, all of them."""
    assert any(one["formulas"] > 10 for one in seen)
    assert not [one["path"] for one in seen if one["drawn"] < one["formulas"]]


def test_pages_are_light_and_dark(seen):
    """Each theme has its background."""
    colours = {
        theme: {o["colour"] for o in seen if o["theme"] == theme} for theme in ("light", "dark")
    }
    assert all(len(of) == 1 for of in colours.values())
    assert colours["light"] != colours["dark"]


def test_search_finds(seen):
    """The page of the plate is the first that the search shows."""
    searches = [one for one in seen if one["path"].startswith("/search.html")]
    assert searches
    for one in searches:
        assert one["found"] and "BalancingPlate" in one["found"][0], one["found"]
