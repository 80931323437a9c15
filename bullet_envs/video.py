"""Films of an environment, encoded while it runs and replayable from the JSON beside them.

``Recorder`` has the arguments and file names of Gymnasium's ``RecordVideo``; ``Mp4Writer`` makes
one film of any frames. A film appears under its name only when it is whole and checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from fractions import Fraction
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import gymnasium as gym
import numpy as np

# imageio_ffmpeg only finds the program here. Its write_frames, and imageio's writer above it, kill
# ffmpeg when Ctrl-C falls into a write, ignore its exit status and let it talk on the terminal.
# A session of its own keeps the Ctrl-C of the terminal, sent to the whole process group, away.
_ISOLATED: dict[str, Any] = {
    "start_new_session": True,
    "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
}
_QUIET = ["-hide_banner", "-loglevel", "error"]


class RecordingError(RuntimeError):
    """A film could not be made; nothing of it is left, and the environment can still be used."""


def check_name(name: str) -> None:
    """Raise ValueError unless a file name is plain and safe everywhere."""
    if not re.fullmatch(r"(?!\.)[A-Za-z0-9._-]{1,100}", name):
        raise ValueError(
            f"film name {name!r} must be 1 to 100 of A-Z a-z 0-9 . _ - and not begin with a dot"
        )


def find_ffmpeg() -> str:
    """Return the path of an ffmpeg that has been seen to encode, or raise RecordingError."""
    try:
        import imageio_ffmpeg

        executable = str(imageio_ffmpeg.get_ffmpeg_exe())
        _try_encoding(executable)
    except (ImportError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None)
        raise RecordingError(
            "no ffmpeg with H.264 (libx264) can be run: pip install 'imageio[ffmpeg]', or set "
            f"IMAGEIO_FFMPEG_EXE to one. {said.decode(errors='replace') if said else error}"
        ) from error
    return executable


@lru_cache
def _try_encoding(executable: str) -> None:
    command = _encode(executable, 2, 2, Fraction(1), ["-f", "null", "-"])
    subprocess.run(command, input=bytes(12), capture_output=True, check=True, **_ISOLATED)


def _encode(executable: str, width: int, height: int, rate: Fraction, out: list[str]) -> list[str]:
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate)]
    h264 = ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20"]
    return [executable, "-y", *_QUIET, *raw, "-i", "-", *h264, *out]


class Mp4Writer:
    """One MP4 film, written frame by frame in constant memory.

    The film grows in ``<name>.part.mp4`` and takes its name, replacing an older film, in `close`.
    After an error nothing is left. ``contextlib.closing(Mp4Writer(...))`` ends it on every way out.

    Args:
        path: the film, ``<name>.mp4``, in a folder that exists.
        fps: frames per second.
        card: facts to put into ``<name>.json``, read when the film is closed; None writes no JSON.

    Raises:
        ValueError: the name or the rate is not legal.
        RecordingError: there is no working ffmpeg.
    """

    def __init__(
        self, path: str | os.PathLike[str], fps: float, card: dict[str, Any] | None = None
    ) -> None:
        self.path = Path(path).absolute()
        check_name(self.path.stem)
        self._rate = Fraction(fps).limit_denominator(100_000)
        if self.path.suffix != ".mp4" or self._rate <= 0:
            raise ValueError(f"need a name in .mp4 and fps > 0, not {self.path.name!r} at {fps}")
        self.card = card
        self.frames = 0
        self.closed = False
        self._executable = find_ffmpeg()
        self._part = self.path.with_name(f"{self.path.stem}.part.mp4")
        self._card_part = self.path.with_name(f"{self.path.stem}.part.json")
        self._shape: tuple[int, ...] = ()
        self._torn = self._ending = False
        self._process: subprocess.Popen[bytes] | None = None
        _live.add(self)

    def append(self, frame: object) -> None:
        """Encode one more frame.

        Args:
            frame: array (height, width, 3) of uint8. An odd side is made even by repeating the last
                row or column; nothing is ever rescaled.

        Raises:
            RecordingError: the frame is of another kind or size, or ffmpeg failed (disk full).
        """
        if self.closed or self._torn or self._ending:
            raise RecordingError(f"film {self.path} takes no more frames")
        # Bullet built without NumPy gives tuples, and ffmpeg would take floats for noise.
        if (
            not isinstance(frame, np.ndarray)
            or frame.dtype != np.uint8
            or frame.shape != (self._shape or (*frame.shape[:2], 3))
            or frame.size == 0
        ):
            kind, shape = (getattr(frame, name, "none") for name in ("dtype", "shape"))
            raise self._failure(
                f"frame {self.frames} is a {type(frame).__name__} of type {kind} and shape {shape},"
                f" not an array of uint8 and {self._shape or '(height, width, 3)'}"
            )
        self._shape = frame.shape
        height, width = frame.shape[:2]
        # yuv420p shares one colour between 2 x 2 pixels, so both sides must be even.
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        rest = np.ascontiguousarray(even).data.cast("B")
        try:
            if self._process is None:
                self._start(even.shape[1], even.shape[0])
            # Set until the frame is through: Ctrl-C may fall in between.
            self._torn = True
            while rest:
                rest = rest[self._pipe.write(rest) :]
        except OSError as error:
            raise self._failure(str(error)) from error
        self.frames += 1
        self._torn = False

    def close(self) -> None:
        """Finish, check and publish the film; nothing happens if it is closed already.

        An interrupt leaves it open, so that closing again, or the end of the program, finishes it.

        Raises:
            RecordingError: there is no frame, or the film could not be written whole.
        """
        if self.closed:
            return
        if self._process is None or self.frames == 0:
            raise self._failure("there is no frame in it")
        self._ending = True
        self._pipe.close()
        try:
            if self._process.wait() != 0:
                raise self._failure("ffmpeg failed")
            height, width = (side + side % 2 for side in self._shape[:2])
            found = self._count(width, height)
            # ffmpeg drops a torn last frame, unless the interrupt came just after its last byte.
            if not self.frames <= found <= self.frames + self._torn:
                raise self._failure(f"{found} frames of {width}x{height} instead of {self.frames}")
            self.frames = found
            if self.card is not None:
                size = {"frames": found, "width": width, "height": height}
                card = _plain({**self.card, "fps": float(self._rate), **size})
                lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in card.items()]
                self._card_part.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
            os.replace(self._part, self.path)
            if self.card is not None:
                os.replace(self._card_part, self.path.with_suffix(".json"))
        except OSError as error:
            raise self._failure(str(error)) from error
        self.closed = True
        self._log.close()

    def abort(self) -> None:
        """Give the film up and remove what there is of it."""
        if self.closed:
            return
        self.closed = True
        if self._process is not None:
            self._process.kill()
            self._pipe.close()
            self._process.wait()
            self._log.close()
            for part in (self._part, self._card_part):
                with contextlib.suppress(OSError):
                    part.unlink()

    def _start(self, width: int, height: int) -> None:
        # A file, because nobody would empty a pipe.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        out = ["-movflags", "+faststart", str(self._part)]
        self._process = subprocess.Popen(
            _encode(self._executable, width, height, self._rate, out),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            **_ISOLATED,
        )
        self._pipe: IO[bytes] = self._process.stdin  # type: ignore[assignment]

    def _count(self, width: int, height: int) -> int:
        """Decode the film and return its number of frames, 0 if they are of another size."""
        decode = [self._executable, *_QUIET, "-i", str(self._part), "-f", "framecrc", "-"]
        shown = subprocess.run(
            decode,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            **_ISOLATED,
        ).stdout.splitlines()
        frames = sum(not line.startswith("#") for line in shown)
        return frames if f"#dimensions 0: {width}x{height}" in shown else 0

    def _failure(self, why: str) -> RecordingError:
        said = ""
        if self._process is not None:
            # Without input ffmpeg ends by itself, and only then has it said why.
            self._pipe.close()
            self._process.wait()
            self._log.seek(0)
            said = self._log.read(500).decode(errors="replace").strip()
        self.abort()
        return RecordingError(f"film {self.path} was not made: {why}{said and '; ffmpeg: '}{said}")

    def disown(self) -> None:
        """Let go of a film that belongs to the process this one was forked from."""
        if not self.closed and self._process is not None:
            self._pipe.close()
        self.closed = True


# A forked worker inherits the pipe: held open there, ffmpeg would never see the film's end.
_live: weakref.WeakSet[Mp4Writer] = weakref.WeakSet()


def _disown_all() -> None:
    for writer in _live:
        writer.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)


class Recorder(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Film episodes: one frame after reset and one after each step, at the control rate.

    Takes the place of ``gymnasium.wrappers.RecordVideo``: the same arguments, triggers and file
    names ``<prefix>-episode-<n>.mp4`` and ``<prefix>-step-<n>.mp4``. Beside each film a JSON holds
    what repeats it without the agent: reset with ``seed`` (or to ``start_state``), then take the
    ``actions``; ``resets`` tells before which action a film of fixed length resets again.
    An exception, Ctrl-C, close, reset or the end of the program finishes the film as it stands,
    with ``complete`` false if it is shorter than planned.

    Args:
        env: environment with ``render_mode="rgb_array"``.
        video_folder: made if missing; films of the same name are replaced.
        episode_trigger: says whether to film the n-th episode. Without any trigger: the episodes
            0, 1, 8, 27, ... 729, 1000, 2000, ...
        step_trigger: says whether to begin a film after the n-th step of all.
        video_length: steps in a film, across episodes; 0 films to the end of the episode.
        name_prefix: begins each file name.
        fps: frames per second; None takes ``metadata["render_fps"]``, or 30.
        disable_logger: without effect; there is no moviepy to be silenced.
        gc_trigger: without effect; no frames are kept.
        agent_hash: identifies the weights that act, for the JSON.

    Raises:
        ValueError: the render mode or the prefix is not legal.
        RecordingError: no working ffmpeg, or a folder that cannot be written. Later, from `reset`,
            `step`, `close` and `stop_recording`: the film failed and is gone.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        video_folder: str,
        episode_trigger: Callable[[int], bool] | None = None,
        step_trigger: Callable[[int], bool] | None = None,
        video_length: int = 0,
        name_prefix: str = "rl-video",
        fps: float | None = None,
        disable_logger: bool = True,
        gc_trigger: Callable[[int], bool] | None = None,
        *,
        agent_hash: str | None = None,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(
            self,
            video_folder=video_folder,
            episode_trigger=episode_trigger,
            step_trigger=step_trigger,
            video_length=video_length,
            name_prefix=name_prefix,
            fps=fps,
            disable_logger=disable_logger,
            gc_trigger=gc_trigger,
            agent_hash=agent_hash,
        )
        super().__init__(env)
        # The list mode is left out too: it keeps every frame in memory.
        if env.render_mode != "rgb_array":
            raise ValueError(
                f"Render mode is {env.render_mode}, which is incompatible with Recorder. "
                "Initialize your environment with a render_mode that returns an image: rgb_array."
            )
        check_name(name_prefix)
        check_name(f"{name_prefix}-episode-{10**9}")
        find_ffmpeg()
        self.video_folder = os.path.abspath(video_folder)
        try:
            os.makedirs(self.video_folder, exist_ok=True)
            tempfile.TemporaryFile(dir=self.video_folder).close()
        except OSError as error:
            raise RecordingError(f"cannot write into {self.video_folder}: {error}") from error
        if episode_trigger is None and step_trigger is None:
            episode_trigger = _cubes
        self.episode_trigger = episode_trigger
        self.step_trigger = step_trigger
        self.video_length = video_length or float("inf")
        self.name_prefix = name_prefix
        self.frames_per_sec: float = self.metadata.get("render_fps", 30) if fps is None else fps
        self.agent_hash = agent_hash
        self.episode_id = -1
        self.step_id = -1
        self._elapsed = 0
        self._film: Mp4Writer | None = None

    @property
    def recording(self) -> bool:
        """Whether a film is being made."""
        return self._film is not None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, end the film of the last episode and begin one if it is time."""
        if self.recording and self.video_length == float("inf"):
            self.stop_recording()
        with self._rescue():
            observation, info = self.env.reset(seed=seed, options=options)
            self.episode_id += 1
            self._elapsed = 0
            if self.episode_trigger and self.episode_trigger(self.episode_id):
                self.start_recording(f"{self.name_prefix}-episode-{self.episode_id}")
            self._shoot(seed, options)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment and film the result if recording."""
        with self._rescue():
            observation, reward, terminated, truncated, info = self.env.step(action)
            self.step_id += 1
            self._elapsed += 1
            if self.step_trigger and self.step_trigger(self.step_id):
                self.start_recording(f"{self.name_prefix}-step-{self.step_id}")
            self._shoot(step=(action, float(reward), bool(terminated), bool(truncated)))
        return observation, reward, terminated, truncated, info

    def start_recording(self, video_name: str) -> None:
        """Begin the film ``<video_name>.mp4``, ending the one that is being made."""
        check_name(video_name)
        if self.recording:
            self.stop_recording()
        spec = self.env.spec
        card = {
            "env_id": spec and spec.id,
            "kwargs": spec and _plain(spec.kwargs),
            "max_episode_steps": spec and spec.max_episode_steps,
            "agent_hash": self.agent_hash,
            "versions": _versions(),
            "date": datetime.now(timezone.utc).date().isoformat(),
        }
        film = Mp4Writer(Path(self.video_folder, f"{video_name}.mp4"), self.frames_per_sec, card)
        self._film = film
        # Runs also at the end of the program, after an uncaught Ctrl-C.
        self._at_exit = weakref.finalize(self, film.close)

    def stop_recording(self) -> None:
        """End the film and publish it."""
        if self._film is None:
            raise RecordingError("stop_recording() without a film: call start_recording() first")
        try:
            self._film.close()
        finally:
            if self._film.closed:
                self._film = None
                self._at_exit.detach()

    def close(self) -> None:
        """End the film, if there is one, and close the environment."""
        try:
            if self.recording:
                self.stop_recording()
        finally:
            super().close()

    @contextlib.contextmanager
    def _rescue(self) -> Iterator[None]:
        """Save the film when the environment, the agent's action or Ctrl-C breaks off a call."""
        try:
            yield
        except BaseException:
            if self.recording:
                try:
                    self.stop_recording()
                except RecordingError as error:
                    gym.logger.warn(str(error))
            raise

    def _shoot(
        self,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
        step: tuple[Any, float, bool, bool] | None = None,
    ) -> None:
        """Take the frame after a reset or ``step`` and note in the card what led to it."""
        film = self._film
        if film is None:
            return
        film.append(self.env.render())
        card: dict[str, Any] = film.card  # type: ignore[assignment]
        action, reward, terminated, truncated = step or (None, 0.0, False, False)
        if film.frames > 1 and step:
            card["actions"].append(_plain(action))
            card["length"] += 1
            card["return"] += reward
        else:
            state = getattr(self.unwrapped, "state", None)
            state = state() if callable(state) else None
            start = {
                "seed": seed,
                "options": _plain(options),
                "start_state": _plain(state) if isinstance(state, dict) else None,
            }
            if film.frames > 1:
                card["resets"].append({"before_action": card["length"], **start})
            else:
                # A film begun by a step shows the episode from the state after that step.
                card |= {**start, "elapsed_steps": self._elapsed, "resets": [], "actions": []}
                card |= {"length": 0, "return": 0.0}
        full = film.frames > self.video_length
        whole = terminated or truncated if self.video_length == float("inf") else full
        card |= {"terminated": terminated, "truncated": truncated, "complete": whole}
        if full:
            self.stop_recording()


def _cubes(episode: int) -> bool:
    # Gymnasium's own copy sits in a module that cannot be imported without moviepy.
    return episode % 1000 == 0 if episode >= 1000 else round(episode ** (1 / 3)) ** 3 == episode


def _plain(value: Any) -> Any:
    """Return a copy made of what JSON knows; NumPy values become lists and numbers."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float)) else repr(value)


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("bullet_envs", "gymnasium", "pybullet", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions
