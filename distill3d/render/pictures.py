"""Pictures for people: contact sheets, turntables, and their files (PNG, MP4, GIF, WebP).

Everything is rendered without gradients, one view at a time; what grows with the number of views is the pictures alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..devices import device_of
from ..errors import OutputError, SettingsError
from ..files import atomic_path
from ..lettering import font
from .cameras import Cameras, ring
from .occupancy import OccupancyGrid
from .shading import headlight
from .volume import RenderSettings, render

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..fields.base import RadianceField

Kind = Literal["colour", "shaded", "normal", "opacity"]
KINDS: tuple[Kind, ...] = ("colour", "shaded", "normal", "opacity")
Background = Callable[[Tensor], Tensor] | Tensor
MOST_BYTES = 4_000_000_000
"""Of a film's frames, which are held together until the file is written, some of them twice."""
MOST_GIF_FPS = 50
BT709, LIMITED = 1, 1
"""Colour matrix, primaries and transfer of high-definition video, and levels of 16 to 235, by their FFmpeg numbers."""
CODECS = ("libx264", "libopenh264", "mpeg4")

log = logging.getLogger(__name__)


@runtime_checkable
class Pictured(Protocol):
    """What draws itself, as a mesh does, and can stand in a field's place in this module."""

    def picture(
        self, camera: Cameras, size: int | tuple[int, int], kind: Kind, background: Background | None
    ) -> Tensor:
        """``(H, W, 3)`` float in 0..1; arguments as for :func:`picture`."""
        ...


@torch.no_grad()
def picture(
    field: RadianceField | Pictured,
    camera: Cameras,
    size: int | tuple[int, int],
    kind: Kind = "colour",
    *,
    occupancy: OccupancyGrid | None = None,
    background: Background | None = None,
    settings: RenderSettings | None = None,
) -> Tensor:
    """One picture ``(H, W, 3)`` uint8 on the CPU.

    Args:
        field: what to show.
        camera: exactly one camera, on any device: it is moved to where the field is.
        size: side of a square, or (height, width), in pixels.
        kind: ``colour`` (albedo), ``shaded`` (albedo lit from the camera), ``normal`` (world axes, -1..1 shown as
            0..1, on white) or ``opacity`` (white where solid).
        background: as in ``render``, used by ``colour`` and ``shaded``; ``None`` is white.
    """
    if kind not in KINDS:
        raise ValueError(f"expected a kind of picture from {', '.join(KINDS)}, got {kind!r}")
    if len(camera) != 1:
        raise ValueError(f"expected exactly one camera, got {len(camera)}: index the batch with a slice of one")
    if isinstance(field, Pictured):
        return to_uint8(field.picture(camera, size, kind, background))
    height, width = (size, size) if isinstance(size, int) else size
    camera = camera.to(device_of(field if occupancy is None else occupancy, camera.c2w.device))
    shown = render(
        field,
        camera,
        height,
        width,
        background=torch.ones(3) if background is None else background,
        occupancy=occupancy,
        settings=settings,
        shading=headlight(camera, ambient=0.3, diffuse=0.7) if kind == "shaded" else None,
        normals=kind == "normal",
    )
    if kind == "opacity":
        image = shown.opacity[..., None].expand_as(shown.rgb)
    elif shown.normal is not None and kind == "normal":
        solid = shown.opacity[..., None]
        image = 0.5 * (shown.normal + solid) + (1 - solid)
    else:
        image = shown.rgb
    return to_uint8(image[0])


def to_uint8(image: Tensor) -> Tensor:
    """Floats in 0..1 (clamped; not-a-number becomes 0) -> rounded uint8 on the CPU, same shape."""
    return (image.detach().float().nan_to_num(nan=0.0).clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def contact_sheet(
    field: RadianceField | Pictured,
    cameras: Cameras | None = None,
    *,
    size: int = 192,
    kinds: Sequence[Kind] = ("colour", "normal", "opacity"),
    views: Literal["columns", "rows"] = "columns",
    labels: Sequence[str] | None = None,
    title: str = "",
    occupancy: OccupancyGrid | None = None,
    background: Background | None = None,
    settings: RenderSettings | None = None,
    on_picture: Callable[[], None] = lambda: None,
) -> Image:
    """A PIL image of every view in every kind; views run along columns or rows.

    Args:
        cameras: ``None`` means front, left, back and right from 15 degrees above.
        labels: one short text per view, drawn in the corner of its first picture; ``None`` means the side that it
            shows, or the azimuth between those.
        title: a line of text above the sheet; empty for none.
        on_picture: called after every picture; an exception it raises stops the work.
    """
    if cameras is None:
        cameras = ring(4)
    if labels is None:
        labels = [_side(float(a)) for a in torch.rad2deg(cameras.azimuth)]
    if len(labels) != len(cameras):
        raise ValueError(f"expected one label per view, got {len(labels)} labels for {len(cameras)} views")
    options: dict[str, Any] = {"occupancy": occupancy, "background": background, "settings": settings}
    tiles: list[list[Tensor]] = []
    for i in range(len(cameras)):
        tiles.append([])
        for kind in kinds:
            tiles[-1].append(picture(field, cameras[i : i + 1], size, kind, **options))
            on_picture()
    along = [torch.cat(view, 0 if views == "columns" else 1) for view in tiles]
    sheet = _image(torch.cat(along, 1 if views == "columns" else 0))
    for i, label in enumerate(labels):
        _write_text(sheet, (i * size, 0) if views == "columns" else (0, i * size), label, size)
    return _with_title(sheet, title, size) if title else sheet


def _side(azimuth: float) -> str:
    """What a view from ``azimuth`` degrees shows of the object."""
    nearest = round(azimuth / 90)
    if abs(azimuth - 90 * nearest) < 0.5:
        return ("front", "left", "back", "right")[nearest % 4]
    return f"{azimuth:.0f}\N{DEGREE SIGN}"


def turntable(
    field: RadianceField | Pictured,
    *,
    frames: int = 60,
    size: int | tuple[int, int] = 256,
    elevation: float = 15.0,
    radius: float = 3.0,
    fov: float = 42.0,
    kind: Kind = "colour",
    occupancy: OccupancyGrid | None = None,
    background: Background | None = None,
    settings: RenderSettings | None = None,
    on_frame: Callable[[int, int], None] | None = None,
) -> Tensor:
    """One full turn around the object, ``(frames, H, W, 3)`` uint8; the last frame is a step short of the first.

    ``on_frame(done, frames)`` is called after every frame; an exception it raises stops the work.

    Raises:
        SettingsError: the frames would take more than ``MOST_BYTES``.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if 3 * frames * height * width > MOST_BYTES:
        raise SettingsError(
            f"expected a film of at most {MOST_BYTES / 1e9:g} GB while it is made, got {frames} frames of {width} x "
            f"{height} pixels: take fewer or smaller ones"
        )
    cameras = ring(frames, elevation, radius, fov)
    done = []
    for i in range(frames):
        done.append(
            picture(
                field,
                cameras[i : i + 1],
                size,
                kind,
                occupancy=occupancy,
                background=background,
                settings=settings,
            )
        )
        if on_frame is not None:
            on_frame(i + 1, frames)
    return torch.stack(done)


# ---- files


def write_png(path: Path, image: Image | Tensor) -> Path:
    """Write a PIL image or ``(H, W, 3)`` uint8 tensor as PNG. Raises ``OutputError``."""
    with atomic_path(path) as temporary:
        (_image(image) if isinstance(image, Tensor) else image).save(temporary, format="PNG")
    return path


def write_animation(path: Path, frames: Tensor, fps: float = 24.0, on_frame: Callable[[], None] = lambda: None) -> Path:
    """Write ``(F, H, W, 3)`` uint8 frames to ``.mp4``, ``.gif`` or ``.webp``, by the suffix. Raises ``OutputError``.

    ``on_frame()`` is called for every frame, of a WebP before it is written; an exception it raises stops the work and
    leaves no file.
    """
    writers = {".mp4": write_mp4, ".gif": write_gif, ".webp": write_webp}
    if path.suffix.lower() not in writers:
        raise ValueError(f"expected a file name that ends in {', '.join(writers)}, got {path.name!r}")
    return writers[path.suffix.lower()](path, frames, fps, on_frame)


def write_mp4(path: Path, frames: Tensor, fps: float = 24.0, on_frame: Callable[[], None] = lambda: None) -> Path:
    """H.264 in MP4 through PyAV, in BT.709's colours; without an H.264 encoder MPEG-4 part 2, and a logged warning.

    Odd sizes gain one repeated row or column, since 4:2:0 chroma needs even ones.

    Raises:
        OutputError: PyAV is missing, or the file cannot be written.
    """
    frames = _checked(frames, fps)
    try:
        import av
    except ImportError as error:
        raise OutputError(
            f"MP4 needs the package av, and importing it failed ({error}): pip install av, or choose .gif"
        ) from error
    codec = _first_codec(av)
    if codec == CODECS[-1]:
        log.warning("no H.264 encoder in av: %s is written as MPEG-4 part 2, which browsers do not play", path)
    frames = _even(frames)
    rate = Fraction(fps).limit_denominator(1001)
    with atomic_path(path) as temporary, av.open(str(temporary), mode="w", format="mp4") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        described = stream.codec_context  # a film that does not say so is shown in other colours from 720 pixels on
        described.colorspace = described.color_primaries = described.color_trc = BT709
        described.color_range = LIMITED
        stream.options = {"crf": "18"} if codec == "libx264" else {}
        if codec != "libx264":
            stream.bit_rate = int(0.25 * frames.shape[1] * frames.shape[2] * fps)
        for frame in frames:
            image = av.VideoFrame.from_ndarray(frame.numpy(), format="rgb24")
            yuv = image.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            container.mux(stream.encode(yuv))
            on_frame()
        container.mux(stream.encode(None))
    return path


def write_gif(path: Path, frames: Tensor, fps: float = 24.0, on_frame: Callable[[], None] = lambda: None) -> Path:
    """A looping GIF of at most 256 colours a frame; frame times are rounded to 10 ms. Raises ``OutputError``."""
    frames = _checked(frames, fps)
    if fps > MOST_GIF_FPS:
        log.warning("%s shows %d frames a second instead of %g: no player is faster", path, MOST_GIF_FPS, fps)
    duration = max(1000 // MOST_GIF_FPS, 10 * round(100 / fps))
    images = []
    for frame in frames:
        images.append(_image(frame).quantize(256))
        on_frame()
    with atomic_path(path) as temporary:
        images[0].save(temporary, "GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)
    return path


def write_webp(path: Path, frames: Tensor, fps: float = 24.0, on_frame: Callable[[], None] = lambda: None) -> Path:
    """A looping animated WebP, full colour. Raises ``OutputError``."""
    frames = _checked(frames, fps)
    images = []
    for frame in frames:
        images.append(_image(frame))
        on_frame()
    with atomic_path(path) as temporary:
        images[0].save(
            temporary, "WEBP", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0, quality=90
        )
    return path


def _checked(frames: Tensor, fps: float) -> Tensor:
    if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0 or frames.dtype != torch.uint8:
        raise ValueError(f"expected uint8 frames (F, H, W, 3), got {frames.dtype} {tuple(frames.shape)}: use to_uint8")
    if not 0 < fps < math.inf:
        raise SettingsError(f"expected fps above 0, got {fps}: 24 is usual")
    return frames.cpu()


def _first_codec(av: Any) -> str:
    for name in CODECS:
        try:
            av.codec.Codec(name, "w")
        except ValueError:
            continue
        return name
    raise OutputError("this build of av has no encoder for MP4: reinstall av, or choose .gif or .webp")


def _even(frames: Tensor) -> Tensor:
    if frames.shape[1] % 2:
        frames = torch.cat([frames, frames[:, -1:]], 1)
    if frames.shape[2] % 2:
        frames = torch.cat([frames, frames[:, :, -1:]], 2)
    return frames.contiguous()


def _image(pixels: Tensor) -> Image:
    from PIL import Image

    return Image.fromarray(pixels.cpu().contiguous().numpy())


def _font(size: int, text: str) -> Any:
    return font(max(9, size // 14), text)


def _write_text(image: Image, corner: tuple[int, int], text: str, size: int) -> None:
    from PIL import ImageDraw

    place = (corner[0] + size // 40 + 2, corner[1] + size // 40 + 1)
    dark, white = (20, 20, 20), (255, 255, 255)
    ImageDraw.Draw(image).text(place, text, fill=dark, font=_font(size, text), stroke_width=1, stroke_fill=white)


def _with_title(sheet: Image, title: str, size: int) -> Image:
    from PIL import Image, ImageDraw

    strip = max(9, size // 14) + size // 16 + 4
    out = Image.new("RGB", (sheet.width, sheet.height + strip), (255, 255, 255))
    out.paste(sheet, (0, strip))
    ImageDraw.Draw(out).text((size // 40 + 2, size // 40 + 1), title, fill=(20, 20, 20), font=_font(size, title))
    return out
