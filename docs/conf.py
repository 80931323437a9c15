"""Settings of the documentation site: ``make docs``."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # generated_pages, and benchmarks for the curves

import mathjax  # noqa: E402

import bullet_envs  # noqa: E402

project = "bullet-envs"
author = copyright = "bullet-envs contributors"
version = release = bullet_envs.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "generated_pages",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # the anchors that GitHub makes
napoleon_use_ivar = True  # properties are listed as members too
napoleon_custom_sections = [("Class attributes", "params_style")]
autodoc_member_order = "bysource"
smartquotes_action = "qe"  # quotes and ellipses: options begin with two dashes
html_theme = "furo"
html_use_index = html_domain_indices = False  # API has all entries, and the search
html_title = f"bullet-envs {release}"
try:
    html_static_path = [str(mathjax.fetch(HERE.parent / "build"))]
    mathjax_path = mathjax.FILE
except OSError as error:
    sys.stderr.write(f"formulas will need the network, since MathJax cannot be fetched: {error}\n")
