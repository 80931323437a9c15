"""MP4 videos, encoded frame by frame by an ffmpeg subprocess.

A video appears under its name only after it is complete and has been decoded once as a check.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import tempfile
import weakref
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np

# imageio_ffmpeg is used only to find the executable. Its write_frames (and imageio's writer, which
# uses it) kills ffmpeg if Ctrl-C arrives during a write, ignores the exit status and lets ffmpeg
# write to the terminal. A terminal sends Ctrl-C to the whole process group: ffmpeg has its own.
_ISOLATED: dict[str, Any] = {
    "start_new_session": True,
    "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
}
_QUIET = ["-hide_banner", "-loglevel", "error"]


class RecordingError(RuntimeError):
    """A video could not be made; its files are removed, and the environment can still be used."""


def check_name(name: str) -> None:
    """Raise ValueError unless a file name (without suffix) is legal on every file system."""
    if not re.fullmatch(r"(?!\.)[A-Za-z0-9._-]{1,100}", name):
        raise ValueError(
            f"video name {name!r} must be 1 to 100 of A-Z a-z 0-9 . _ - and not begin with a dot"
        )


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder for videos, if it is missing.

    Raises:
        RecordingError: it cannot be made or written into.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RecordingError(f"cannot write into {folder}: {error}") from error


def find_ffmpeg() -> str:
    """Return the path of an ffmpeg that can encode H.264.

    Raises:
        RecordingError: there is none, or it failed to encode a test frame.
    """
    try:
        import imageio_ffmpeg

        executable = str(imageio_ffmpeg.get_ffmpeg_exe())
        _encode_test_frame(executable)
    except (ImportError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        stderr = getattr(error, "stderr", None)
        raise RecordingError(
            "no ffmpeg with H.264 (libx264) can be run: pip install 'imageio[ffmpeg]', or set "
            f"IMAGEIO_FFMPEG_EXE to one. {stderr.decode(errors='replace') if stderr else error}"
        ) from error
    return executable


@lru_cache
def _encode_test_frame(executable: str) -> None:
    command = _encode_command(executable, 2, 2, Fraction(1), ["-f", "null", "-"])
    subprocess.run(command, input=bytes(12), capture_output=True, check=True, **_ISOLATED)


def _encode_command(
    executable: str, width: int, height: int, rate: Fraction, out: list[str]
) -> list[str]:
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate)]
    h264 = ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20"]
    h264 += ["-preset", "veryfast"]  # a third of the time, files no larger
    return [executable, "-y", *_QUIET, *raw, "-i", "-", *h264, *out]


def _unique() -> str:
    return f"{os.getpid()}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, where the platform and the file system offer one."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            stack.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)
        yield


class Mp4Writer:
    """Writes one MP4 video frame by frame, in constant memory.

    Frames are encoded into a temporary file ``<name>.<pid>-<random>.part.mp4`` of this writer
    alone. `close` gives it its name, replacing an older video and its JSON. If several writers have
    the same path, the last to close wins. After an error the temporary files are removed; those
    of a killed process stay. Use ``contextlib.closing(Mp4Writer(...))`` to close it in any case.

    Args:
        path: the video, ``<name>.mp4``, in an existing folder.
        fps: frames per second.
        card: facts for ``<name>.json``, read when the video is closed; None writes no JSON.

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
        part = f"{self.path.stem}.{_unique()}.part"
        self._part = self.path.with_name(f"{part}.mp4")
        self._card_part = self.path.with_name(f"{part}.json")
        self._shape: tuple[int, ...] = ()
        # States left behind by an interrupt: inside append, inside close, while replacing files.
        self._appending = self._closing = self._publishing = False
        self._process: subprocess.Popen[bytes] | None = None
        _live.add(self)

    def append(self, frame: object) -> None:
        """Encode one more frame.

        Args:
            frame: array (height, width, 3) of uint8. An odd side is made even by repeating the last
                row or column of pixels; frames are never rescaled.

        Raises:
            RecordingError: the frame is of another kind or size, or ffmpeg failed (disk full).
        """
        if not self.takes_more:
            raise RecordingError(f"video {self.path} takes no more frames")
        # Bullet built without NumPy returns tuples, and ffmpeg would take the bytes of floats.
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
        # yuv420p stores one colour for each 2 x 2 pixels, so both sides must be even.
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        rest = np.ascontiguousarray(even).data.cast("B")
        try:
            if self._process is None:
                self._start(even.shape[1], even.shape[0])
            # Stays set if Ctrl-C interrupts the write.
            self._appending = True
            while rest:
                rest = rest[self._pipe.write(rest) :]
        except OSError as error:
            raise self._failure(str(error)) from error
        self.frames += 1
        self._appending = False

    @property
    def takes_more(self) -> bool:
        """Whether there may be another frame: not after the end, nor after Ctrl-C in a write."""
        return not (self.closed or self._appending or self._closing)

    def close(self) -> None:
        """Finish, check and publish the video; does nothing if it is closed already.

        After an interrupt, closing again (or the end of the program) continues.

        Raises:
            RecordingError: there is no frame, or the video could not be written completely.
        """
        if self.closed:
            return
        if self._process is None or self.frames == 0:
            raise self._failure("there is no frame in it")
        self._closing = True
        self._pipe.close()
        try:
            if self._process.wait() != 0:
                raise self._failure("ffmpeg failed")
            resumed = self._publishing
            if not resumed:
                self._check()
                self._write_card()
            self._publishing = True
            self._publish(resumed)
        except OSError as error:
            raise self._failure(str(error)) from error
        self.closed = True
        self._log.close()

    def abort(self) -> None:
        """Stop encoding and remove the temporary files."""
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
        # A file, because a pipe that nobody reads would fill up and block ffmpeg.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        out = ["-movflags", "+faststart", str(self._part)]
        self._process = subprocess.Popen(
            _encode_command(self._executable, width, height, self._rate, out),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            **_ISOLATED,
        )
        self._pipe: IO[bytes] = self._process.stdin  # type: ignore[assignment]

    def _check(self) -> None:
        """Compare the number and size of the encoded frames with what was appended."""
        height, width = (side + side % 2 for side in self._shape[:2])
        found = self._count(width, height)
        # ffmpeg drops an incomplete last frame. If the interrupt came just after the last byte of a
        # frame, that frame is there but not counted yet.
        if not self.frames <= found <= self.frames + self._appending:
            raise self._failure(f"{found} frames of {width}x{height} instead of {self.frames}")
        self.frames = found

    def _count(self, width: int, height: int) -> int:
        """Decode the video and return its number of frames, 0 if they are of another size."""
        decode = [self._executable, *_QUIET, "-i", str(self._part), "-f", "framecrc", "-"]
        lines = subprocess.run(
            decode,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            **_ISOLATED,
        ).stdout.splitlines()
        frames = sum(not line.startswith("#") for line in lines)
        return frames if f"#dimensions 0: {width}x{height}" in lines else 0

    def _write_card(self) -> None:
        if self.card is None:
            return
        height, width = (side + side % 2 for side in self._shape[:2])
        size = {"frames": self.frames, "width": width, "height": height}
        card = to_json({**self.card, "fps": float(self._rate), **size})
        lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in card.items()]
        self._card_part.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    def _publish(self, resumed: bool) -> None:
        """Give both files their names, under a lock: two writers' files must not be mixed."""
        targets = {self._part: self.path}
        if self.card is not None:
            targets[self._card_part] = self.path.with_suffix(".json")
        with _locked(self.path.parent):
            # Such a target would fail after the other file has been replaced.
            for target in targets.values():
                if target.is_dir():
                    raise IsADirectoryError(f"{target} is a folder")
            for part, target in targets.items():
                # An interrupted close may have replaced one of them.
                if part.exists() or not resumed:
                    os.replace(part, target)

    def _failure(self, why: str) -> RecordingError:
        stderr = ""
        if self._process is not None:
            # At the end of its input ffmpeg exits by itself, after it has written its error.
            self._pipe.close()
            self._process.wait()
            self._log.seek(0)
            stderr = self._log.read(500).decode(errors="replace").strip()
        self.abort()
        ffmpeg = f"; ffmpeg: {stderr}" if stderr else ""
        return RecordingError(f"video {self.path} was not made: {why}{ffmpeg}")

    def _release_in_child(self) -> None:
        """Close the inherited pipe in a forked process; the parent goes on with the video."""
        if not self.closed and self._process is not None:
            self._pipe.close()
        self.closed = True


def to_json(value: Any) -> Any:
    """Return a copy made of JSON types; NumPy values become lists and numbers."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float)) else repr(value)


# A forked process inherits the pipe: while it is open there, ffmpeg would wait for more frames.
_live: weakref.WeakSet[Mp4Writer] = weakref.WeakSet()


def _release_all_in_child() -> None:
    for writer in _live:
        writer._release_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_all_in_child)
