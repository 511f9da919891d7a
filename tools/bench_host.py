"""Times a real ComfyUI: the quick-draft template from Run to mesh, and steps per second of node against command line.

``python tools/bench_host.py /path/to/ComfyUI [--rounds 2] [--cli PYTHON] [--json FILE]``, with a Python that can run
ComfyUI. ``--cli`` names one with ``distill3d[cli]`` when that is another. Node and command line take turns on the same
settings, prompt and seed, so that whatever else the machine does falls on both. The command line's seconds are those of
its loop alone, without its progress line; the node's are wall clock between its steps, previews and chart included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "host"))

from client import Server  # noqa: E402
from graphs import to_prompt  # noqa: E402

PROMPT, SEED = "a red cube", 0


def quick_draft(iterations: int = 0, seed: int = SEED) -> dict[str, Any]:
    """The template as it is saved; with ``iterations`` its preset becomes custom on the same draft."""
    saved = json.loads((ROOT / "workflows" / "quick-draft.json").read_text(encoding="utf-8"))
    prompt = to_prompt(saved)
    for item in prompt.values():
        if item["class_type"] == "Distill3D_NeRFOptimizer":
            item["inputs"]["seed"] = seed
            if iterations:
                values = {"base": "draft", "iterations": iterations, "batch": 2, "resolution": "auto", "more": ""}
                values |= {"image_size": 0, "checkpoint_every": 1000}
                item["inputs"] |= {"preset": "custom"} | {f"preset.{name}": value for name, value in values.items()}
    return prompt


def node_rate(server: Server, iterations: int, seed: int) -> float:
    """Steps per second between the first and the last step the page was told of."""
    seen = server.run(quick_draft(iterations, seed))
    if seen.end != "execution_success":
        raise RuntimeError(f"the run ended with {seen.end}: {seen.of('execution_error')}")
    told = [(at, data["iteration"]) for at, kind, data in seen.events if kind == "distill3d.step"]
    (first, begin), (last, end) = told[0], told[-1]
    return float((end - begin) / (last - first))


def cli_rate(python: str, iterations: int, seed: int) -> float:
    """Steps per second by the run's own report."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [python, "-m", "distill3d", "generate", PROMPT, "--seed", str(seed), "--out", str(out)]
        command += ["--iterations", str(iterations), "--turntable-frames", "2", "--texture.size", "0"]
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True)
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return float(report["iterations"]["done"] / sum(report["seconds"].values()))


def measure(comfy: Path, python: str, rounds: int, iterations: int) -> dict[str, Any]:
    """Everything this script says, as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(comfy, Path(folder))
        try:
            began = time.monotonic()
            seen = server.run(quick_draft())
            seconds = time.monotonic() - began
            if seen.end != "execution_success":
                raise RuntimeError(f"the template ended with {seen.end}: {seen.of('execution_error')}")
            pairs = [
                (node_rate(server, iterations, seed), cli_rate(python, iterations, seed))
                for seed in range(SEED + 1, SEED + 1 + rounds)
            ]
        finally:
            server.stop()
    shares = [node / cli for node, cli in pairs]
    return {
        "quick_draft_seconds_from_run_to_mesh": round(seconds, 1),
        "steps": iterations,
        "node_steps_per_second": [round(node, 2) for node, _ in pairs],
        "cli_steps_per_second": [round(cli, 2) for _, cli in pairs],
        "node_share_of_cli": [round(share, 3) for share in shares],
        "mean_share": round(sum(shares) / len(shares), 3),
        "threads": os.environ.get("OMP_NUM_THREADS", "1"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comfy", type=Path, help="a checkout of ComfyUI 0.33")
    parser.add_argument("--cli", default=sys.executable, help="a Python with distill3d[cli]")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    text = json.dumps(measure(given.comfy, given.cli, given.rounds, given.iterations), indent=1)
    sys.stdout.write(text + "\n")
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
