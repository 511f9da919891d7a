"""Times a real ComfyUI: quick-draft from Run to mesh, steps per second of node and command line, start and memory.

``python tools/bench_host.py /path/to/ComfyUI [--rounds 2] [--cli PYTHON] [--json FILE]``, with a Python that can run
ComfyUI. ``--cli`` names one with ``distill3d[cli]`` when that is another. Node and command line take turns on the same
settings, prompt and seed, so that whatever else the machine does falls on both. The command line's seconds are those of
its loop alone, without its progress line; the node's are wall clock between its steps, previews and chart included.
The start is ``start_cost.py``'s. Memory is the server's resident size after each of ten short runs of a new seed.
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
from graphs import to_prompt, whole  # noqa: E402

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


def check_cli(python: str) -> None:
    """Raises ``RuntimeError`` when ``python`` would measure another copy of the library than the node runs."""
    command = [python, "-c", "import distill3d.cli; print(distill3d.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode or Path(ended.stdout.strip()) != ROOT / "distill3d" / "__init__.py":
        found = ended.stdout.strip() or ended.stderr.strip()[-300:]
        raise RuntimeError(f"expected {python} to run the command line in {ROOT}, got {found}: name another with --cli")


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


def start_cost(comfy: Path) -> dict[str, Any]:
    """What ``start_cost.py`` measures, in a process of its own."""
    command = [sys.executable, str(ROOT / "tools" / "start_cost.py"), str(comfy)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def memory(server: Server, runs: int, steps: int = 4) -> dict[str, Any]:
    """The server's resident size after each of ``runs`` runs; the first three settle what stays loaded, the middle
    one of the last three is the end: previews on their way make single readings larger."""
    sizes = []
    for seed in range(3 + runs):
        seen = server.run(whole(steps, seed=1000 + seed))
        if seen.end != "execution_success":
            raise RuntimeError(f"a run ended with {seen.end}: {seen.of('execution_error')}")
        sizes.append(server.memory())
    begin, end = sizes[2], sorted(sizes[-3:])[1]
    return {"megabytes": [round(size / 2**20) for size in sizes], "growth_after_the_third": round(end / begin - 1, 3)}


def measure(
    comfy: Path, python: str, rounds: int, iterations: int, *, draft: int = 0, runs: int = 10
) -> dict[str, Any]:
    """Everything this script says, as JSON; ``draft`` cuts the template's iterations, which its name then says."""
    check_cli(python)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(comfy, Path(folder))
        try:
            began = time.monotonic()
            seen = server.run(quick_draft(draft))
            seconds = time.monotonic() - began
            if seen.end != "execution_success":
                raise RuntimeError(f"the template ended with {seen.end}: {seen.of('execution_error')}")
            pairs = [
                (node_rate(server, iterations, seed), cli_rate(python, iterations, seed))
                for seed in range(SEED + 1, SEED + 1 + rounds)
            ]
            held = memory(server, runs)
        finally:
            server.stop()
    shares = [node / cli for node, cli in pairs]
    return {
        "quick_draft_seconds_from_run_to_mesh": round(seconds, 1),
        "quick_draft_steps": draft or "as saved",
        "steps": iterations,
        "node_steps_per_second": [round(node, 2) for node, _ in pairs],
        "cli_steps_per_second": [round(cli, 2) for _, cli in pairs],
        "node_share_of_cli": [round(share, 3) for share in shares],
        "mean_share": round(sum(shares) / len(shares), 3),
        "start": start_cost(comfy),
        "memory": held,
        "threads": os.environ.get("OMP_NUM_THREADS", "1"),
    }


def _measured(given: argparse.Namespace) -> dict[str, Any]:
    return measure(
        given.comfy, given.cli, given.rounds, given.iterations, draft=given.draft_iterations, runs=given.runs
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comfy", type=Path, help="a checkout of ComfyUI 0.33")
    parser.add_argument("--cli", default=sys.executable, help="a Python with distill3d[cli]")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--draft-iterations", type=int, default=0, help="cut the template short, to try this script")
    parser.add_argument("--runs", type=int, default=10, help="runs after which memory is read")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    text = json.dumps(_measured(given), indent=1)
    sys.stdout.write(text + "\n")
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
