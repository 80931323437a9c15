"""``bullet-envs doctor`` and what it rests on: which PyBullet there is."""

import sys

import numpy as np
import pytest

from bullet_envs import cli, doctor, versions
from bullet_envs.engine import silence
from bullet_envs.engine.world import World


def test_report(capsys):
    """Ten lines, a thing each."""
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    report, is_well = doctor.examine()
    assert is_well
    assert [line.split("  ")[0] for line in lines] == list(report)
    assert f"{versions.pybullet_name()} {versions.installed(versions.pybullet_name())}" in lines[3]
    assert "workers=" in report["cores"] and "tiny" in report["renderer"]


def test_what_is_missing(monkeypatch):
    """Each line says what to do."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    monkeypatch.setattr(doctor, "installed", lambda name: None)
    report, is_well = doctor.examine()
    assert is_well
    assert "'rgb_array' and videos work" in report["display"] or sys.platform != "linux"
    assert "pip install 'bullet-envs[agents]'" in report["agents"]
    assert "ffmpeg" in report["ffmpeg"]


def test_two_pybullets_are_refused(monkeypatch, capsys):
    """They overwrite each other's files, so one sentence says how to get rid of them."""
    monkeypatch.setattr(versions, "installed", lambda name: "3.2.8")
    with pytest.raises(
        ImportError, match=r"pybullet and pybullet-arm64 are both installed .*: pip"
    ):
        versions.pybullet_name()
    monkeypatch.setattr(doctor, "pybullet_name", versions.pybullet_name)
    assert cli.main(["doctor"]) == 1
    assert "pip uninstall -y pybullet pybullet-arm64" in capsys.readouterr().out


def test_images_from_a_pybullet_without_numpy(monkeypatch):
    """It returns a tuple of numbers, of which the same image is made."""
    camera = (24, 16, [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, -2, 1], [1.0] * 16, (0, 0, 1))
    world = World(100, 50)
    numbers = np.random.default_rng(0).integers(0, 256, 24 * 16 * 4)
    images = []
    for rgba in (tuple(numbers.tolist()), numbers.astype(np.uint8)):
        answer = (24, 16, rgba, None, None)
        monkeypatch.setattr(silence.p, "getCameraImage", lambda *a, _answer=answer, **k: _answer)
        images.append(world.draw(*camera, False))
    assert images[0].dtype == np.uint8 and images[0].shape == (16, 24, 3)
    assert np.array_equal(images[0], numbers.reshape(16, 24, 4)[..., :3])
    assert np.array_equal(*images)
    world.close()
