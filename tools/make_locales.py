"""Writes locales/en/nodeDefs.json from a running ComfyUI's /object_info: ``python tools/make_locales.py URL``.

English lives in the schemas alone; the Chinese file is written by hand and checked against this one by the tests.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parents[1] / "locales" / "en" / "nodeDefs.json"


def entry(info: dict[str, Any]) -> dict[str, Any]:
    inputs = {}
    for group in ("required", "optional"):
        for name, (_, *options) in info["input"].get(group, {}).items():
            inputs[name] = {"name": name, "tooltip": (options[0] if options else {}).get("tooltip", "")}
    outputs = {
        str(index): {"name": name, "tooltip": (info.get("output_tooltips") or [""] * 99)[index] or ""}
        for index, name in enumerate(info["output_name"])
    }
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": inputs,
        "outputs": outputs,
    }


def main() -> None:
    with urllib.request.urlopen(f"{sys.argv[1].rstrip('/')}/object_info", timeout=60) as answer:
        nodes = json.load(answer)
    ours = {name: entry(info) for name, info in sorted(nodes.items()) if name.startswith("Distill3D_")}
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(ours, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
