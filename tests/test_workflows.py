"""Every template against the schemas, and the schemas against the release file. Host-free."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import fake_host  # noqa: E402
import schemas  # noqa: E402

TEMPLATES = sorted((ROOT / "workflows").glob("*.json"))
WANTED = {
    "quick-draft",
    "standard-sd15",
    "method-bake-off",
    "methods-2d",
    "dynamic-cfg-freeu",
    "resume",
    "lora-prior",
    "core-mesh-tools",
}


@pytest.fixture(scope="module")
def release() -> schemas.Release:
    return schemas.frozen(list(schemas.schemas()))


def test_nothing_a_saved_workflow_relies_on_has_changed(release: schemas.Release) -> None:
    old = json.loads(schemas.RELEASE.read_text(encoding="utf-8"))
    assert schemas.broken(old, release) == []
    assert set(release) == set(old), "run `python tools/schemas.py` after adding a node"


def test_the_english_texts_are_those_of_the_schemas() -> None:
    """Tooltips name the presets' values; the file was once left behind when those changed."""
    written = json.loads(schemas.ENGLISH.read_text(encoding="utf-8"))
    assert written == {s.node_id: schemas.english(s) for s in schemas.schemas()}, "run `python tools/schemas.py`"


def test_the_help_page_lists_every_setting_and_more_takes_each_as_it_is_written(tmp_path: Path) -> None:
    page = schemas.HELP.read_text(encoding="utf-8")
    assert page == schemas.help_page(page), "run `python tools/schemas.py`"
    rows = schemas.every_setting()
    assert all(f"`{name}` | `{value}`" in page and len(said) > 20 for name, value, said in rows)
    assert "losses.smoothness" in {name for name, _, _ in rows}
    with fake_host.installed(tmp_path):
        settings = importlib.import_module("pack.nodes.settings")
        draft = settings.preset("draft")
        again = settings.override(draft, "\n".join(f"{name} = {value}" for name, value, _ in rows))
    assert again == draft


def test_the_check_sees_a_lost_a_moved_and_a_retyped_input(release: schemas.Release) -> None:
    def changed(**inputs: str) -> schemas.Release:
        return {"N": {"inputs": inputs, "outputs": [["MESH", "mesh"]]}}

    old = changed(a="INT", b="FLOAT")
    assert schemas.broken(old, changed(a="INT", b="FLOAT", c="STRING")) == []
    assert schemas.broken(old, changed(a="INT")) == ["N.b was FLOAT, is gone"]
    assert schemas.broken(old, changed(a="INT", b="STRING")) == ["N.b was FLOAT, is STRING"]
    (moved,) = schemas.broken(old, changed(b="FLOAT", a="INT"))
    (pushed,) = schemas.broken(old, changed(a="INT", c="STRING", b="FLOAT"))
    assert moved == pushed and moved.startswith("N: inputs changed places")
    choices = {"m": "COMBO", "m.X.a": "INT", "m.Y.a": "INT"}
    assert schemas.broken(changed(**choices), changed(**{**choices, "m.X.b": "INT"})) == []
    assert len(schemas.broken(changed(**choices), changed(**{"m": "COMBO", "m.X.b": "INT", **choices}))) == 1
    assert schemas.broken(changed(a="STRING"), changed(a="COMBO")) == []
    assert len(schemas.broken(changed(a="COMBO"), changed(a="STRING"))) == 1
    assert schemas.broken(old, {}) == ["N is gone"]


def test_the_check_sees_a_new_required_input_and_a_lost_word(release: schemas.Release) -> None:
    def node(required: list[str], **words: list[str]) -> schemas.Release:
        inputs = dict.fromkeys(["a", "m", "m.X.b", *required], "INT")
        return {"N": {"inputs": inputs, "required": required, "menus": {"m": ["X", "Y"], **words}, "outputs": []}}

    old = node(["a", "m"])
    assert schemas.broken(old, old) == schemas.broken(old, node(["m"])) == []
    (late,) = schemas.broken(old, node(["a", "m", "c"]))
    assert late.startswith("N.c is required") and "make it optional" in late
    (tightened,) = schemas.broken(old, node(["a", "m", "m.X.b"]))
    assert tightened.startswith("N.m.X.b is required"), "an optional input became a required one"
    (first,) = schemas.broken(old, node(["a", "m", "m.Y.c"]))
    assert first.startswith("N.m.Y.c is required"), "a choice that had no inputs got a required one"
    assert schemas.broken(old, node(["a", "m", "m.Z.c"], m=["X", "Y", "Z"])) == [], "a new choice may bring its own"
    assert schemas.broken(old, node(["a", "m"], m=["Y"])) == ["N.m no longer offers X"]
    bsd = release["Distill3D_DistillLoss"]
    late_auto = {**bsd, "required": [*bsd["required"], "method.BSD.auto"]}
    assert schemas.broken({"L": bsd}, {"L": late_auto})[0].startswith("L.method.BSD.auto is required")


def test_an_optional_input_has_a_default_where_it_is_read(release: schemas.Release) -> None:
    """The host passes nothing for an input that a prompt lacks."""
    import importlib
    import inspect
    import tempfile

    fake = importlib.import_module("fake_host")
    with tempfile.TemporaryDirectory() as folder, fake.installed(Path(folder)):
        for node in importlib.import_module("pack.nodes.extension").NODES:
            required = release[node.define_schema().node_id]["required"]
            parameters = inspect.signature(node.execute).parameters.values()
            takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
            without = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
            assert set(without) <= set(required), node.__name__
            named = {p.name for p in parameters}
            assert takes_any or {item.id for item in node.define_schema().inputs} <= named


def test_every_template_is_there_with_a_picture_and_a_note() -> None:
    assert {path.stem for path in TEMPLATES} == WANTED
    for path in TEMPLATES:
        assert path.with_suffix(".jpg").read_bytes()[:3] == b"\xff\xd8\xff"
        notes = [n for n in json.loads(path.read_text(encoding="utf-8"))["nodes"] if n["type"] == "MarkdownNote"]
        text = str(notes[0]["widgets_values"])
        assert all(word in text for word in ("Hardware", "Time", "Model", "What good looks like")), path.stem


def page_order(frozen: dict[str, Any]) -> list[str]:
    """A page shows required inputs before optional ones, and those of a choice right behind their menu."""
    known, required = list(frozen["inputs"]), set(frozen["required"])

    def place(key: str) -> list[tuple[bool, int]]:
        parts = key.split(".")
        levels = [".".join(parts[:end]) for end in range(1, len(parts) + 1, 2)]
        return [(level not in required, known.index(level)) for level in levels]

    return sorted(known, key=place)


def wanted(frozen: dict[str, Any], node: dict[str, Any]) -> list[str]:
    """Names of the inputs a schema has, in the page's order, for the choices that the node holds by place."""
    widgets = [item["name"] for item in node["inputs"] if "widget" in item]
    held = list(node.get("widgets_values", []))
    if "seed" in widgets:  # the page's own widget, what becomes of the seed after a run, follows it and is no input
        del held[widgets.index("seed") + 1]
    assert len(held) == len(widgets), node
    values = dict(zip(widgets, held, strict=True))
    found = []
    for key in page_order(frozen):
        name, *rest = key.split(".")
        if not rest:
            found.append(name)
        elif values.get(name) == rest[0]:
            found.append(f"{name}.{rest[1]}")
    return found


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_fits_the_schemas(path: Path, release: schemas.Release) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    nodes: dict[int, dict[str, Any]] = {node["id"]: node for node in workflow["nodes"]}
    for node in nodes.values():
        if not node["type"].startswith("Distill3D_"):
            continue
        expected = wanted(release[node["type"]], node)
        required, given = set(release[node["type"]]["required"]), {item["name"] for item in node["inputs"]}
        late = [name for name in expected if name not in given]  # saved before these optional inputs were there
        assert late == expected[len(expected) - len(late) :] and not required & set(late), (path.stem, node["type"])
        assert given <= set(expected), f"{path.stem}: {node['type']}, {node['id']}"
        widgets = [item["name"] for item in node["inputs"] if "widget" in item]
        assert widgets == [name for name in expected if name in widgets], f"{path.stem}: {node['type']}, {node['id']}"
        known = release[node["type"]]["inputs"]
        flat = set(known) | {
            ".".join((*key.split(".")[:-2], key.split(".")[-1])) for key in known if key.count(".") > 1
        }
        for item in node.get("inputs", []):
            assert item["name"] in flat, f"{path.stem}: {node['type']} has no input {item['name']}"
        outputs = [name for _, name in release[node["type"]]["outputs"]]
        assert len(node["outputs"]) == len(outputs)
    for link in workflow["links"]:
        _, source, slot, target, place, kind = link
        given = nodes[source]["outputs"][slot]["type"]
        taken = nodes[target]["inputs"][place]["type"]
        assert given in taken.split(",") or taken in given.split(",") or "*" in (given, taken), (path.stem, link, taken)
        assert kind == given
    text = path.read_text(encoding="utf-8")
    assert "/home" not in text and ":\\\\" not in text


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_templates_menus_hold_words_they_offer(path: Path) -> None:
    offered: dict[str, dict[str, list[str]]] = {}
    for name, frozen in schemas.frozen(list(schemas.schemas())).items():
        menus = offered.setdefault(name, {})
        for key, words in frozen["menus"].items():
            combo, *inner = key.split(".")
            menus.setdefault(f"{combo}.{inner[1]}" if inner else combo, []).extend(words)
    seen = 0
    for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        if node["type"] not in offered:
            continue
        widgets = [item["name"] for item in node["inputs"] if "widget" in item]
        held = list(node.get("widgets_values", []))
        if "seed" in widgets:
            del held[widgets.index("seed") + 1]
        for name, value in zip(widgets, held, strict=True):
            if name in offered[node["type"]]:
                assert value in offered[node["type"]][name], (path.stem, node["type"], name)
                seen += 1
    assert seen


def test_every_node_appears_in_a_template(release: schemas.Release) -> None:
    used = {n["type"] for path in TEMPLATES for n in json.loads(path.read_text(encoding="utf-8"))["nodes"]}
    assert set(release) <= used
