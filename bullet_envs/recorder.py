"""Videos of an environment's episodes, each with a JSON that repeats it without the agent.

``Recorder`` has the arguments and file names of Gymnasium's ``RecordVideo``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import gymnasium as gym

from . import snapshots
from .frames import DrawingProcesses
from .mp4 import Mp4Writer, RecordingError, check_name, find_ffmpeg, make_folder, to_json
from .overlay import overlay_of
from .versions import versions

__all__ = ["Recorder", "RecordingError"]

HELD = 0.5  # s that the frame of a failure stays


class Recorder(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Record videos of episodes: one frame after reset and one after each step.

    Takes the place of ``gymnasium.wrappers.RecordVideo``: the same arguments, triggers and file
    names ``<prefix>-episode-<n>.mp4`` and ``<prefix>-step-<n>.mp4``. Each video has a JSON of the
    same name that repeats it without the agent (``bullet-envs replay``): reset with ``seed``, or
    restore the ``snapshot`` of an episode that was not seeded, then take the ``actions``;
    ``resets`` says before which action a video of fixed length resets again.
    An exception, Ctrl-C, `close`, `reset` or the end of the program ends and saves the video, with
    ``complete`` false if it is shorter than planned.

    A video that begins within an episode repeats from ``start_state``, the state of its first
    frame. There the recorder calls ``env.unwrapped.resynchronize()``, if the environment has that
    method: the engine is set to ``start_state`` anew, so that what follows depends on it alone.
    For engines with hidden state (contacts) the rest of that episode therefore differs slightly
    from one that is not recorded.

    Args:
        env: environment with ``render_mode="rgb_array"``.
        video_folder: made if missing; videos of the same name are replaced. If several recorders
            have the same folder and prefix, the last to close a video wins.
        episode_trigger: says whether to record the n-th episode. Without any trigger: the episodes
            0, 1, 8, 27, ... 729, 1000, 2000, ...
        step_trigger: says whether to begin a video after the n-th step of all.
        video_length: steps in a video, across episodes; 0 records to the end of the episode.
        name_prefix: begins each file name.
        fps: frames per second; None takes ``metadata["render_fps"]``, or 30.
        disable_logger: without effect; moviepy, whose logger it would silence, is not used.
        gc_trigger: without effect; no frames are kept.
        agent_hash: identifies the weights of the agent, for the JSON.
        overlay: write into the frames which id is shown, time, return, commands and perturbations,
            mark what ends the episode, and hold that frame for half a second.
        agent: who acts, for the overlay.
        drawing_processes: draw frames of this package's environments in so many other processes;
            0 draws them here.
        width: of frames of this package's environments, in pixels; None for that of the task's
            camera. A half takes a quarter of the time.

    Raises:
        ValueError: the render mode or the prefix is not legal.
        RecordingError: no working ffmpeg, or a folder that cannot be written. Later, from `reset`,
            `step`, `close` and `stop_recording`: the video failed and its files are removed.
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
        overlay: bool = False,
        agent: str = "",
        drawing_processes: int = 0,
        width: int | None = None,
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
            overlay=overlay,
            agent=agent,
            drawing_processes=drawing_processes,
            width=width,
        )
        super().__init__(env)
        # rgb_array_list is refused too: it keeps every frame in memory.
        if env.render_mode != "rgb_array":
            raise ValueError(
                f"Render mode is {env.render_mode}, which is incompatible with Recorder. "
                "Initialize your environment with a render_mode that returns an image: rgb_array."
            )
        check_name(name_prefix)
        check_name(f"{name_prefix}-episode-{10**9}")
        find_ffmpeg()
        self.video_folder = os.path.abspath(video_folder)
        make_folder(self.video_folder)
        if episode_trigger is None and step_trigger is None:
            episode_trigger = _capped_cubic_schedule
        self.episode_trigger = episode_trigger
        self.step_trigger = step_trigger
        self.video_length = video_length or float("inf")
        self.name_prefix = name_prefix
        self.frames_per_sec: float = self.metadata.get("render_fps", 30) if fps is None else fps
        self.agent_hash = agent_hash
        self.overlay = overlay
        self.agent = agent
        self._drawing: DrawingProcesses | None = None
        self._width = width
        if (drawing_processes or width) and hasattr(self.unwrapped, "picture"):
            self._drawing = DrawingProcesses(drawing_processes)
        self.episode_id = -1
        self.step_id = -1
        self._elapsed = 0
        self._return = 0.0
        self._parameters: Mapping[str, float] = {}
        self._writer: Mp4Writer | None = None
        self._frames = 0  # of the present video, those that are still drawn included

    @property
    def recording(self) -> bool:
        """Whether a video is being recorded."""
        return self._writer is not None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, end the last episode's video and begin one if triggered."""
        if self.recording and self.video_length == float("inf"):
            self.stop_recording()
        with self._save_on_error():
            observation, info = self.env.reset(seed=seed, options=options)
            self.episode_id += 1
            self._elapsed, self._return = 0, 0.0
            self._parameters = info.get("parameters", {})
            if self.episode_trigger and self.episode_trigger(self.episode_id):
                self.start_recording(f"{self.name_prefix}-episode-{self.episode_id}")
            self._capture_frame(seed, options)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment; take a frame if recording."""
        with self._save_on_error():
            observation, reward, terminated, truncated, info = self.env.step(action)
            self.step_id += 1
            self._elapsed += 1
            self._return += float(reward)
            if self.step_trigger and self.step_trigger(self.step_id):
                self.start_recording(f"{self.name_prefix}-step-{self.step_id}")
            self._capture_frame(step=(action, float(reward), bool(terminated), bool(truncated)))
        return observation, reward, terminated, truncated, info

    def start_recording(self, video_name: str) -> None:
        """Begin the video ``<video_name>.mp4`` with the next step; end a running one.

        A video of fixed length may also begin with the next reset. With ``video_length=0`` a reset
        ends each video: one that has no frame yet raises RecordingError.
        """
        check_name(video_name)
        if self.recording:
            self.stop_recording()
        spec = self.env.spec
        card = {
            "env_id": spec and spec.id,
            "kwargs": spec and to_json(spec.kwargs),
            "max_episode_steps": spec and spec.max_episode_steps,
            "agent_hash": self.agent_hash,
            "versions": versions(("bullet_envs", "gymnasium", "pybullet", "numpy")),
            "date": datetime.now(timezone.utc).date().isoformat(),
        }
        path = Path(self.video_folder, f"{video_name}.mp4")
        writer = Mp4Writer(path, self.frames_per_sec, card)
        self._writer, self._frames = writer, 0
        # Runs also at the end of the program, after an uncaught Ctrl-C.
        self._at_exit = weakref.finalize(self, _finish, writer, self._drawing)

    def stop_recording(self) -> None:
        """End the video and give it its name."""
        if self._writer is None:
            raise RecordingError("stop_recording() without a video: call start_recording() first")
        try:
            _finish(self._writer, self._drawing)
        finally:
            if self._writer.closed:
                self._writer = None
                self._at_exit.detach()

    def close(self) -> None:
        """End the video, if there is one, and close the environment."""
        try:
            if self.recording:
                self.stop_recording()
        finally:
            if self._drawing is not None:
                self._drawing.close()
            super().close()

    @contextlib.contextmanager
    def _save_on_error(self) -> Iterator[None]:
        """Save the video if an exception or Ctrl-C leaves the call."""
        try:
            yield
        except BaseException:
            if self.recording:
                try:
                    self.stop_recording()
                except RecordingError as error:
                    gym.logger.warn(str(error))
            raise

    def _capture_frame(
        self,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
        step: tuple[Any, float, bool, bool] | None = None,
    ) -> None:
        """Append the frame after a reset or ``step`` and add to the card what repeats it."""
        writer = self._writer
        if writer is None:
            return
        first = self._frames == 0
        state = None
        if first or not step:
            state = getattr(self.unwrapped, "state", None)
            state = state() if callable(state) else None
        taken = None
        if state is not None and hasattr(self.unwrapped, "snapshot") and (step or seed is None):
            # After state() was read: it sets the engine to the very numbers that the card holds.
            taken = snapshots.snapshot(self.env)
        elif first and step:
            resynchronize = getattr(self.unwrapped, "resynchronize", None)
            if callable(resynchronize):
                resynchronize()
        card: dict[str, Any] = writer.card  # type: ignore[assignment]
        action, reward, terminated, truncated = step or (None, 0.0, False, False)
        self._append(writer, action, terminated)
        if step and not first:
            card["actions"].append(to_json(action))
            card["length"] += 1
            card["return"] += reward
        else:
            start = {
                "seed": seed,
                "options": to_json(options),
                "parameters": to_json(dict(self._parameters)),
                "start_state": to_json(state) if isinstance(state, dict) else None,
                "snapshot": taken,
            }
            if first:
                # The action that led to the first frame of a video begun by a step is left out.
                card |= {**start, "elapsed_steps": self._elapsed, "resets": [], "actions": []}
                card |= {"length": 0, "return": 0.0}
            else:
                card["resets"].append({"before_action": card["length"], **start})
        full = self._frames > self.video_length
        complete = terminated or truncated if self.video_length == float("inf") else full
        card |= {"terminated": terminated, "truncated": truncated, "complete": complete}
        if full:
            self.stop_recording()

    def _append(self, writer: Mp4Writer, action: Any, terminated: bool) -> None:
        """Append the present frame, and hold it if the overlay marks the end of the episode."""
        overlay, times = None, 1
        if self.overlay:
            facts = (self._elapsed, self._return, action, terminated, self._parameters)
            overlay = overlay_of(self.env, self.agent, *facts)
            if terminated:
                held = round(self.frames_per_sec * HELD)
                times += held
                writer.card["held_frames"] = held  # type: ignore[index]
        self._frames += 1
        if self._drawing is None:
            frame: Any = self.env.render()
            frame = frame if overlay is None else overlay.drawn_into(frame)
            frames: Iterable[Any] = [frame] * times
        else:
            bare: Any = self.unwrapped
            picture = dataclasses.replace(bare.picture(), width=self._width)
            frames = self._drawing.add(picture, overlay, times)
        for frame in frames:
            writer.append(frame)


def _finish(writer: Mp4Writer, drawing: DrawingProcesses | None) -> None:
    """Append the frames that are still drawn, and close a video."""
    if drawing is not None:
        for frame in drawing.rest():
            if writer.takes_more:
                writer.append(frame)
    writer.close()


def _capped_cubic_schedule(episode: int) -> bool:
    # Copied, because Gymnasium's module cannot be imported without moviepy.
    return episode % 1000 == 0 if episode >= 1000 else round(episode ** (1 / 3)) ** 3 == episode
