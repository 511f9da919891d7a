"""What all commands share: reading flags into settings, and errors that end as one message and an exit status."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console

from .. import prompts, schedules
from ..errors import Distill3DError, OutOfMemoryError, SettingsError, is_out_of_memory
from ..files import make_folder, output_error
from ..interrupts import heard

T = TypeVar("T")

_OUT_OF_MEMORY = (
    "close other programs that use it, take --dtype fp16 or --device cpu, or a smaller model, picture or mesh. A "
    "checkpoint that was written is whole, and distill3d export reads it on the CPU"
)

_QUOTES = re.compile(
    '["\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\N{DOUBLE LOW-9 QUOTATION MARK}'
    "\N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}\N{RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK}]"
)
_SINGLE = "'\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}\N{SINGLE LOW-9 QUOTATION MARK} "

REGISTRY = tyro.constructors.ConstructorRegistry()


@REGISTRY.primitive_rule
def _schedule_rule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    if not (isinstance(info.type, type) and issubclass(info.type, schedules.Schedule)):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="SCHEDULE",
        instance_from_str=lambda texts: schedules.parse(texts[0]),
        is_instance=lambda value: isinstance(value, schedules.Schedule),
        str_from_instance=lambda value: [str(value)],
    )


@REGISTRY.primitive_rule
def _no_schedule_rule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """A schedule or None as one rule of ours, so that what cannot be read is refused in the schedules' own words."""
    if info.type != schedules.Schedule | None:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{None}|SCHEDULE",
        instance_from_str=lambda texts: None if texts[0] in ("None", "none") else schedules.parse(texts[0]),
        is_instance=lambda value: value is None or isinstance(value, schedules.Schedule),
        str_from_instance=lambda value: [str(value)],
    )


@REGISTRY.primitive_rule
def _sectors_rule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    if info.type != tuple[prompts.Sector, ...]:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="SECTORS",
        instance_from_str=lambda texts: prompts.parse_sectors(_sector_text(texts[0])),
        is_instance=lambda value: isinstance(value, tuple) and all(isinstance(v, prompts.Sector) for v in value),
        str_from_instance=lambda value: [prompts.format_sectors(value).replace("\n", "; ")],
    )


def _sector_text(text: str) -> str:
    """The sectors written in the flag, ``;`` between them, or in the file it names."""
    if text.lstrip().startswith("["):
        return text
    if "|" not in text and os.path.isfile(text):  # noqa: PTH113 - Path's raises for a text that is no path
        return Path(text).read_text(encoding="utf-8")
    return text.replace(";", "\n")


def parse(kind: type[T], command: str, arguments: Sequence[str], description: str, default: T | None = None) -> T:
    """Flags into a settings object; on ``--help`` or a flag that cannot be read it exits as argparse does.

    Raises:
        SettingsError: a value that the settings refuse, in their own words, at whatever depth they are; or a prompt
            that the shell has cut into words.
    """
    prompted = any(field.name == "prompt" for field in dataclasses.fields(kind))  # type: ignore[arg-type]
    words = list(takewhile(lambda text: not text.startswith("-"), arguments))
    if prompted and len(words) > 1 and not {"-h", "--help"} & set(arguments):
        if " " in words[0].strip():
            raise SettingsError(
                f"expected flags after the prompt, got {words[1]!r}: see distill3d {command} --help. The prompt goes "
                "into one pair of double quotes, with none inside"
            )
        text = " ".join(_QUOTES.sub(" ", " ".join(words)).split()).strip(_SINGLE) or "a red cube"
        raise SettingsError(
            f"expected the prompt as one text, got {len(words)} words: put it in double quotes, distill3d {command} "
            f'"{text}"'
        )
    options: dict[str, Any] = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed: T = tyro.cli(
                kind,
                prog=f"distill3d {command}",
                description=description,
                args=list(arguments),
                registry=REGISTRY,
                config=(tyro.conf.FlagConversionOff, tyro.conf.HelptextFromCommentsOff),
                **options,
            )
    except SystemExit as end:
        refused = _refused(end)
        if refused is not None:
            raise refused from None
        sys.stderr.write(said.getvalue())
        if (
            prompted
            and "Unrecognized options: " in said.getvalue()
            and "Unrecognized options: -" not in said.getvalue()
        ):
            told = ("A value with blanks", ' --out "my folder"') if words else ("A prompt of several words", "")
            sys.stderr.write(f'{told[0]} needs double quotes: distill3d {command} "a red cube"{told[1]}\n')
        raise
    sys.stderr.write(said.getvalue())
    return parsed


def _refused(end: BaseException) -> SettingsError | None:
    """The error of ours that made tyro give up, with the flag that tyro was reading where it knows one."""
    flags = ""
    cause: BaseException | None = end
    while cause is not None:
        if isinstance(cause, SettingsError):
            return SettingsError(f"{flags}{cause.message}", advice=cause.advice)
        lowered = getattr(getattr(cause, "arg", None), "lowered", None)
        flags = f"{'/'.join(lowered.name_or_flags)}: " if lowered is not None else flags
        cause = cause.__context__
    return None


def given(arguments: Sequence[str], flag: str, default: str) -> str:
    """The value of ``--flag VALUE`` or ``--flag=VALUE``, read before the rest: presets decide the others' defaults."""
    places = _places(arguments, flag)
    return arguments[places[-1][0]].removeprefix(places[-1][1]) if places else default


def _places(arguments: Sequence[str], flag: str) -> list[tuple[int, str]]:
    """Where the values of ``--flag`` are, and what stands before them there; ``_`` is ``-``, as tyro has it."""
    found = []
    for index, text in enumerate(arguments):
        name, equals, _ = text.partition("=")
        if text.startswith("--") and name.replace("_", "-") == f"--{flag}" and (equals or index + 1 < len(arguments)):
            found.append((index, f"{name}=") if equals else (index + 1, ""))
    return found


def lowered(arguments: Sequence[str], flag: str) -> list[str]:
    """The arguments with the value of ``--flag`` in lower case, for names that are written in capitals as well."""
    found = list(arguments)
    for index, before in _places(arguments, flag):
        found[index] = before + found[index].removeprefix(before).lower()
    return found


def flag(setting: str) -> str:
    """The flag that sets ``setting``: ``field.blob_density`` -> ``--field.blob-density``."""
    return f"--{setting.replace('_', '-')}"


def free_folder(base: Path) -> Path:
    """``base``, or ``base-2``, ``base-3`` ... : the first that did not exist, made at once so that it is ours.

    Raises:
        OutputError: none can be made.
    """
    make_folder(base.parent)
    candidate, number = base, 2
    while True:
        try:
            candidate.mkdir()
            return candidate
        except FileExistsError:
            candidate, number = base.with_name(f"{base.name}-{number}"), number + 1
        except OSError as error:
            raise output_error(candidate, error) from error


def checked_prompt(text: str, command: str) -> str:
    """The prompt without blanks around it. Raises ``SettingsError`` with the line to write when nothing is left."""
    if not text.strip():
        raise SettingsError(
            f'expected a prompt, got an empty one: describe one object, e.g. distill3d {command} "a red cube"'
        )
    return text.strip()


def slug(text: str) -> str:
    """``"A red cube!"`` -> ``"a-red-cube"``, for a folder's name; accents go, and what is left without a letter is
    ``"object"``."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:48] or "object"


def command_line(words: Sequence[str]) -> str:
    """The words as one line for this system's shell: on Windows ``cmd``, which knows no single quotes."""
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def say(console: Console, text: str) -> None:
    """One line as it is written: brackets in a prompt or a path are no markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def warn(console: Console, texts: Iterable[str]) -> None:
    """One line a warning, as it is written: a path or prompt in it is no markup."""
    for text in texts:
        console.print("[yellow]warning:[/] ", end="")
        say(console, text)


@contextlib.contextmanager
def unwritten() -> Iterator[None]:
    """Work at whose end one file is written whole: an interrupt says that there is none."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("nothing was written") from stop


def dispatch(command: str, arguments: Sequence[str]) -> int:
    """Run one command's module; see ``cli.main`` for the exit status."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    console = Console(stderr=True)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with heard():
            module = importlib.import_module(f".{command.replace('-', '_')}", __package__)
        return int(module.run(list(arguments), console))
    except Distill3DError as error:
        console.print("[red]error:[/] ", end="")
        say(console, error.told(flag))
        return error.exit_code
    except KeyboardInterrupt as stop:
        say(console, f"interrupted: {stop}" if stop.args else "interrupted")
        return 130
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        console.print("[red]error:[/] ", end="")
        say(console, f"memory ran out: {_OUT_OF_MEMORY}")
        return OutOfMemoryError.exit_code
    except OSError as error:
        console.print("[red]error:[/] ", end="")
        say(console, f"{error.strerror or error}: {error.filename or command}. Check the path, or choose another one")
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
