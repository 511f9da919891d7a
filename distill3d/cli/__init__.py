"""The command line, ``distill3d COMMAND``: one module a command, imported when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches

from ..interrupts import heard

_COMMANDS = {
    "generate": "turn a prompt into a 3D object: a GLB, a contact sheet, a turntable",
    "compare": "run several methods on the same prompt, seed and cameras, side by side",
    "distill2d": "see the methods at work on a picture, before a 3D run",
    "export": "write the mesh of a finished or stopped run again: other settings, texture, OBJ, PLY, STL or USDZ",
    "turntable": "film or contact sheet of a run or of any mesh file: MP4, GIF, WebP or PNG",
    "convert": "take a mesh file of your own to another format, face budget, size or texture",
    "bench": "measure speed, memory and quality, and compare two measurements",
    "train-prior": "train the bundled tiny text-to-image model from scratch",
    "train-scorer": "train the image-text scorer behind the benchmark's Sim and R@1",
}


def _usage() -> str:
    width = max(map(len, _COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in _COMMANDS.items())
    return (
        "usage: distill3d COMMAND [flags]\n\n"
        "Text to 3D objects by score distillation, on the diffusion model you already have.\n\n"
        f"commands:\n{rows}\n\n"
        'start here:\n  distill3d generate "a red cube"\n  distill3d COMMAND --help\n'
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        from .. import __version__

        sys.stdout.write(f"distill3d {__version__}\n")
        return 0
    if arguments[0] not in _COMMANDS:
        near = get_close_matches(arguments[0], _COMMANDS, 1)
        meant = f"did you mean distill3d {near[0]}?" if near else "distill3d --help tells what each does"
        sys.stderr.write(
            f"distill3d: unknown command {arguments[0]!r}: expected one of {', '.join(_COMMANDS)}; {meant}\n"
        )
        return 2
    try:
        with heard():
            import rich  # noqa: F401
            import tyro  # noqa: F401

            from .allocator import keep_freed_memory
            from .app import dispatch
    except ImportError as error:
        sys.stderr.write(
            f'distill3d: the command line needs {error.name}: pip install -e ".[cli]" in the folder of this pack\n'
        )
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    keep_freed_memory()
    return dispatch(arguments[0], arguments[1:])
