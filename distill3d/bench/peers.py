"""Other people's hash grids beside ours, where they can be imported; none is a dependency."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..fields.layout import HashGridSettings

logger = logging.getLogger(__name__)

#: nerfstudio's module and class, https://github.com/nerfstudio-project/nerfstudio.
NERFSTUDIO = "nerfstudio.field_components.encodings"


def nerfstudio(settings: HashGridSettings, folder: Path | None = None) -> Callable[[Tensor], Tensor] | str:
    """nerfstudio's hash encoding in its torch implementation, or why there is none.

    The same levels, table and resolutions; its tables are its own, because it hashes every level, so only the time can
    be compared.

    Args:
        settings: of the grid.
        folder: a checkout of nerfstudio to import from; None takes what is installed.
    """
    if folder is not None:
        sys.path.insert(0, str(folder))
    try:
        module: Any = importlib.import_module(NERFSTUDIO)
        encoding = module.HashEncoding(
            num_levels=settings.levels,
            min_res=settings.base_resolution,
            max_res=settings.finest_resolution,
            log2_hashmap_size=settings.log2_table_size,
            features_per_level=settings.features,
            implementation="torch",
        )
        encoding(torch.rand(4, 3)).sum().backward()
    except Exception as error:
        logger.info("nerfstudio is left out: %s", error)
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    finally:
        if folder is not None:
            sys.path.remove(str(folder))
    return encoding  # type: ignore[no-any-return]
