"""The release file: ids, inputs and outputs of every node, which may only be added to.

``python tools/release.py URL`` writes nodes.json from a running ComfyUI's /object_info. ``broken`` is what the tests
call: it says what a new version would break in saved workflows.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "nodes.json"
Release = dict[str, dict[str, Any]]


def _flat(inputs: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for group in ("required", "optional"):
        for name, (kind, *options) in inputs.get(group, {}).items():
            found[f"{prefix}{name}"] = "COMBO" if isinstance(kind, list) else str(kind)
            for option in (options[0] if options else {}).get("options", []):
                if isinstance(option, dict) and "inputs" in option:
                    found |= _flat(option["inputs"], f"{prefix}{name}.{option['key']}.")
    return found


def of(object_info: dict[str, Any]) -> Release:
    """What is frozen of each of our nodes."""
    return {
        name: {"inputs": _flat(info["input"]), "outputs": [*map(list, zip(info["output"], info["output_name"], strict=True))]}
        for name, info in sorted(object_info.items())
        if name.startswith("Distill3D_")
    }


def broken(old: Release, new: Release) -> list[str]:
    """One line for every node, input or output of ``old`` that is gone, renamed, moved or of another type in ``new``."""
    lines = []
    for name, was in old.items():
        if name not in new:
            lines.append(f"{name} is gone")
            continue
        now = new[name]
        for key, kind in was["inputs"].items():
            if now["inputs"].get(key) != kind:
                lines.append(f"{name}.{key} was {kind}, is {now['inputs'].get(key, 'gone')}")
        order = [key for key in now["inputs"] if key in was["inputs"]]
        if order != [key for key in was["inputs"] if key in now["inputs"]]:
            lines.append(f"{name}: inputs changed places")
        if now["outputs"][: len(was["outputs"])] != was["outputs"]:
            lines.append(f"{name}: outputs were {was['outputs']}, are {now['outputs']}")
    return lines


def main() -> None:
    with urllib.request.urlopen(f"{sys.argv[1].rstrip('/')}/object_info", timeout=60) as answer:
        release = of(json.load(answer))
    if FILE.exists() and (lines := broken(json.loads(FILE.read_text(encoding="utf-8")), release)):
        sys.exit("saved workflows would break:\n" + "\n".join(lines))
    FILE.write_text(json.dumps(release, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
