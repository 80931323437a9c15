"""The command ``bullet-envs``, with RL Zoo's names for its flags."""

import argparse
import ast
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from . import ENV_IDS, PIXEL_IDS

# Known without importing the agents, which would load torch.
ALGOS = ("reinforce", "dqn", "ppo")
AGENTS = (*ALGOS, "lqr", "random")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage."""
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 2 after a mistake of the user's."""
    parser = _build_parser()
    options = parser.parse_args(arguments)
    try:
        code: int = options.command(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        parser.error(f"{error}: pip install 'bullet-envs[agents]'")
    except BrokenPipeError:  # the reader, "| head", has seen enough
        # Python flushes once more at its exit, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        # These carry a sentence for the user; a line break would hide it in scripts.
        parser.error(" ".join(str(error).split()))
    return code


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bullet-envs", description="PyBullet environments and reference agents.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    command = commands.add_parser("list", help="environments and their bundled agents")
    command.set_defaults(command=_list)

    command = commands.add_parser("train", help="train an agent")
    _add_env(command)
    command.add_argument("--algo", choices=ALGOS, required=True)
    command.add_argument("-n", "--n-timesteps", type=int, help="default: the preset of the id")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--eval-freq", type=int, help="steps between evaluations")
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
        "evaluate", aliases=["enjoy"], help="play an agent on unseen starts and print its returns"
    )
    _add_agent(command)
    command.add_argument("--eval-episodes", type=int, default=100)
    command.set_defaults(command=_evaluate)

    command = commands.add_parser("record", help="film an agent")
    _add_agent(command)
    command.add_argument("--seed", type=int, default=0, help="of the start")
    command.add_argument("-o", "--output-folder", type=Path, default=Path("videos"))
    command.add_argument("--gif", action="store_true", help="also a small GIF of the first 5 s")
    command.set_defaults(command=_record)

    command = commands.add_parser(
        "observability", help="whether pictures carry the state: an LQR on what a network sees"
    )
    command.add_argument("--env", choices=PIXEL_IDS, required=True)
    command.add_argument("--size", type=int, default=64, help="of a picture, in pixels")
    command.add_argument("--stride", type=int, default=2, help="actions between pictures")
    command.add_argument("--supersampling", type=int, default=1)
    command.add_argument("--eval-episodes", type=int, default=100)
    command.set_defaults(command=_observability)

    command = commands.add_parser("demo", help="train, evaluate and film in about a minute")
    command.add_argument("-f", "--log-folder", type=Path, default=Path("runs/demo"))
    command.add_argument("-o", "--output-folder", type=Path, default=Path("videos/demo"))
    command.set_defaults(command=_demo)

    command = commands.add_parser("bench", help="time environments and agents beside their peers")
    command.add_argument("--repeats", type=int, default=7, help="turns of each contender (7)")
    command.add_argument(
        "--only", default="", metavar="WORDS", help="a section's title, or part of several"
    )
    command.add_argument("--json", type=Path, help="a file for all figures")
    command.add_argument("--readme", type=Path, help="a text whose section 'bench' to rewrite")
    command.add_argument(
        "--profile", action="store_true", help="show where a step's time goes, and nothing else"
    )
    command.set_defaults(command=_bench)
    return parser


def _add_env(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", choices=ENV_IDS, required=True)
    parser.add_argument(
        "--env-kwargs",
        nargs="+",
        type=_pair,
        default=[],
        metavar="KEY:VALUE",
        help="keywords of the environment, e.g. force:5 physics_hz:200",
    )


def _add_agent(parser: argparse.ArgumentParser) -> None:
    _add_env(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--algo", choices=AGENTS, help="a bundled agent or a controller")
    which.add_argument(
        "-i", "--trained-agent", type=Path, help="an agent of your own: best.json or its folder"
    )
    parser.add_argument("--stochastic", action="store_true", help="draw actions from the policy")


def _pair(text: str) -> tuple[str, Any]:
    key, colon, value = text.partition(":")
    if not (key and colon):
        raise argparse.ArgumentTypeError(f"{text!r} must be KEY:VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _check_env(options: argparse.Namespace) -> None:
    """Refuse keywords that the environment does not have."""
    spec = gym.spec(options.env)
    create: Any = load_env_creator(str(spec.entry_point))
    if "render_mode" in (keywords := dict(options.env_kwargs)):
        raise ValueError("render_mode is for the command to choose; --env-kwargs cannot set it")
    create(**{**spec.kwargs, **keywords}).close()


def _load(options: argparse.Namespace) -> Any:
    from .agents import load_agent

    _check_env(options)

    return load_agent(
        options.env, options.algo or options.trained_agent, **dict(options.env_kwargs)
    )


def _list(options: argparse.Namespace) -> int:
    for env_id in ENV_IDS:
        spec = gym.spec(env_id)
        print(f"{env_id}: {spec.max_episode_steps} actions, solved at {spec.reward_threshold:g}")
        agents = [name for name in AGENTS if name != "lqr" or env_id not in PIXEL_IDS]
        print(f"    agents: {', '.join(agents)}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from .agents import algorithm

    given = dict(options.hyperparams)
    for name in ("n_timesteps", "eval_freq"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    learner = algorithm(options.algo)
    settings = {**learner.presets.get(options.env, {}), **given}
    _check_env(options)
    known = [
        name
        for name in learner.config.__dataclass_fields__
        if name not in ("env_id", "env_kwargs", "seed")  # these have flags of their own
    ]
    if unknown := [name for name in settings if name not in known]:
        raise ValueError(f"unknown setting {', '.join(unknown)}; legal: {', '.join(known)}")
    config = learner.config(
        env_id=options.env, env_kwargs=dict(options.env_kwargs), seed=options.seed, **settings
    )
    learner.agent(*config.of_agent)  # before anything is written
    folder = _run_folder(options)
    finished, run = _run_training(learner, config, folder, options.resume, options.no_progress)
    print(f"{run.steps} steps in {run.seconds:.0f} s, best return {run.best_return:.1f}: {folder}")
    if not finished:
        print("stopped before its end; the same command with --resume goes on", file=sys.stderr)
        return 130
    print(f"next: bullet-envs evaluate --env {options.env} -i {folder}")
    return 0


def _run_folder(options: argparse.Namespace) -> Path:
    """Return the newest run's folder to resume, or the next free one."""
    parent = options.log_folder / options.algo
    stem = f"{options.env}_seed{options.seed}_"
    numbers = (path.name.removeprefix(stem) for path in parent.glob(f"{stem}*"))
    newest = max((int(number) for number in numbers if number.isdecimal()), default=0)
    folder: Path = parent / f"{stem}{newest if options.resume else newest + 1}"
    return folder


def _run_training(
    learner: Any, config: Any, folder: Path, resume: bool = False, quiet: bool = False
) -> tuple[bool, Any]:
    from .agents.run import Run

    with Run(folder, config, resume, progress=not quiet) as run:
        learner.train(config, run)
    return not run.stopped, run


def _evaluate(options: argparse.Namespace) -> int:
    from .agents.evaluation import EVALUATION_SEEDS, evaluate

    if not 1 <= options.eval_episodes <= 1_000_000:
        raise ValueError(f"--eval-episodes {options.eval_episodes} must lie from 1 to 1000000")
    agent = _load(options)
    seeds = range(EVALUATION_SEEDS.start, EVALUATION_SEEDS.start + options.eval_episodes)
    returns = evaluate(agent, seeds, deterministic=not options.stochastic)
    _print_table({agent.algo: returns}, options.env)
    return 0


def _print_table(returns: dict[str, Any], env_id: str) -> None:
    count = len(next(iter(returns.values())))
    print(f"\n{env_id}, return over {count} unseen starts")
    print(f"{'agent':<12}{'mean':>8}{'std':>8}{'worst':>8}")
    for name, values in returns.items():
        print(f"{name:<12}{values.mean():>8.1f}{values.std():>8.1f}{values.min():>8.0f}")


def _record(options: argparse.Namespace) -> int:
    if options.seed < 0:
        raise ValueError(f"--seed {options.seed} must be 0 or more")
    agent = _load(options)
    path = _film(agent, options.seed, options.output_folder, not options.stochastic)
    print(path)
    if options.gif:
        print(_gif(path))
    return 0


def _film(agent: Any, seed: int, folder: Path, deterministic: bool = True) -> Path:
    from tqdm import tqdm

    from . import Recorder

    prefix = f"{agent.algo}-start{seed}"
    bare = gym.make(agent.env_id, render_mode="rgb_array", **agent.env_kwargs)
    recorder = Recorder(
        bare, str(folder / agent.env_id), name_prefix=prefix, agent_hash=agent.weights_hash
    )
    # Around the recorder, so that the film has every frame of an action that is repeated.
    env = agent.wrap(recorder)
    with env, tqdm(desc="filming", unit="action", mininterval=0.5) as bar:
        observation, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            action, _ = agent.predict(observation, deterministic=deterministic)
            observation, _, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
            bar.update()
    path: Path = folder / agent.env_id / f"{prefix}-episode-0.mp4"
    return path


def _gif(film: Path) -> Path:
    """Write the first 5 seconds of a film at half its rate and 3/4 of its size."""
    import imageio.v3 as iio
    from PIL import Image

    fps = iio.immeta(film, plugin="FFMPEG")["fps"]
    pictures = []
    for count, frame in enumerate(iio.imiter(film, plugin="FFMPEG")):
        if count >= 5 * fps:
            break
        if count % 2 == 0:
            height, width, _ = frame.shape
            picture = Image.fromarray(frame).resize((width * 3 // 4, height * 3 // 4))
            pictures.append(picture.quantize(64, dither=Image.Dither.NONE))
    path = film.with_suffix(".gif")
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=round(2000 / fps), loop=0
    )
    return path


def _observability(options: argparse.Namespace) -> int:
    from .agents.observability import measure, table

    row = measure(
        options.env, options.size, options.stride, options.supersampling, options.eval_episodes
    )
    print(table([row]))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from .agents import algorithm, load_agent
    from .agents.evaluation import evaluate

    env_id, algo = "BalancingPlate-v0", "reinforce"
    options.env, options.algo, options.seed, options.resume = env_id, algo, 0, False
    print(f"Training {algo} on {env_id}; Ctrl-C stops")
    learner = algorithm(algo)
    folder = _run_folder(options)
    config = learner.config(env_id=env_id, **learner.presets[env_id])
    finished, _ = _run_training(learner, config, folder)
    if not finished:
        return 130
    trained = load_agent(env_id, folder)
    agents = [load_agent(env_id, "random"), load_agent(env_id, "lqr"), trained]
    _print_table({agent.algo: evaluate(agent) for agent in agents}, env_id)
    path = _film(trained, 0, options.output_folder)
    print(f"\nfilm: {path}\nfacts: {path.with_suffix('.json')}\nagent: {folder}")
    return 0


def _bench(options: argparse.Namespace) -> int:
    from . import bench

    if options.profile:
        bench.profile()
    else:
        bench.main(options.repeats, options.only, options.json, options.readme)
    return 0
