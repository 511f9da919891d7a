"""``python -m distill3d.train_prior --out DIR``: train the bundled prior with its recipe."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ..errors import Distill3DError
from .train import train


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m distill3d.train_prior", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the prior in diffusers layout")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--snapshot", type=Path, help="folder for usable intermediate priors")
    parser.add_argument("--fresh", action="store_true", help="ignore checkpoints of an earlier run")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        train(
            arguments.out,
            seed=arguments.seed,
            device=arguments.device,
            resume=not arguments.fresh,
            snapshot=arguments.snapshot,
        )
    except Distill3DError as error:
        logging.getLogger(__name__).error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
