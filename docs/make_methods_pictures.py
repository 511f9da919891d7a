"""The pictures of docs/methods.md:  python docs/make_methods_pictures.py [--iterations 120] [--keep DIR]

``distill3d distill2d`` runs on the bundled prior and on the toy, and the schedules' own drawings. Takes some
minutes on one core. The figures of that page are in both runs' ``report.json``: ``--keep`` leaves the runs there.
``--quality DIR``, a folder of ``distill3d bench quality``, makes a picture of its objects instead: ``--picture`` says
where to, ``--seed`` of which seed, ``--wide`` how many prompts stand side by side.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from distill3d.cli import main
from distill3d.methods.perp_neg import PerpNegSettings, blend
from distill3d.plots import chart, stack
from distill3d.priors.freeu import dynamic
from distill3d.render.pictures import write_png
from distill3d.schedules import DYNAMIC_GUIDANCE, WINDOWS

DOCS = Path(__file__).parent
OPENINGS = {
    "tbsd": [],
    "tbsd-sds-0.3": ["--tbsd.opening", "sds", "--tbsd.start", "0.3"],
    "tbsd-sds-0.6": ["--tbsd.opening", "sds", "--tbsd.start", "0.6"],
}
"""Runs of TBSD below each other, and their flags."""


def schedules() -> None:
    """Dynamic CFG, dynamic FreeU, ASD's window, and Perp-Neg's weights over the azimuth."""
    settings = PerpNegSettings()
    weights: dict[str, list[tuple[float, float]]] = {"front": [], "side": []}
    for azimuth in range(181):
        for name, weight in blend(azimuth, settings).avoid:
            weights[name].append((float(azimuth), weight))
    images = [
        DYNAMIC_GUIDANCE["stable-diffusion"].plot("dynamic CFG (direction and end points ours)", y="guidance scale s"),
        dynamic(1.4, 1.6).plot("dynamic FreeU (direction and end points ours)"),
        WINDOWS["sliding"].plot("ASD's sliding window"),
        chart(weights, title="Perp-Neg: weight of the views to avoid", x="azimuth, degrees", size=(480, 240)),
    ]
    write_png(DOCS / "schedules.png", stack(images))


def runs(iterations: str, keep: Path | None) -> None:
    """The methods on the toy and on the bundled prior, and TBSD's openings."""
    with tempfile.TemporaryDirectory() as folder:
        out = keep or Path(folder)
        toy = ["distill2d", "--prior", "mixture", "--out", str(out / "toy")]
        picture = ["distill2d", "a red cube", "--batch", "1", "--iterations", iterations, "--out"]
        for arguments in (toy, [*picture, str(out / "all")]):
            if main(arguments):
                raise SystemExit(1)
        sheets = []
        for name, flags in OPENINGS.items():
            if main([*picture, str(out / name), "--methods", "tbsd", *flags]):
                raise SystemExit(1)
            with Image.open(out / name / "sheet.png") as sheet:
                sheets.append(sheet.convert("RGB"))
        write_png(DOCS / "methods-tbsd-openings.png", stack(sheets))
        for source, target in (("toy", "toy"), ("all", "2d")):
            for kind in ("sheet", "curves"):
                (DOCS / f"methods-{target}-{kind}.png").write_bytes((out / source / f"{kind}.png").read_bytes())


def objects(folder: Path, seed: int, wide: int, picture: Path) -> None:
    """A row a method, a column a prompt, ``wide`` prompts side by side and the others below: each result of one seed,
    from its side; a red line below what failed."""
    results = [
        r for r in json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"] if r["seed"] == seed
    ]
    methods, prompts = (list(dict.fromkeys(r[key] for r in results)) for key in ("method", "prompt"))
    side, left, gap = 96, 70, 10
    high = (side + 6) * len(methods) + gap
    size = (left + side * min(wide, len(prompts)), high * -(-len(prompts) // wide) - gap)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for result in results:
        band, column = divmod(prompts.index(result["prompt"]), wide)
        x, y = left + side * column, high * band + (side + 6) * methods.index(result["method"])
        job = f"{result['method']}-{'-'.join(result['prompt'].split())}-{seed}-{result['run_key'][:8]}"
        preview = folder / "jobs" / job / "preview.png"
        if preview.is_file():
            with Image.open(preview) as views:
                sheet.paste(views.convert("RGB").crop((side, 0, 2 * side, side)), (x, y))
        draw.text((4, y + side // 2 - 8), result["method"].upper(), fill="black", font=font)
        if not result.get("passed"):
            draw.line([(x + 8, y + side), (x + side - 8, y + side)], fill="#c00000", width=2)
    write_png(picture, sheet)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", default="120")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--quality", type=Path)
    parser.add_argument("--picture", type=Path, default=DOCS / "methods-3d.png")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wide", type=int, default=12)
    flags = parser.parse_args()
    if flags.quality:
        objects(flags.quality, flags.seed, flags.wide, flags.picture)
    else:
        schedules()
        runs(flags.iterations, flags.keep)
