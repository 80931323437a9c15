"""``make report-cards``: what ``bullet-envs validate`` says of bundled agents, for the site.

The cards of PPO, and of the agents for perturbed robots, without their failures. One that is there
is not measured again; the same command goes on after Ctrl-C::

    python -m benchmarks.report_cards
    python -m benchmarks.report_cards --full  # with the episodes of a card without --quick
"""

import argparse
import shutil
import sys
from pathlib import Path

from bullet_envs import ENV_IDS, cli
from bullet_envs.agents import ROBUST, pretrained_card
from bullet_envs.agents.checkpoints import write_atomically

from .cells import resumable

FOLDER = Path("docs/report_cards")
FIGURES = ("robustness", "initial_states", "heat_map")


@resumable()
def main() -> None:
    """Measure the cards that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--full", action="store_true", help="not --quick")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    options = parser.parse_args()
    for env_id, algo in cards():
        name = f"{env_id}-{algo}"
        if (options.folder / f"{name}.md").exists():
            continue
        report = options.reports / name
        command = ["validate", "--env", env_id, "--algo", algo, "-o", str(report)]
        if code := cli.main(command if options.full else [*command, "--quick"]):
            sys.exit(code)
        publish(report, options.folder / name)


def cards() -> list[tuple[str, str]]:
    """Return id and agent of each card."""
    return [
        (env_id, algo)
        for env_id in ENV_IDS
        for algo in ("ppo", *ROBUST)
        if pretrained_card(env_id, algo).is_file()
    ]


def publish(report: Path, card: Path) -> None:
    """Write a card for the site from the folder of a report.

    Args:
        report: where ``bullet-envs validate`` has written.
        card: of the page, without a suffix; the folder of that name is for its figures.
    """
    card.mkdir(parents=True, exist_ok=True)
    for name in FIGURES:
        figure = report / "figures" / f"{name}.png"
        if figure.exists():
            shutil.copy(figure, card)
    text, *_ = (report / "report.md").read_text(encoding="utf-8").partition("\n### ")
    text = text.replace("](figures/", f"]({card.name}/")
    write_atomically(card.with_suffix(".md"), text.encode())


if __name__ == "__main__":
    main()
