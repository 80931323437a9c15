"""Progress bars, which become occasional lines where nobody watches a terminal."""

import sys
from typing import Any

from tqdm import tqdm

LINES_APART = 10.0  # s between lines in a log file


class _Lines:
    """The standard error as a log file: what a bar shows becomes a line, without padding."""

    def write(self, text: str) -> None:
        if text := text.strip():
            sys.stderr.write(f"{text}\n")

    def flush(self) -> None:
        """Write what is buffered."""
        sys.stderr.flush()


def progress_bar(kind: Any = tqdm, **options: Any) -> Any:
    """Return a progress bar on the standard error.

    In a log file it writes a line each ten seconds, and none of what takes less.

    Args:
        kind: class of the bar.
        **options: of the bar, see tqdm.
    """
    if sys.stderr.isatty():
        return kind(dynamic_ncols=True, mininterval=0.5, **options)
    if "bar_format" in options:
        options["bar_format"] = options["bar_format"].replace("|{bar}|", ",")
    else:
        options["ncols"] = 0  # tqdm's own format without a bar
    apart = {"mininterval": LINES_APART, "maxinterval": LINES_APART, "delay": LINES_APART}
    return kind(file=_Lines(), **apart, **options)
