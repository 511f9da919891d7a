"""What a render holds in memory, before it is made: figures measured on the CPU for the fields of this library.

A sample point costs :data:`GRAPH_BYTES` while its part of the graph exists and :data:`KEPT_BYTES` while its position,
density, weight and normal are kept while other chunks are made, with the copies on the way. Without chunks the two
share memory, and a point costs :data:`WHOLE_BYTES`. Peaks measured in processes of their own (``distill3d bench
memory``) were at most 1.4 times these figures, and the large ones within a tenth.
"""

from __future__ import annotations

from dataclasses import dataclass

from .settings import RenderSettings

#: Of a point in the autograd graph of one chunk: features, hidden layers, density and colour.
GRAPH_BYTES = 400
#: Of a point whose samples are kept to the end of the step: 302 and 307 at 760,000 and 430,000 points.
KEPT_BYTES = 300
#: Of a point where there is but one graph.
WHOLE_BYTES = 600
#: Of a lattice point while rays are sampled.
CANDIDATE_BYTES = 30
#: Least points in a tile: smaller ones cost more time than they save memory.
SMALLEST_TILE = 1 << 14


@dataclass(frozen=True)
class RenderMemory:
    """Bytes above the field itself.

    Attributes:
        whole: everything in one graph.
        chunks: the graph of one chunk at a time, all samples kept.
        tiles: nothing kept but pixels; rendered twice.
        mode: which of the three ``render`` takes; ``bytes`` is its need.
    """

    whole: int
    chunks: int
    tiles: int
    mode: str

    @property
    def bytes(self) -> int:
        return int(getattr(self, self.mode))


def kept_points(settings: RenderSettings) -> int:
    """Most points that ``memory_gb`` lets a render keep to its end: in one graph, or in chunks of ``max_points``."""
    room = settings.memory_gb * 1e9
    whole = min(settings.max_points, int(room / WHOLE_BYTES))
    return max(whole, int((room - GRAPH_BYTES * settings.max_points) / KEPT_BYTES))


def tile_points(settings: RenderSettings) -> int:
    """Points of one tile: what half of ``memory_gb`` holds, at most ``max_points``; without a limit 2^17."""
    room = int(settings.memory_gb * 0.5e9 / WHOLE_BYTES) or 1 << 17
    return min(settings.max_points, max(SMALLEST_TILE, room))


def estimate(points: int, rays: int, settings: RenderSettings) -> RenderMemory:
    """Memory of rendering ``rays`` rays with ``points`` samples in all, forward and backward.

    >>> estimate(3_000_000, 512 * 512, RenderSettings()).mode
    'chunks'
    >>> estimate(3_000_000, 512 * 512, RenderSettings(memory_gb=0.3)).mode
    'tiles'
    """
    pixels, lattice = 120 * rays, rays * settings.samples_per_ray
    whole = WHOLE_BYTES * points + pixels
    chunks = GRAPH_BYTES * min(points, settings.max_points) + KEPT_BYTES * points + pixels
    tile = min(points, tile_points(settings))
    tiles = WHOLE_BYTES * tile + CANDIDATE_BYTES * min(1 << 19, lattice) + pixels
    if points > kept_points(settings):
        return RenderMemory(whole, chunks, tiles, "tiles")
    return RenderMemory(whole, chunks, tiles, "whole" if points <= settings.max_points else "chunks")
