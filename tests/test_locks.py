"""One process a folder: refused while another holds it, free again when that one ends, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distill3d.errors import OutputError
from distill3d.locks import FILE_NAME, claimed

HOLD = (
    "import signal, sys, time; from pathlib import Path; from distill3d.locks import claimed\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "with claimed(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)\n"
)


def holder(folder: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_folder_in_use_is_refused_and_its_owner_named(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        with pytest.raises(OutputError, match=f"process {process.pid} does") as caught, claimed(tmp_path):
            pass
        assert str(tmp_path) in str(caught.value) and "another folder" in str(caught.value)
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / FILE_NAME).exists(), "a killed process cleans up nothing"
    with claimed(tmp_path):
        assert (tmp_path / FILE_NAME).read_text() == f"{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_asked_to_end_leaves_nothing(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_free_again_after_an_error_and_within_one_process_held_once(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claimed(tmp_path):
        with pytest.raises(OutputError, match=f"process {os.getpid()}"), claimed(tmp_path):
            pass
        raise ZeroDivisionError
    (tmp_path / FILE_NAME).write_text("12\n")
    with claimed(tmp_path), claimed(tmp_path, tmp_path.with_name("beside.lock")):
        assert tmp_path.with_name("beside.lock").exists()
    assert not tmp_path.with_name("beside.lock").exists()


def test_a_folder_that_cannot_be_written_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="could not write"), claimed(tmp_path / "absent"):
        pass
