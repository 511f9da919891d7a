"""Silence, for the length of one call, what diffusers and transformers say that a user can do nothing about."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Both libraries log errors only, draw no progress bars and raise no deprecation warnings; all restored on exit."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    levels = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    libraries = [diffusers_logging, transformers_logging]
    # older versions of diffusers do not tell
    drawing = [library for library in libraries if getattr(library, "is_progress_bar_enabled", lambda: True)()]
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    for library in libraries:
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning, UserWarning):
                warnings.filterwarnings("ignore", category=category, module=r"(diffusers|transformers|huggingface_hub)")
            yield
    finally:
        diffusers_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
        for library in drawing:
            library.enable_progress_bar()
