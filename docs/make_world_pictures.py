"""The picture of the full world in docs/world.md:  python docs/make_world_pictures.py"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from distill3d.render.cameras import orbit
from distill3d.render.pictures import write_png
from distill3d.world import CATALOGUE, COLOURS, FULL_SHAPES, PATTERNS, Object, trace

SIZE, LABEL = 64, 84
VIEWS = tuple(45.0 * i for i in range(8))


def row(things: list[Object], azimuth: tuple[float, ...], elevation: tuple[float, ...]) -> Image.Image:
    """Views side by side behind the word of the first object."""
    rgb, _ = trace(things, orbit(azimuth, elevation), SIZE, background=0.8)
    strip = (rgb.permute(2, 0, 3, 1).reshape(SIZE, -1, 3) * 255).round().to(torch.uint8)
    out = Image.new("RGB", (LABEL + strip.shape[1], SIZE), "white")
    out.paste(Image.fromarray(strip.numpy()), (LABEL, 0))
    ImageDraw.Draw(out).text((6, SIZE // 2 - 7), things[0].shape, fill="black", font=ImageFont.load_default(12))
    return out


def main() -> None:
    colours = list(COLOURS)
    rows = []
    for i, word in enumerate(CATALOGUE):
        plain = [Object(word, colours[i % 8])] * len(VIEWS)
        elevation = (15.0, 35.0) * (len(VIEWS) // 2)
        patterns = list(PATTERNS)[1:] if word in FULL_SHAPES else []
        painted = [Object(word, colours[(i + 3 + k) % 8], pattern=p) for k, p in enumerate(patterns)]
        rows.append(row(plain + painted, VIEWS + (30.0,) * len(painted), elevation + (35.0,) * len(painted)))
    sheet = Image.new("RGB", (max(r.width for r in rows), SIZE * len(rows)), "white")
    for i, picture in enumerate(rows):
        sheet.paste(picture, (0, SIZE * i))
    write_png(Path(__file__).with_name("world.png"), sheet)


if __name__ == "__main__":
    main()
