"""The command ``bullet-envs``, with RL Zoo's names for its flags."""

import argparse
import ast
import contextlib
import importlib
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym

from . import __version__
from .registration import env_ids, registered

# Known without importing the agents, which would load torch.
ALGOS = (
    *("reinforce", "dqn", "a2c", "ppo", "sb3-ppo", "sb3-a2c", "sb3-dqn", "sb3-sac"),
    *("rllib-ppo", "rllib-dqn"),
)
LEARNED = (*ALGOS, "ppo-robust", "a2c-robust")
CONTROLLED = ("lqr", "lqg", "random")
AGENTS = (*LEARNED, *CONTROLLED)
ENV_HELP = (
    "an id of Gymnasium's, this package's (bullet-envs list) or yours: BalancingPlate-v0,"
    " CartPole-v1, my_package:MyTask-v0"
)
LONGEST = 1000  # characters of an error
DRAWING_PROCESSES = 2
DEMO_WIDTH = 640  # pixels: its frames take half the time of those of 960
# Of each command an example, and what to do next.
EXAMPLES = {
    "list": (
        "bullet-envs list",
        "bullet-envs evaluate --env BalancingPlate-v0 --algo dqn --watch",
    ),
    "new": ("bullet-envs new my_arm", "bullet-envs validate --env my_arm:MyArm-v0"),
    "train": (
        "bullet-envs train --algo ppo --env BulletCartPole-v0 --hyperparams gamma:0.99",
        "bullet-envs evaluate --env BulletCartPole-v0 -i runs/ppo/BulletCartPole-v0_seed0_1",
    ),
    "evaluate": (
        "bullet-envs evaluate --env BulletCartPole-v0 --algo ppo --watch",
        "bullet-envs validate --env BulletCartPole-v0 --algo ppo --quick",
    ),
    "compare": (
        "bullet-envs compare --env BulletCartPole-v0 --algo lqr ppo random",
        "bullet-envs validate --env BulletCartPole-v0 --algo ppo --quick",
    ),
    "record": (
        "bullet-envs record --env BulletCartPole-v0 --algo lqr",
        "bullet-envs replay videos/BulletCartPole-v0/lqr-start0-episode-0.json",
    ),
    "validate": (
        "bullet-envs validate --env BulletCartPole-v0 --algo ppo --quick",
        "bullet-envs train --algo ppo --env BulletCartPole-v0 --env-kwargs perturbations:medium",
    ),
    "export": (
        "bullet-envs export --env BulletCartPole-v0 --algo ppo --format huggingface -o ppo",
        "bullet-envs evaluate --env BulletCartPole-v0 -i ppo",
    ),
    "collect": (
        "bullet-envs collect --env BalancingPlate-v0 --algo ppo -o plate/ppo-v0",
        "python examples/behaviour_cloning.py plate/ppo-v0",
    ),
    "replay": (
        "bullet-envs replay videos/BulletCartPole-v0/lqr-start0-episode-0.json",
        "bullet-envs replay videos/BulletCartPole-v0/lqr-start0-episode-0.json -o again",
    ),
    "demo": ("bullet-envs demo", "bullet-envs play --env BalancingPlate-v0"),
    "play": (
        "bullet-envs play --env BalancingPlate-v0",
        "bullet-envs train --algo ppo --env BalancingPlate-v0",
    ),
    "doctor": ("bullet-envs doctor", "bullet-envs list"),
    "bench": (
        "bullet-envs bench --env BulletCartPole-v0",
        "bullet-envs bench --env BulletCartPole-v0 --profile",
    ),
}
# What to do after the demo, with the folder of its agent for {}.
AFTER_DEMO = {
    "watch the agent": "bullet-envs evaluate --env BalancingPlate-v0 -i {} --watch",
    "play it yourself": "bullet-envs play --env BalancingPlate-v0",
    "validate the agent": "bullet-envs validate --env BalancingPlate-v0 -i {} --quick",
    "change a parameter": "bullet-envs evaluate --env BalancingPlate-v0 -i {} --env-kwargs"
    " ball_mass:0.01",
    "change a setting": "bullet-envs train --env BalancingPlate-v0 --algo reinforce --hyperparams"
    " gamma:0.95",
    "write a task": "bullet-envs new my_robot",
}
PLAY_HELP = """\
arrow keys     act, for as long as they are held; further actuators: a and d, s and w
1 to 9         actions 1 to 9 of other environments whose actions are numbered, else 0
Tab            the agent takes over, or gives back
Space          pause;  .  one step
- and =        half the speed;  double it
r              a new episode
Esc or q       leave"""
CONSTANTS = {"true": True, "false": False, "none": None}
# Settings that train has flags for.
SETTINGS = (
    *("n_timesteps", "eval_freq", "save_freq", "vec_env", "workers", "device"),
    *("num_env_runners", "num_envs_per_env_runner", "ray_address"),
)
# The modules of the extra [agents].
EXTRA = (
    *("torch", "stable_baselines3", "safetensors", "scipy", "tensorboard", "rich", "matplotlib"),
    "markdown",
)
# Those of the others.
OTHER_EXTRAS = {
    "ray": "rllib",
    **dict.fromkeys(("onnx", "onnxscript"), "onnx"),
    "yaml": "huggingface",
    **dict.fromkeys(("minari", "jax", "h5py"), "minari"),
}
INSTALL = "pip install 'bullet-envs[agents]'"


class _HelpFormatter(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Leave texts of several lines as they are."""
        return text if "\n" in text else super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and what to do next in one line, without the usage."""
        if len(message) > LONGEST:  # it repeats what the user gave
            message = f"{message[:LONGEST]}..."
        if "pip install" not in message:
            message = f"{message.rstrip('.')}; see {self.prog} --help"
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 2 after a mistake of the user's."""
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # where my_package of --env my_package:MyTask-v0 may be
    options = _build_parser().parse_args(arguments)
    try:
        code: int = options.command(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        options.parser.error(_missing(error))
    except BrokenPipeError:  # the reader, "| head", has seen enough
        # Python flushes once more at its exit, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, RuntimeError, gym.error.Error) as error:
        options.parser.error(_sentence(error))
    return code


def _sentence(error: Exception) -> str:
    """Return what an error says to the user, in one line, which scripts can read."""
    # Gymnasium adds all keywords of the environment, however long.
    text, _, _ = str(error).partition(" was raised from the environment creator for ")
    return " ".join(text.split())


def _missing(error: ModuleNotFoundError) -> str:
    """Return what an error of an import says, and what to install."""
    module = (error.name or "").partition(".")[0]
    if module in OTHER_EXTRAS:
        return f"{error}: {INSTALL.replace('agents', OTHER_EXTRAS[module])}"
    return f"{error}: {INSTALL}" if module in EXTRA else str(error)


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bullet-envs",
        description="PyBullet environments and reference agents.",
        epilog=f"next:\n  {'bullet-envs demo' if _has_agents() else INSTALL}\n"
        "  bullet-envs COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"bullet-envs {__version__}")
    parser.set_defaults(command=_help, parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)

    command = commands.add_parser("list", help="environments and their bundled agents")
    command.add_argument(
        "--env", metavar="MODULE", help="a package of yours, or module:Id, whose tasks to list too"
    )
    command.set_defaults(command=_list)

    command = commands.add_parser("new", help="write a package with a robot and task of your own")
    command.add_argument("name", metavar="NAME", help="of the package, e.g. my_arm")
    command.add_argument(
        "-o", "--output-folder", type=Path, default=Path(), help="where to put its folder"
    )
    command.set_defaults(command=_new)

    _add_agent_commands(commands)

    command = commands.add_parser(
        "play",
        help="play an environment in a window, with the keyboard",
        description="Play an environment in a window, with the keyboard. Every episode leaves a\n"
        "JSON that bullet-envs replay plays again.\n\n" + PLAY_HELP,
    )
    _add_env(command)
    which = command.add_mutually_exclusive_group()
    which.add_argument("--algo", choices=AGENTS, help="who takes over at Tab (the LQR, if it can)")
    which.add_argument("-i", "--trained-agent", type=Path, help="the same, an agent of your own")
    command.add_argument("--seed", type=int, default=0, help="of the first episode (0)")
    command.add_argument(
        "-o", "--output-folder", type=Path, default=Path("plays"), help="of the JSONs (plays)"
    )
    command.add_argument("--record", action="store_true", help="then make videos of the episodes")
    command.set_defaults(command=_play)

    command = commands.add_parser("doctor", help="what is installed, and what to do about the rest")
    command.set_defaults(command=_doctor)

    command = commands.add_parser("bench", help="time environments beside those of other suites")
    command.add_argument("--repeats", type=int, default=7, help="rounds of each section (7)")
    command.add_argument(
        "--only", default="", metavar="WORDS", help="a section's title, or part of several"
    )
    command.add_argument(
        "--env", type=str, help="import the package of module:Id and time that id alone"
    )
    command.add_argument("--json", type=Path, help="a file for all figures")
    command.add_argument(
        "--profile", action="store_true", help="show where a step's time goes, and nothing else"
    )
    command.set_defaults(command=_bench)

    for name, command in commands.choices.items():
        command.set_defaults(parser=command)
        example, following = EXAMPLES["evaluate" if name == "enjoy" else name]
        command.epilog = f"example:\n  {example}\nnext:\n  {following}"
    return parser


def _help(options: argparse.Namespace) -> int:
    options.parser.print_help()
    return 0


def _add_agent_commands(commands: Any) -> None:
    """Add the commands that need the extra ``[agents]``."""
    command = commands.add_parser(
        "train",
        help="train an agent",
        add_help=False,
    )
    command.add_argument(
        "-h", "--help", action=_TrainHelp, help="show this and the settings of --algo"
    )
    _add_env(command)
    command.add_argument("--algo", choices=ALGOS, required=True)
    command.add_argument("-n", "--n-timesteps", type=int, help="default: the preset of the id")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--eval-freq", type=int, help="steps between evaluations")
    command.add_argument("--vec-env", choices=("batch", "sync", "async"), help="see the settings")
    _add_workers(command, "see the settings")
    command.add_argument(
        "--num-env-runners", type=int, metavar="N", help="of RLlib's algorithms, see the settings"
    )
    command.add_argument("--num-envs-per-env-runner", type=int, metavar="M", help="the same")
    command.add_argument("--ray-address", help="of a Ray cluster for RLlib's algorithms")
    command.add_argument("--device", help="where the networks are: cpu, cuda, cuda:1")
    command.add_argument("--save-freq", type=int, help="steps between checkpoints")
    command.add_argument(
        "-params",
        "--hyperparams",
        nargs="+",
        type=_pair,
        default=[],
        metavar="KEY:VALUE",
        help="settings in place of the preset's, e.g. gamma:0.98 learning_rate:3e-4",
    )
    command.add_argument("-f", "--log-folder", type=Path, default=Path("runs"))
    command.add_argument(
        "--resume", action="store_true", help="go on with the newest such run in the log folder"
    )
    command.add_argument("--no-progress", action="store_true", help="no progress bar")
    command.set_defaults(command=_train)

    command = commands.add_parser(
        "evaluate", aliases=["enjoy"], help="play an agent from unseen initial states"
    )
    _add_agent(command)
    command.add_argument("--eval-episodes", type=int, default=100)
    _add_workers(command, "processes that share the episodes, or auto (1)")
    command.add_argument(
        "--watch",
        action="store_true",
        help="show the episodes in a window, in real time, until it is left (Esc, q)",
    )
    command.add_argument("--record", action="store_true", help="a video of the worst episode")
    _add_video(command)
    command.set_defaults(command=_evaluate)

    command = commands.add_parser(
        "compare", help="compare agents in the same episodes, and record one beside each other"
    )
    _add_env(command)
    command.add_argument(
        "--algo",
        nargs="+",
        choices=AGENTS,
        default=[],
        metavar="AGENT",
        help=f"bundled agents or controllers: {', '.join(AGENTS)}",
    )
    command.add_argument(
        "-i",
        "--trained-agent",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="agents of your own: best.json or its folder; 2 to 4 agents in all, the first of which"
        " is compared with the others",
    )
    command.add_argument("--stochastic", action="store_true", help="draw actions from the policies")
    command.add_argument("--seed", type=int, default=0, help="of the recorded episode (0)")
    command.add_argument("--eval-episodes", type=int, default=100, help="in the table (100)")
    _add_workers(command, "processes that share the episodes, or auto (1)")
    _add_video(command)
    command.add_argument("--no-video", action="store_true", help="print the table only")
    command.set_defaults(command=_compare)

    command = commands.add_parser("record", help="record a video of an agent")
    _add_agent(command)
    command.add_argument("--seed", type=int, default=0, help="of the initial state")
    _add_video(command)
    command.add_argument("--gif", action="store_true", help="also a small GIF of the first 5 s")
    command.add_argument("--poster", action="store_true", help="also a PNG of one frame, after 2 s")
    command.set_defaults(command=_record)

    command = commands.add_parser(
        "validate",
        help="check an environment; with an agent, write its report card",
        description="Check an environment. With an agent, also write its report card: how it fares"
        " without and with each perturbation beside the LQR, which initial states it loses, and its"
        " worst episodes as videos. The same command goes on with a card that was stopped.",
    )
    _add_env(command)
    which = command.add_mutually_exclusive_group()
    which.add_argument("--algo", choices=AGENTS, help="a bundled agent or a controller")
    which.add_argument(
        "-i", "--trained-agent", type=Path, help="an agent of your own: best.json or its folder"
    )
    command.add_argument(
        "-o", "--output-folder", type=Path, help="of the card (reports/<id>-<agent>)"
    )
    command.add_argument("--quick", action="store_true", help="fewer episodes, in about a minute")
    _add_workers(command, "processes, or auto for all cores (auto)")
    command.add_argument(
        "--heat-map",
        nargs=2,
        metavar="PARAMETER",
        help="the two of the heat map; default: those that the agent bears least of",
    )
    command.set_defaults(command=_validate)

    command = commands.add_parser(
        "export",
        help="write an agent as an ONNX model, or as a folder in Hugging Face's layout",
        description="Write an agent as an ONNX model from observations to its most likely actions,"
        " or as a folder in Hugging Face's layout. Nothing is uploaded.",
    )
    command.add_argument("--env", required=True, help=ENV_HELP)
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--algo", choices=LEARNED, help="a bundled agent")
    which.add_argument(
        "-i", "--trained-agent", type=Path, help="an agent of your own: best.json or its folder"
    )
    command.add_argument("--format", choices=("onnx", "huggingface"), required=True)
    command.add_argument(
        "-o", "--output", type=Path, required=True, help="the file, or the new folder"
    )
    which = command.add_mutually_exclusive_group()
    which.add_argument("--video", type=Path, metavar="FILE", help="an MP4 for the folder")
    which.add_argument("--record", action="store_true", help="record one for the folder")
    command.set_defaults(command=_export, env_kwargs=[])

    command = commands.add_parser(
        "collect",
        help="play episodes into a Minari dataset",
        description="Play episodes into a Minari dataset, in ~/.minari/datasets or where"
        " MINARI_DATASETS_PATH says.",
    )
    _add_agent(command)
    command.add_argument("-n", "--n-episodes", type=int, default=100, help="how many (100)")
    command.add_argument("--seed", type=int, default=0, help="of the first; 1 more for each next")
    command.add_argument(
        "-o", "--output", required=True, metavar="DATASET_ID", help="e.g. plate/lqr-v0"
    )
    command.add_argument("--author", help="for the metadata")
    command.add_argument("--author-email", help="the same")
    command.add_argument("--code-permalink", help="the same: where the code is that made it")
    command.set_defaults(command=_collect)

    command = commands.add_parser("replay", help="play a recorded episode again, without the agent")
    command.add_argument("file", type=Path, metavar="FILE", help="the JSON beside a video")
    command.add_argument("--env", help="its id, where that is one of a package of yours")
    command.add_argument("-o", "--output-folder", type=Path, help="record it again, into a folder")
    command.set_defaults(command=_replay)

    if _has_agents():
        command = commands.add_parser("demo", help="train, evaluate and record in about a minute")
        command.add_argument("-f", "--log-folder", type=Path, default=Path("runs/demo"))
        command.add_argument("-o", "--output-folder", type=Path, default=Path("videos/demo"))
        command.set_defaults(command=_demo)


class _TrainHelp(argparse.Action):
    """Prints the help of ``train``, and the settings of the algorithm that was named before."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        algo = getattr(namespace, "algo", None)
        if algo is None:
            named = "\n".join(f"  bullet-envs train --algo {name} --help" for name in ALGOS)
            settings = f"settings of an algorithm for --hyperparams:\n{named}"
        else:
            settings = _settings_text(algo)
        parser.epilog = f"{parser.epilog}\n\n{settings}"
        parser.print_help()
        parser.exit()


def _settings_text(algo: str) -> str:
    try:
        from .agents import settings_help

        settings = settings_help(algo)
    except ModuleNotFoundError as error:
        return f"settings of {algo} for --hyperparams: {_missing(error)}"
    lines = [f"settings of {algo} for --hyperparams, with their defaults:"]
    for name, default, meaning in settings:
        shown = str(default).replace(" ", "") if isinstance(default, tuple) else default
        shown = "''" if default == "" else shown
        lines += [f"  {name}:{shown}", f"        {meaning}"]
    return "\n".join(lines)


def _has_agents() -> bool:
    return importlib.util.find_spec("torch") is not None


def _add_env(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", required=True, help=ENV_HELP)
    parser.add_argument(
        "--env-kwargs",
        nargs="+",
        type=_pair,
        default=[],
        metavar="KEY:VALUE",
        help="keywords of the environment, e.g. force:5 continuous:true, or from a JSON file, e.g."
        " perturbations:@windy.json",
    )


def _add_workers(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--workers", type=_workers, metavar="N", help=text)


def _workers(text: str) -> int | str:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number or auto")
    return text if text == "auto" else int(text)


def _add_agent(parser: argparse.ArgumentParser) -> None:
    _add_env(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--algo", choices=AGENTS, help="a bundled agent or a controller")
    which.add_argument(
        "-i", "--trained-agent", type=Path, help="an agent of your own: best.json or its folder"
    )
    parser.add_argument("--stochastic", action="store_true", help="draw actions from the policy")


def _add_video(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output-folder", type=Path, default=Path("videos"), help="of the video (videos)"
    )
    parser.add_argument(
        "--no-overlay", dest="overlay", action="store_false", help="write nothing into the frames"
    )


def _pair(text: str) -> tuple[str, Any]:
    key, colon, value = text.partition(":")
    if not (key and colon):
        raise argparse.ArgumentTypeError(f"{text!r} must be KEY:VALUE")
    if value.lower() in CONSTANTS:
        return key, CONSTANTS[value.lower()]
    if value.startswith("@"):
        try:
            return key, json.loads(Path(value[1:]).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return key, value


def _env_config(options: argparse.Namespace) -> Any:
    """Return the environment of a command, after making it once to check its keywords."""
    from .agents import EnvConfig

    config = EnvConfig(options.env, dict(options.env_kwargs))
    config.make_bare().close()
    return config


def _load(options: argparse.Namespace, agent: str | Path) -> Any:
    """Return an agent by the name of its algorithm, or from its folder."""
    from .agents import load_agent, pretrained_card

    _env_config(options)
    if agent in LEARNED and not pretrained_card(options.env, str(agent)).is_file():
        how = f"bullet-envs train --algo {agent} --env {options.env}" if agent in ALGOS else "train"
        raise ValueError(
            f"no {agent} agent of {options.env} is bundled: train one ({how}), and give its folder"
            " with -i"
        )
    return load_agent(options.env, agent, **dict(options.env_kwargs))


def _list(options: argparse.Namespace) -> int:
    if options.env is not None:
        _import_module(options.env.partition(":")[0], options.env)
    for env_id in env_ids():
        spec = gym.spec(env_id)
        limit = f"{spec.max_episode_steps} actions" if spec.max_episode_steps else "no time limit"
        solved = "" if spec.reward_threshold is None else f", solved at {spec.reward_threshold:g}"
        print(f"{env_id}: {limit}{solved}")
        if _has_agents():
            from .agents import controllers_of, pretrained_card

            bundled = [algo for algo in LEARNED if pretrained_card(env_id, algo).is_file()]
            print(f"    agents: {', '.join((*bundled, *controllers_of(env_id)))}")
    if not _has_agents():
        print(f"agents: {INSTALL}")
    return 0


def _new(options: argparse.Namespace) -> int:
    from .template import write_package

    folder = write_package(options.name, options.output_folder)
    print(f"{folder}\nnext: pip install -e '{folder}[test]' && pytest {folder}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from .agents import algorithm, new_agent

    given = dict(options.hyperparams)
    for name in SETTINGS:
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    learner = algorithm(options.algo)
    _env_config(options)
    preset = dict(learner.preset(options.env))
    env_kwargs = {**preset.pop("env_kwargs", {}), **dict(options.env_kwargs)}
    settings = {**preset, **given}
    known = [
        name
        for name in learner.config.__dataclass_fields__
        if name not in ("env_id", "env_kwargs", "seed")  # these have flags of their own
    ]
    if unknown := [name for name in settings if name not in known]:
        raise ValueError(f"unknown setting {', '.join(unknown)}; legal: {', '.join(known)}")
    config = learner.config(
        env_id=options.env, env_kwargs=env_kwargs, seed=options.seed, **settings
    )
    new_agent(learner.policy, config.env, config.hidden)  # refuses before anything is written
    folder = _run_folder(options)
    run = _run_training(learner, config, folder, options.resume, options.no_progress)
    facts = [f"{run.steps} steps in {run.seconds:.0f} s"]
    if run.outcome and not run.stopped:
        facts.append(run.outcome)
    if run.best_return is not None:
        facts.append(f"best return {run.best_return:.1f}")
    print(f"{', '.join(facts)}: {folder}")
    if run.stopped:
        kept = run.steps - run.steps_to_replay
        print(
            f"stopped: the same command with --resume goes on from step {kept}"
            + (f" and takes {run.steps_to_replay} steps again" if run.steps_to_replay else ""),
            file=sys.stderr,
        )
        return 130
    print(f"next: bullet-envs evaluate --env {options.env} -i {folder}")
    return 0


def _run_folder(options: argparse.Namespace) -> Path:
    """Return the newest run's folder to resume, or the next free one."""
    parent = options.log_folder / options.algo
    stem = f"{_file_name(options.env)}_seed{options.seed}_"
    numbers = (path.name.removeprefix(stem) for path in parent.glob(f"{stem}*"))
    newest = max((int(number) for number in numbers if number.isdecimal()), default=0)
    if options.resume and not newest:
        raise FileNotFoundError(
            f"nothing to resume: {options.log_folder} has no {options.algo} training of"
            f" {options.env} with seed {options.seed}; without --resume one begins"
        )
    folder: Path = parent / f"{stem}{newest if options.resume else newest + 1}"
    return folder


def _file_name(env_id: str) -> str:
    """Return an id as part of a file name: without the module, and without slashes."""
    return env_id.rpartition(":")[2].replace("/", "-")


def _run_training(
    learner: Any, config: Any, folder: Path, resume: bool = False, quiet: bool = False
) -> Any:
    from .agents.run import Run

    with Run(folder, config, resume, progress=not quiet) as run:
        learner.train(config, run)
    return run


def _evaluate(options: argparse.Namespace) -> int:
    from .agents.evaluation import EVALUATION_SEEDS, evaluate

    if not 1 <= options.eval_episodes <= 1_000_000:
        raise ValueError(f"--eval-episodes {options.eval_episodes} must lie from 1 to 1000000")
    if options.watch and options.workers is not None:
        raise ValueError("--watch shows one episode after the other: leave out --workers")
    agent = _load(options, options.algo or options.trained_agent)
    seeds = range(EVALUATION_SEEDS.start, EVALUATION_SEEDS.start + options.eval_episodes)
    if options.watch:
        evaluation = _watch(agent, seeds, not options.stochastic)
        if not len(evaluation.returns):
            return 0
    else:
        workers = 1 if options.workers is None else options.workers
        evaluation = evaluate(agent, seeds, not options.stochastic, workers)
    _print_table({agent.name: evaluation}, options.env)
    if options.record:
        worst = int(evaluation.returns.argmin())
        print(f"\nThe worst episode, seed {seeds[worst]}, return {evaluation.returns[worst]:g}:")
        folder, deterministic = options.output_folder, not options.stochastic
        print(_record_episode(agent, seeds[worst], folder, deterministic, options.overlay))
    return 0


def _watch(agent: Any, seeds: Sequence[int], deterministic: bool) -> Any:
    """Show episodes until the window is left, and return the evaluation of those that ended."""
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    from .agents.evaluation import Evaluation, run_episodes
    from .watch import Watched

    watched = Watched(agent.env.make_bare(render_mode="rgb_array"), agent.name)
    envs = SyncVectorEnv(
        # Around the window, which so has every frame of an action that is repeated.
        [lambda: agent.env.wrap(watched)],
        autoreset_mode=AutoresetMode.DISABLED,
    )
    episodes: list[Any] = []
    with contextlib.closing(envs), contextlib.suppress(SystemExit, KeyboardInterrupt):
        for seed in seeds:
            episodes += run_episodes(
                envs,
                lambda observations, live: agent.act(observations, deterministic, live),
                [seed],
                keep_observations=False,
                begin=agent.policy.begin,
            )
            print(f"seed {seed}: return {episodes[-1].episode_return:g}")
    return Evaluation.of(episodes)


def _print_table(evaluations: dict[str, Any], env_id: str) -> None:
    count = len(next(iter(evaluations.values())).returns)
    print(f"\n{env_id}, return of {count} episodes from unseen initial states")
    print(f"{'agent':<12} {'mean':>8} {'std':>8} {'worst':>8} {'length':>8}")
    for name, evaluation in evaluations.items():
        returns, length = evaluation.returns, evaluation.lengths.mean()
        print(
            f"{name:<12} {returns.mean():>8.1f} {returns.std():>8.1f} {returns.min():>8.1f}"
            f" {length:>8.1f}"
        )


def _compare(options: argparse.Namespace) -> int:
    from .agents import comparison
    from .agents.evaluation import EVALUATION_SEEDS

    _require_seed(options.seed)
    if not 2 <= options.eval_episodes <= len(EVALUATION_SEEDS):
        raise ValueError(
            f"--eval-episodes {options.eval_episodes} must lie from 2 to {len(EVALUATION_SEEDS)}"
        )
    named = (*options.algo, *options.trained_agent)
    agents = comparison.by_name([_load(options, agent) for agent in named])
    workers = 1 if options.workers is None else options.workers
    # Refuses them before minutes are spent on a video.
    next(iter(agents.values())).make_vec(1, workers=workers).close()
    if not options.no_video:
        deterministic = not options.stochastic
        path = comparison.record(
            agents,
            options.seed,
            options.output_folder,
            deterministic,
            options.overlay,
            DRAWING_PROCESSES,
        )
    seeds = EVALUATION_SEEDS[: options.eval_episodes]
    evaluations = comparison.evaluate_all(agents, seeds, not options.stochastic, workers)
    print(f"\n{options.env}, return of {len(seeds)} episodes from unseen initial states")
    print(comparison.table(evaluations))
    if not options.no_video:
        print(f"\nvideo: {path}\nfacts: {path.with_suffix('.json')}")
    return 0


def _record(options: argparse.Namespace) -> int:
    _require_seed(options.seed)
    agent = _load(options, options.algo or options.trained_agent)
    path = _record_episode(
        agent, options.seed, options.output_folder, not options.stochastic, options.overlay
    )
    print(path)
    if options.gif:
        print(_gif(path))
    if options.poster:
        print(_poster(path))
    return 0


def _require_seed(seed: int) -> None:
    if seed < 0:
        raise ValueError(f"--seed {seed} must be 0 or more")


def _record_episode(
    agent: Any,
    seed: int,
    folder: Path,
    deterministic: bool = True,
    overlay: bool = True,
    width: int | None = None,
) -> Path:
    from . import Recorder
    from .progress import progress_bar

    prefix = f"{agent.name}-start{seed}"
    folder = folder / _file_name(agent.env_id)
    bare = agent.env.make_bare(render_mode="rgb_array")
    recorder = Recorder(
        bare,
        str(folder),
        name_prefix=prefix,
        agent_hash=agent.weights_hash,
        overlay=overlay,
        agent=agent.name,
        drawing_processes=DRAWING_PROCESSES,
        width=width,
    )
    # Around the recorder, so that the video has every frame of an action that is repeated.
    env = agent.env.wrap(recorder)
    with env, progress_bar(desc="recording", unit="action") as bar:
        observation, info = env.reset(seed=seed)
        agent.policy.begin(info, 1)
        ended = False
        while not ended:
            action, _ = agent.predict(observation, deterministic=deterministic)
            observation, _, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
            bar.update()
    return folder / f"{prefix}-episode-0.mp4"


def _export(options: argparse.Namespace) -> int:
    if options.format == "onnx" and (options.video is not None or options.record):
        raise ValueError("--format onnx has no video: --video and --record are for huggingface")
    agent = _load(options, options.algo or options.trained_agent)

    from .agents import export

    if options.format == "onnx":
        export.to_onnx(agent, options.output)
    elif options.record:
        export.require_free(options.output)
        with tempfile.TemporaryDirectory() as folder:
            video = _record_episode(agent, 0, Path(folder))
            export.to_huggingface(agent, options.output, video)
    else:
        export.to_huggingface(agent, options.output, options.video)
    print(options.output)
    return 0


def _collect(options: argparse.Namespace) -> int:
    _require_seed(options.seed)
    if not 1 <= options.n_episodes <= 1_000_000:
        raise ValueError(f"--n-episodes {options.n_episodes} must lie from 1 to 1000000")
    agent = _load(options, options.algo or options.trained_agent)

    from .agents import collect

    dataset = collect.collect(
        agent,
        options.output,
        range(options.seed, options.seed + options.n_episodes),
        not options.stochastic,
        author=options.author,
        author_email=options.author_email,
        code_permalink=options.code_permalink,
    )
    print(f"{dataset.total_episodes} episodes, {dataset.total_steps} steps: {options.output}")
    return 0


def _validate(options: argparse.Namespace) -> int:
    agent = options.algo or options.trained_agent
    name = _file_name(options.env) + ("" if agent is None else f"-{Path(agent).name}")
    folder = options.output_folder or Path("reports") / name
    kwargs = dict(options.env_kwargs)
    if agent is None:
        findings = _certify(options, kwargs, folder)
        print(folder / "certificate.json")
        return int(any(one.passed is False for one in findings))
    loaded = _load(options, agent)  # refuses before anything is written
    kwargs = dict(loaded.env.env_kwargs)  # with those that it was trained with
    from .agents import report, validation
    from .workers import count_workers

    subject = validation.Subject(options.env, str(agent), kwargs)
    with validation.processes(count_workers(options.workers or "auto", 64)) as pool:
        findings = _certify(options, kwargs, folder)
        measured = validation.measure(
            subject,
            folder,
            quick=options.quick,
            pool=pool,
            heat_map=None if options.heat_map is None else tuple(options.heat_map),
        )
        print(report.write(subject, measured, findings, folder, _command_of(options), pool))
    return int(any(one.passed is False for one in findings))


def _certify(options: argparse.Namespace, kwargs: dict[str, Any], folder: Path) -> list[Any]:
    """Print what is found of an environment, and write it into a folder."""
    from . import certificate

    findings = certificate.certify(
        options.env, kwargs, progress=_say_on_a_terminal, quick=options.quick
    )
    _say_on_a_terminal("")
    print(certificate.format_findings(findings))
    folder.mkdir(parents=True, exist_ok=True)
    facts = [{"name": one.name, "passed": one.passed, "summary": one.summary} for one in findings]
    (folder / "certificate.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return findings


def _say_on_a_terminal(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _command_of(options: argparse.Namespace) -> str:
    """Return the command line of a validation."""
    words = ["bullet-envs", "validate", "--env", options.env]
    if options.algo is not None:
        words += ["--algo", options.algo]
    else:
        words += ["-i", str(options.trained_agent)]
    if options.env_kwargs:
        words += ["--env-kwargs", *(f"{key}:{value}" for key, value in options.env_kwargs)]
    if options.quick:
        words.append("--quick")
    if options.heat_map is not None:
        words += ["--heat-map", *options.heat_map]
    return shlex.join(words)


def _play(options: argparse.Namespace) -> int:
    from . import Recorder, play, replay

    _require_seed(options.seed)
    kwargs = play.continuous_keywords(options.env, dict(options.env_kwargs))
    agent = _player(options, kwargs)
    with gym.make(options.env, render_mode="rgb_array", **kwargs) as env:
        session = play.Session(
            env, options.seed, options.output_folder / _file_name(options.env), agent
        )
        print(PLAY_HELP)
        session.play()
    for log in session.logs:
        print(log)
        if options.record:
            card = replay.read(log)
            made = replay.make(card, options.env, render_mode="rgb_array")
            recorder = Recorder(
                made,
                str(log.parent),
                name_prefix=log.stem,
                overlay=True,
                drawing_processes=DRAWING_PROCESSES,
            )
            with recorder:
                replay.replay(card, recorder)
            print(log.parent / f"{log.stem}-episode-0.mp4")
    return 0


def _player(options: argparse.Namespace, kwargs: dict[str, Any]) -> Any:
    """Return the agent that takes over in ``play``, None if there is none."""
    from .registration import load_task, registered

    named = options.algo or options.trained_agent
    task = registered(options.env)
    if named is None:
        if not _has_agents() or task is None or options.env.rpartition(":")[2] != task.state_id:
            return None
        if not load_task(task.task).has_equilibrium:
            return None
        named = "lqr"
    from .agents import EnvConfig, load_agent

    if named in CONTROLLED:
        return load_agent(options.env, named, **kwargs)
    agent = _load(options, named)
    if agent.env != EnvConfig(agent.env.env_id, agent.env.env_kwargs):
        raise ValueError(
            f"{agent.name} sees {agent.env.frame_stack} observations at once or acts every"
            f" {agent.env.action_repeat} steps: who takes over must see one, and act at each step"
        )
    return agent


def _replay(options: argparse.Namespace) -> int:
    from . import Recorder, replay

    card = replay.read(options.file)
    folder = options.output_folder
    if folder is None:
        env = replay.make(card, options.env)
    else:
        env = replay.make(card, options.env, render_mode="rgb_array")
        env = Recorder(env, str(folder), name_prefix=options.file.stem)
    with env:
        played = replay.replay(card, env)
    print(f"{played.length} actions, return {played.total:g}", end="")
    print(", equal to the recorded one" if played.is_equal else f", recorded {played.recorded:g}")
    return 0 if played.is_equal else 1


def _gif(video: Path) -> Path:
    """Write the first 5 seconds of a video at half its rate and 3/4 of its size."""
    fps = json.loads(video.with_suffix(".json").read_text())["fps"]
    colours = "split[a][b];[a]palettegen=64[p];[b][p]paletteuse=dither=none"
    filters = f"fps={fps / 2:g},scale=iw*3/4:-1:flags=lanczos,{colours}"
    return _converted(video, ".gif", "-t", "5", "-vf", filters)


def _poster(video: Path) -> Path:
    """Write the frame after 2 seconds of a video, or that in the middle of a shorter one."""
    facts = json.loads(video.with_suffix(".json").read_text())
    index = min(round(2 * facts["fps"]), facts["frames"] // 2)
    return _converted(video, ".png", "-vf", f"select=eq(n\\,{index})", "-frames:v", "1")


def _converted(video: Path, suffix: str, *options: str) -> Path:
    """Have ffmpeg make another file of a video."""
    from .mp4 import find_ffmpeg

    path = video.with_suffix(suffix)
    command = [find_ffmpeg(), "-v", "error", "-y", "-i", str(video), *options, str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def _demo(options: argparse.Namespace) -> int:
    from .agents import algorithm, learning_curve, load_agent
    from .agents.evaluation import evaluate

    env_id, algo = "BalancingPlate-v0", "reinforce"
    options.env, options.algo, options.seed, options.resume = env_id, algo, 0, False
    print(f"Training {algo} on {env_id}; Ctrl-C stops")
    learner = algorithm(algo)
    folder = _run_folder(options)
    config = learner.config(env_id=env_id, **learner.preset(env_id))
    if _run_training(learner, config, folder).stopped:
        return 130
    trained = load_agent(env_id, folder)
    agents = [load_agent(env_id, "random"), load_agent(env_id, "lqr"), trained]
    _print_table({agent.algo: evaluate(agent) for agent in agents}, env_id)
    path = _record_episode(trained, 0, options.output_folder, width=DEMO_WIDTH)
    print(f"\nvideo: {path}\nfacts: {path.with_suffix('.json')}\nagent: {folder}")
    print(f"learning curve: {learning_curve.draw(folder, config.env.reward_threshold)}")
    print("\nnext:")
    for purpose, command in AFTER_DEMO.items():
        print(f"  {purpose:<18}  {command.format(shlex.quote(str(folder)))}")
    _open(path)
    return 0


def _open(path: Path) -> subprocess.Popen[bytes] | None:
    """Have the desktop show a file, and return the process that does, None without a desktop."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return None
    try:
        return subprocess.Popen(
            ["xdg-open", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # the player outlives this program, and its Ctrl-C
        )
    except OSError:  # there is no xdg-open
        return None


def _doctor(options: argparse.Namespace) -> int:
    from . import doctor

    return doctor.main()


def _bench(options: argparse.Namespace) -> int:
    from . import bench

    if options.env is not None:
        _import_package(options.env)
    if options.profile:
        bench.profile(options.env)
    else:
        only = options.only or ("" if options.env is None else options.env.rpartition(":")[2])
        bench.main(options.repeats, only, options.json)
    return 0


def _import_package(env_id: str) -> None:
    """Import the package of ``module:Id``, whose tasks are then registered.

    Raises:
        ValueError: there is no such package, or it registers no such task.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        _import_module(module, env_id)
    if registered(name) is None:
        raise ValueError(f"--env {env_id} must be a registered task: {', '.join(env_ids())}")


def _import_module(module: str, env: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"--env {env}: {error}") from None
