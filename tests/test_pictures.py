"""Contact sheets, turntables and their files, read back by another library."""

from __future__ import annotations

import builtins
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distill3d.errors import OutputError, SettingsError
from distill3d.render import pictures
from distill3d.render.cameras import orbit, ring
from distill3d.render.volume import RenderSettings

FAST = RenderSettings(samples_per_ray=48)


class Ball:
    """Red where x > 0, blue elsewhere, solid inside radius 0.6."""

    def density(self, x: Tensor) -> Tensor:
        return torch.where(x.norm(dim=-1) < 0.6, 1e4, 0.0)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        red = (x[:, :1] > 0).float()
        return self.density(x), torch.cat([red, torch.zeros_like(red), 1 - red], -1)

    def normals(self, x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(x, dim=-1)


@pytest.fixture(scope="module")
def frames() -> Tensor:
    return pictures.turntable(Ball(), frames=6, size=(32, 40), settings=FAST)


def test_colour_normal_and_opacity_show_what_they_should():
    front = orbit(0, 0)
    colour, normal, opacity, shaded = (
        pictures.picture(Ball(), front, 64, kind, settings=FAST) for kind in ("colour", "normal", "opacity", "shaded")
    )
    assert colour[32, 40].tolist() == [255, 0, 0] and colour[32, 24].tolist() == [0, 0, 255]
    assert colour[0, 0].tolist() == [255, 255, 255] == normal[0, 0].tolist() and opacity[0, 0].tolist() == [0, 0, 0]
    assert opacity[32, 32].tolist() == [255, 255, 255]
    np.testing.assert_allclose(normal[32, 32].numpy(), [128, 128, 255], atol=8)
    np.testing.assert_allclose(shaded[32, 33].numpy(), [255, 0, 0], atol=4)
    rim = opacity[32, :, 0].nonzero()[-1].item()
    assert 80 < shaded[32, rim, 0] < 200, "the rim turns away from the light"


def test_a_turntable_sees_the_side_that_faces_it(frames):
    assert frames.shape == (6, 32, 40, 3) and frames.dtype == torch.uint8
    assert frames[0, 16, 24].tolist() == [255, 0, 0] and frames[0, 16, 16].tolist() == [0, 0, 255]
    assert frames[3, 16, 24].tolist() == [0, 0, 255] and frames[3, 16, 16].tolist() == [255, 0, 0]


@pytest.mark.parametrize("made", [pictures.contact_sheet, pictures.turntable])
def test_the_cameras_go_to_where_the_field_is(made, monkeypatch):
    class Asked(Exception):
        pass

    def render(field, cameras, *_, **__):
        raise Asked(cameras.c2w.device.type)

    monkeypatch.setattr(pictures, "render", render)
    with pytest.raises(Asked, match="meta"):
        made(torch.nn.Linear(3, 4, device="meta"))
    with pytest.raises(Asked, match="cpu"):
        made(Ball())


def test_a_film_that_fits_no_memory_is_refused_before_it_is_made():
    with pytest.raises(SettingsError, match="2000 frames of 4096 x 4096"):
        pictures.turntable(Ball(), frames=2000, size=4096)


def test_a_gif_that_would_be_too_fast_says_so(tmp_path, caplog):
    frames = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    pictures.write_gif(tmp_path / "a.gif", frames, 50)
    assert not caplog.records
    pictures.write_gif(tmp_path / "a.gif", frames, 120)
    assert "50 frames a second instead of 120" in caplog.text


def test_an_exception_in_the_progress_call_stops_the_turntable():
    class Stop(Exception):
        pass

    seen = []

    def on_frame(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        pictures.turntable(Ball(), frames=9, size=8, settings=FAST, on_frame=on_frame)
    assert seen == [(1, 9), (2, 9)]


@pytest.mark.parametrize(("views", "expected"), [("columns", (3 * 24, 2 * 24)), ("rows", (2 * 24, 3 * 24))])
def test_a_contact_sheet_has_every_view_in_every_kind(views, expected):
    sheet = pictures.contact_sheet(
        Ball(), ring(3), size=24, kinds=("colour", "opacity"), views=views, settings=FAST, labels=["", "", ""]
    )
    assert sheet.size == expected
    pixels = np.asarray(sheet)
    for view in range(3):
        for row, kind in enumerate(("colour", "opacity")):
            y, x = (row, view) if views == "columns" else (view, row)
            tile = pixels[24 * y : 24 * y + 24, 24 * x : 24 * x + 24]
            alone = pictures.picture(Ball(), ring(3)[view : view + 1], 24, kind, settings=FAST).numpy()
            np.testing.assert_array_equal(tile, alone)


def test_labels_and_title_are_drawn():
    plain, named, titled = (
        pictures.contact_sheet(Ball(), size=64, kinds=("colour",), settings=FAST, labels=labels, title=title)
        for labels, title in (([""] * 4, ""), (None, ""), (None, "a ball"))
    )
    assert plain.size == named.size == (256, 64) and titled.size[1] > 64
    changed = (np.asarray(plain) != np.asarray(named)).any(-1)
    assert changed[:20, :40].any() and not changed[20:].any()
    strip = np.asarray(titled)[: titled.size[1] - 64]
    assert strip.min() < 100
    np.testing.assert_array_equal(np.asarray(titled)[-64:], np.asarray(named))
    sides = pictures.contact_sheet(
        Ball(), size=64, kinds=("colour",), settings=FAST, labels=["front", "left", "back", "right"]
    )
    np.testing.assert_array_equal(np.asarray(sides), np.asarray(named))
    between, degrees = (
        pictures.contact_sheet(Ball(), orbit([45, -30], 0), size=64, kinds=("colour",), settings=FAST, labels=labels)
        for labels in (None, ["45°", "-30°"])
    )
    np.testing.assert_array_equal(np.asarray(between), np.asarray(degrees))
    with pytest.raises(ValueError, match="one label per view"):
        pictures.contact_sheet(Ball(), size=8, labels=["front"])


def test_pictures_refuse_what_they_cannot_show():
    with pytest.raises(ValueError, match="kind"):
        pictures.picture(Ball(), orbit(0, 0), 8, "depth")
    with pytest.raises(ValueError, match="one camera"):
        pictures.picture(Ball(), ring(2), 8)
    assert pictures.to_uint8(torch.tensor([-1.0, 0.5, 2.0, float("nan")])).tolist() == [0, 128, 255, 0]


# ---- files


def test_png_reads_back_exactly(tmp_path, frames):
    path = pictures.write_png(tmp_path / "a.png", frames[0])
    imageio = pytest.importorskip("skimage.io")
    np.testing.assert_array_equal(imageio.imread(path), frames[0].numpy())
    sheet = Image.fromarray(frames[1].numpy())
    pictures.write_png(path, sheet)
    np.testing.assert_array_equal(imageio.imread(path), frames[1].numpy())


@pytest.mark.parametrize("size", [(32, 40), (31, 33)])
def test_mp4_reads_back_with_its_frames_rate_and_colours(tmp_path, size):
    av = pytest.importorskip("av")
    frames = pictures.turntable(Ball(), frames=7, size=size, settings=FAST)
    path = pictures.write_animation(tmp_path / "turn.mp4", frames, fps=12.5)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert float(stream.average_rate) == pytest.approx(12.5)
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.codec_context.name == "h264" or "libx264" not in av.codecs_available
    assert len(decoded) == 7 and decoded[0].shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    for got, want in zip(decoded, frames.numpy(), strict=True):
        assert np.abs(got[: size[0], : size[1]].astype(float) - want).mean() < 12


def test_mp4_says_its_colours_and_has_those_of_high_definition(tmp_path):
    """Y' = 16 + 219 (0.2126 R' + 0.7152 G' + 0.0722 B') for red 224, 20, 26 is 70.8; by BT.601 it would be 86."""
    av = pytest.importorskip("av")
    frames = torch.tensor([224, 20, 26], dtype=torch.uint8).expand(3, 64, 64, 3).contiguous()
    with av.open(str(pictures.write_mp4(tmp_path / "red.mp4", frames))) as container:
        frame = next(container.decode(video=0))
        context = container.streams.video[0].codec_context
    assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    assert frame.to_ndarray()[:64].mean() == pytest.approx(70.8, abs=1.5)


def test_gif_and_webp_read_back(tmp_path, frames):
    gif = Image.open(pictures.write_animation(tmp_path / "turn.gif", frames, fps=10))
    assert (gif.n_frames, gif.size, gif.info["duration"], gif.info["loop"]) == (6, (40, 32), 100, 0)
    gif.seek(3)
    assert np.abs(np.asarray(gif.convert("RGB")).astype(float) - frames[3].numpy()).mean() < 3
    webp = Image.open(pictures.write_animation(tmp_path / "turn.webp", frames, fps=10))
    assert (webp.n_frames, webp.size) == (6, (40, 32))
    webp.seek(3)
    assert np.abs(np.asarray(webp.convert("RGB")).astype(float) - frames[3].numpy()).mean() < 12


def test_without_an_h264_encoder_the_fallback_is_said_aloud(tmp_path, frames, monkeypatch, caplog):
    av = pytest.importorskip("av")
    monkeypatch.setattr(pictures, "CODECS", ("no-such-codec", "mpeg4"))
    with caplog.at_level(logging.WARNING):
        path = pictures.write_mp4(tmp_path / "turn.mp4", frames)
    assert "MPEG-4 part 2" in caplog.text
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    monkeypatch.setattr(pictures, "CODECS", ("no-such-codec",))
    with pytest.raises(OutputError, match="no encoder"):
        pictures.write_mp4(tmp_path / "other.mp4", frames)


def test_a_missing_av_names_the_extra_and_its_cause(tmp_path, frames, monkeypatch):
    real = builtins.__import__

    def without_av(name: str, *args: object, **kwargs: object) -> object:
        if name == "av":
            raise ImportError("libavcodec.so.62: cannot open shared object file")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "av", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(OutputError, match=r"libavcodec.*pip install av, or choose .gif") as caught:
        pictures.write_mp4(tmp_path / "turn.mp4", frames)
    assert isinstance(caught.value.__cause__, ImportError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.png", "a.mp4", "a.gif", "a.webp"])
def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path, frames, name):
    def write(path: Path) -> Path:
        return pictures.write_png(path, frames[0]) if path.suffix == ".png" else pictures.write_animation(path, frames)

    if name == "a.mp4":
        pytest.importorskip("av")
    with pytest.raises(OutputError, match="could not write"):
        write(tmp_path / "missing" / name)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="could not write"):
        write(tmp_path / "file" / name)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp"])
def test_a_film_can_be_stopped_while_it_is_written_and_leaves_no_file(tmp_path, frames, name):
    asked = []

    def stop():
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pictures.write_animation(tmp_path / name, frames, on_frame=stop)
    assert asked == [1, 1] and not list(tmp_path.iterdir())
    pictures.write_animation(tmp_path / name, frames, on_frame=lambda: asked.append(2))
    assert asked.count(2) == len(frames)


def test_a_sheet_can_be_stopped_between_its_pictures():
    asked = []
    options = {"size": 8, "kinds": ("colour", "opacity"), "settings": FAST}
    pictures.contact_sheet(Ball(), ring(3), on_picture=lambda: asked.append(1), **options)
    assert len(asked) == 6
    with pytest.raises(ZeroDivisionError):
        pictures.contact_sheet(Ball(), ring(3), on_picture=lambda: 1 / 0, **options)


def test_a_failed_write_leaves_the_earlier_file_whole(tmp_path, frames, monkeypatch):
    path = pictures.write_gif(tmp_path / "turn.gif", frames)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="disk is full"):
        pictures.write_gif(path, frames.flip(0))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_animations_refuse_wrong_frames(tmp_path):
    good = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="to_uint8"):
        pictures.write_gif(tmp_path / "a.gif", good.float())
    with pytest.raises(ValueError, match="to_uint8"):
        pictures.write_gif(tmp_path / "a.gif", good[:0])
    with pytest.raises(ValueError, match="fps"):
        pictures.write_webp(tmp_path / "a.webp", good, fps=0)
    with pytest.raises(ValueError, match=r"\.mp4"):
        pictures.write_animation(tmp_path / "a.avi", good)
