"""MathJax within the site, so that pages show their formulas without a network.

It is two megabytes, so it is not committed: the first build fetches the release from npm.
"""

import base64
import hashlib
import io
import tarfile
import urllib.request
from pathlib import Path

VERSION = "3.2.2"
URL = f"https://registry.npmjs.org/mathjax/-/mathjax-{VERSION}.tgz"
# npm's "integrity" of the archive.
SHA512 = "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw=="
FILE = "tex-svg.js"  # the one component that loads neither fonts nor other files
TIMEOUT = 30  # s


def fetch(build: Path) -> Path:
    """Return the folder with MathJax's file and nothing else; fetch it where it is not there yet.

    Args:
        build: where to keep it.

    Raises:
        OSError: npm's registry cannot be reached.
        ValueError: it sent another file than the release.
    """
    folder = build / f"mathjax-{VERSION}"
    if not (folder / FILE).is_file():
        with urllib.request.urlopen(URL, timeout=TIMEOUT) as response:
            archive = response.read()
        if base64.b64encode(hashlib.sha512(archive).digest()).decode() != SHA512:
            raise ValueError(f"{URL} is not the release of MathJax that {__file__} names")
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            member = files.extractfile(f"package/es5/{FILE}")
            assert member is not None
            content = member.read()
        folder.mkdir(parents=True, exist_ok=True)
        part = folder.with_suffix(".part")
        part.write_bytes(content)
        part.replace(folder / FILE)
    return folder
