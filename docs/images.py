"""Draws what the pixel ids show, enlarged above and at true size below: ``make videos``."""

from pathlib import Path

import gymnasium as gym
from PIL import Image, ImageDraw, ImageFont

import bullet_envs  # noqa: F401  (registers the ids)

STATES: dict[str, list[dict[str, float]]] = {
    "BulletCartPolePixels-v0": [
        {"x": 0.0, "theta": 0.0},
        {"x": 0.0, "theta": 0.02},
        {"x": 0.8, "theta": 0.15},
        {"x": -2.2, "theta": -0.1},
    ],
    "BalancingPlatePixels-v0": [
        {"pitch": 0.0, "roll": 0.0},
        {"pitch": 0.02, "roll": 0.0},
        {"pitch": -0.25, "roll": 0.0},
        {"pitch": 0.0, "roll": 0.15},
    ],
}
ENLARGED, MARGIN, LABEL = 5, 12, 26


def main() -> None:
    """Write a PNG per pixel id beside this file."""
    font = ImageFont.load_default(size=15)
    for env_id, states in STATES.items():
        with gym.make(env_id) as env:
            images = [Image.fromarray(env.reset(options={"state": state})[0]) for state in states]
        size = images[0].width
        step = ENLARGED * size + MARGIN
        sheet = Image.new(
            "RGB", (MARGIN + step * len(states), LABEL + step + size + MARGIN), (232, 234, 238)
        )
        draw = ImageDraw.Draw(sheet)
        for column, (image, state) in enumerate(zip(images, states, strict=True)):
            left = MARGIN + column * step
            units = {"x": "m"}
            text = ", ".join(f"{k} {v:g} {units.get(k, 'rad')}" for k, v in state.items())
            draw.text((left, 5), text, (30, 32, 38), font)
            large = image.resize((ENLARGED * size,) * 2, Image.Resampling.NEAREST)
            sheet.paste(large, (left, LABEL))
            sheet.paste(image, (left, LABEL + step))
        sheet.save(Path(__file__).with_name(f"{env_id}.png"), optimize=True)


if __name__ == "__main__":
    main()
