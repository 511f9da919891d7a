"""``checks.md`` says which test holds which identity, and which broken formulas were seen to fail it: is that so?"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROWS = dict(re.findall(r"^\| (\d+) \| .*? \| (.*?) \|$", (HERE / "checks.md").read_text(encoding="utf-8"), re.M))
MUTATIONS = json.loads((HERE / "mutations.json").read_text(encoding="utf-8"))


def named_after(number: str, file: str) -> list[str]:
    return re.findall(rf"^def (test_{number}_\w+)", (HERE / f"{file}.py").read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("number", ROWS)
def test_every_check_has_its_tests_where_the_table_says_and_a_broken_form(number: str) -> None:
    files = re.findall(r"test_\w+", ROWS[number].split("(")[0])
    assert all(named_after(number, file) for file in files)
    named = {path.stem for path in HERE.glob("test_*.py") if named_after(number, path.stem)}
    assert named == set(files)
    assert bool(files) == any(m["name"].startswith(f"{int(number):02d} ") for m in MUTATIONS)


def test_the_table_has_every_check_and_every_mutation_something_to_break() -> None:
    assert list(ROWS) == [str(i) for i in range(1, 22)]
    assert len({m["name"] for m in MUTATIONS}) == len(MUTATIONS)
    for mutation in MUTATIONS:
        source = (HERE.parent / "distill3d" / mutation["file"]).read_text(encoding="utf-8")
        assert source.count(mutation["old"]) == 1, mutation["name"]
        assert (HERE.parent / mutation["tests"].partition(" -k ")[0]).is_file(), mutation["name"]
