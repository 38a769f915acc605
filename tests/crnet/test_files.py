import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crnet.files import (
    ImageFileError,
    Picture,
    not_kept,
    output_file,
    output_format,
    read_image,
    read_picture,
    write_picture,
)
from tests.crnet.pictures import opened, photo, png, png16, save, tiff


def round_trip(picture: Picture, tmp_path: Path, name: str) -> Image.Image:
    path = tmp_path / name
    with output_file(path, overwrite=False) as file:
        write_picture(picture, file, output_format(path, picture))
    return opened(path)


@pytest.mark.parametrize(
    ("channels", "suffix"),
    [(c, s) for c in (1, 3, 4) for s in ("png", "tif")] + [(3, "webp"), (4, "webp")],
)
def test_8_bit_pictures_come_back_bit_for_bit(tmp_path: Path, channels: int, suffix: str) -> None:
    array = photo(channels=channels)
    array[0, 0] = 0
    array[0, 1] = 255
    picture = read_picture(save(tmp_path / "a.png", array))
    assert (picture.alpha is not None) == (channels == 4)
    assert picture.color.shape[1] == min(channels, 3)
    assert np.array_equal(np.asarray(round_trip(picture, tmp_path, f"b.{suffix}")), array)


def test_grey_with_alpha_stays_grey_with_alpha(tmp_path: Path) -> None:
    image = Image.merge("LA", [Image.fromarray(photo(channels=1, seed=s)) for s in (1, 2)])
    image.save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.color.shape[1] == 1
    again = round_trip(picture, tmp_path, "b.png")
    assert again.mode == "LA"
    assert np.array_equal(np.asarray(again), np.asarray(image))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_kept(tmp_path: Path, suffix: str) -> None:
    array = (np.arange(143).reshape(13, 11) * 458).astype(np.uint16)
    array[0, :2] = 0, 65535
    picture = read_picture(save(tmp_path / f"a.{suffix}", array))
    assert picture.bits == 16
    assert np.array_equal(np.asarray(round_trip(picture, tmp_path, f"b.{suffix}")), array)


def packed_12_bit(levels: list[int]) -> bytes:
    """Pairs of 12-bit samples in three bytes each."""
    return b"".join(
        (a << 12 | b).to_bytes(3, "big") for a, b in zip(levels[::2], levels[1::2], strict=True)
    )


def test_the_depth_of_the_samples_is_what_one_means(tmp_path: Path) -> None:
    levels = [0, 1, 2047, 4095]
    expected = torch.tensor(levels).view(1, 1, 1, 4) / 4095
    in_16 = np.array(levels, "<u2").tobytes()
    twelve = tiff(tmp_path / "a.tif", packed_12_bit(levels), 4, 1, 12)
    stated = tiff(tmp_path / "b.tif", in_16, 4, 1, 16, t341=4095)
    for path in (twelve, stated):
        picture = read_picture(path)
        assert picture.bits == 16
        torch.testing.assert_close(picture.color, expected)
    untrue = tiff(tmp_path / "c.tif", in_16, 4, 1, 16, t341=1000)
    torch.testing.assert_close(read_picture(untrue).color, torch.tensor([[[levels]]]) / 65535)
    eight = tiff(tmp_path / "d.tif", bytes([0, 50, 100, 200]), 4, 1, 8, t341=200)
    torch.testing.assert_close(
        read_picture(eight).color, torch.tensor([0, 0.25, 0.5, 1]).view(1, 1, 1, 4)
    )
    four = tiff(tmp_path / "e.tif", bytes([0x0F, 0x3C]), 4, 1, 4)
    torch.testing.assert_close(
        read_picture(four).color, torch.tensor([0, 15, 3, 12]).view(1, 1, 1, 4) / 15
    )


@pytest.mark.parametrize("maximum", [1023, 4095, 65535])
def test_deep_pgm_is_16_bit_grey(tmp_path: Path, maximum: int) -> None:
    levels = np.array([0, 1, maximum // 2, maximum], ">u2")
    path = written(tmp_path / "a.pgm", b"P5 2 2 %d\n" % maximum + levels.tobytes())
    picture = read_picture(path)
    assert picture.bits == 16
    expected = torch.from_numpy(levels.astype(np.float32)).view(1, 1, 2, 2) / maximum
    torch.testing.assert_close(picture.color, expected, rtol=0, atol=0.5 / 65535 + 1e-7)


@pytest.mark.parametrize(("samples", "photometric"), [(2, 1), (4, 2)])
def test_channels_without_a_meaning_are_refused(
    tmp_path: Path, samples: int, photometric: int
) -> None:
    """Pillow would silently drop them."""
    path = tmp_path / "a.tif"
    tiff(path, bytes(range(4 * samples)), 2, 2, 8, t277=samples, t262=photometric, t338=0)
    with pytest.raises(ImageFileError, match=f"has {samples} channels, but .* only {samples - 1};"):
        read_picture(path)


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour_is_refused(tmp_path: Path, color_type: int, channels: int) -> None:
    """Pillow would silently read it as 8 bit."""
    with pytest.raises(ImageFileError, match="16-bit colour, which is not supported"):
        read_picture(png16(tmp_path / "a.png", color_type, channels))


def test_palette_becomes_colour_and_its_transparency_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(photo()).quantize(8)
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=0)
    opaque, clear = (read_picture(tmp_path / f"{n}.png") for n in ("opaque", "clear"))
    assert opaque.alpha is None
    expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
    assert torch.equal(opaque.color, expected)
    assert clear.alpha is not None
    assert torch.equal(clear.alpha[0, 0] == 0, torch.from_numpy(np.array(image)) == 0)


def test_a_palette_of_greys_is_grey(tmp_path: Path) -> None:
    Image.fromarray(photo(channels=1)).convert("P").save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").color.shape[1] == 1


def profile_of(space: bytes) -> bytes:
    """The head of a colour profile, which names its channels."""
    return bytes(16) + space + bytes(108)


def test_a_profile_stays_with_the_channels_it_is_for(tmp_path: Path) -> None:
    greys = Image.fromarray(photo(channels=1)).convert("P")
    greys.save(tmp_path / "a.png", icc_profile=profile_of(b"RGB "))
    picture = read_picture(tmp_path / "a.png")
    assert picture.color.shape[1] == 3
    assert picture.icc_profile == profile_of(b"RGB ")
    for name, channels, space in (("b", 1, b"RGB "), ("c", 3, b"GRAY")):
        path = save(
            tmp_path / f"{name}.jpg", photo(channels=channels), icc_profile=profile_of(space)
        )
        picture = read_picture(path)
        assert picture.icc_profile is None
        assert "the colour profile, which is for other channels" in not_kept(picture, "PNG")


def test_a_multi_picture_jpeg_is_its_first_picture(tmp_path: Path) -> None:
    a, b = (Image.fromarray(photo(16, 16, seed=s)) for s in (0, 1))
    a.save(tmp_path / "a.mpo", save_all=True, append_images=[b])
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    assert read_picture(tmp_path / "a.jpg").color.shape == (1, 3, 16, 16)


def test_16_bit_pixmaps_and_inverted_greys_are_refused(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=">u2").tobytes()
    (tmp_path / "a.ppm").write_bytes(b"P6 4 4 65535\n" + pixels)
    with pytest.raises(ImageFileError, match="16-bit colour"):
        read_picture(tmp_path / "a.ppm")
    (tmp_path / "b.ppm").write_bytes(b"P6 4 4 255\n" + pixels[:48])
    assert read_picture(tmp_path / "b.ppm").color.shape == (1, 3, 4, 4)
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8)
    save(tmp_path / "a.tif", deep, tiffinfo={262: 0})
    with pytest.raises(ImageFileError, match="inverted"):
        read_picture(tmp_path / "a.tif")


def test_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageFileError, match="not a regular file"):
        read_picture(tmp_path / "a.png")
    with (
        pytest.raises(ImageFileError, match="folder or device"),
        output_file(tmp_path / "a.png", overwrite=True),
    ):
        pytest.fail("the block was entered")


def test_bilevel_is_grey(tmp_path: Path) -> None:
    array = photo(channels=1) > 127
    Image.fromarray(array).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert torch.equal(picture.color[0, 0], torch.from_numpy(array).float())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    array = photo()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", array, exif=exif)
    color = (255 * read_picture(path).color[0]).round().to(torch.uint8).permute(1, 2, 0).numpy()
    a = array
    expected = {
        1: a, 2: a[:, ::-1], 3: a[::-1, ::-1], 4: a[::-1],
        5: a.transpose(1, 0, 2), 6: np.rot90(a, -1), 7: np.rot90(a, 2).transpose(1, 0, 2),
        8: np.rot90(a),
    }[orientation]  # fmt: skip
    assert np.array_equal(color, expected)


def test_colour_profile_is_carried(tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = read_picture(save(tmp_path / "a.png", photo(), icc_profile=profile))
    assert round_trip(picture, tmp_path, "b.png").info["icc_profile"] == profile


def truncated(path: Path) -> Path:
    whole = io.BytesIO()
    Image.fromarray(photo(200, 200)).save(whole, "PNG")
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    return path


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize(
    ("bits", "color_type", "channels"), [(1, 0, 1), (4, 3, 1), (8, 2, 3), (8, 6, 4), (16, 0, 1)]
)
@pytest.mark.parametrize(("W", "H"), [(13, 11), (1, 1), (3, 9)])
def test_a_png_with_a_short_data_stream_is_truncated(
    tmp_path: Path, interlace: int, bits: int, color_type: int, channels: int, W: int, H: int
) -> None:
    """Pillow accepts it, and its last rows are black."""

    def row(width: int) -> bytes:
        return bytes(1 + (width * bits * channels + 7) // 8)

    passes = [(range(0, H, 1), range(0, W, 1))]
    if interlace:
        starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2),
                  (0, 1, 2, 2), (1, 0, 2, 1)]  # fmt: skip
        passes = [(range(top, H, dy), range(left, W, dx)) for top, left, dy, dx in starts]
    rows = b"".join(row(len(columns)) * len(lines) for lines, columns in passes if columns)
    header = (W, H, bits, color_type, 0, 0, interlace)
    if color_type != 3:  # a palette file needs its palette
        assert read_picture(png(tmp_path / "whole.png", header, rows)).color.shape[-2:] == (H, W)
    with pytest.raises(ImageFileError, match="it is truncated, 1 bytes"):
        read_picture(png(tmp_path / "short.png", header, rows[:-1]))


def packed_bits(rows: int) -> bytes:
    return b"\x0f".join([b"", *[bytes([5]) * 16] * rows])


@pytest.mark.parametrize(
    "make",
    [
        lambda d: tiff(d / "a.tif", bytes(8 * 16), 16, 16, 8),
        lambda d: tiff(d / "a.tif", zlib.compress(bytes(8 * 16)), 16, 16, 8, t259=8),
        lambda d: tiff(d / "a.tif", packed_bits(8), 16, 16, 8, t259=32773),
        lambda d: half(save(d / "a.jpg", photo(99, 99))),
        lambda d: half(save(d / "a.jpg", photo(99, 99), progressive=True)),
        lambda d: half(save(d / "a.webp", photo(99, 99))),
        lambda d: half(save(d / "a.bmp", photo(99, 99))),
        lambda d: half(save(d / "a.gif", photo(99, 99, 1))),
        lambda d: half(save(d / "a.ppm", photo(99, 99))),
        lambda d: written(d / "a.pgm", b"P2 4 4 255\n" + b"7 " * 9),
    ],
)
def test_every_decoder_says_that_a_file_is_short(tmp_path: Path, make) -> None:
    with pytest.raises(ImageFileError, match=r"a\.\w+: cannot be read as an image: \w"):
        read_picture(make(tmp_path))


def half(path: Path) -> Path:
    whole = path.read_bytes()
    return written(path, whole[: len(whole) // 2])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"subsampling": 2}]
)
def test_a_jpeg_that_ends_early_is_truncated(tmp_path: Path, options: dict, channels: int) -> None:
    """Pillow accepts it if an end marker follows, and its last pixels are grey."""
    path = save(tmp_path / "a.jpg", photo(99, 80, channels), **options)
    read_picture(path)
    whole = path.read_bytes()
    written(path, whole + b"trailing bytes")  # as editors of photos leave them
    read_picture(path)
    for missing in (9,) if "progressive" in options else (9, 99, len(whole) // 3):
        written(path, whole[:-missing].rstrip(b"\xff") + b"\xff\xd9")
        with pytest.raises(ImageFileError, match="it is truncated"):
            read_picture(path)


@pytest.mark.parametrize("name", ["a.png", "a.eps"])
def test_only_the_formats_that_are_meant_are_opened(tmp_path: Path, monkeypatch, name: str) -> None:
    """Pillow hands an EPS file to ghostscript, whatever its suffix."""
    path = written(
        tmp_path / name, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    )
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("started"))
    with pytest.raises(ImageFileError, match="not PNG, JPEG, TIFF, WebP, BMP, PNM or GIF"):
        read_picture(path)


@pytest.mark.parametrize(
    "error", [KeyError("x"), IndexError(), RuntimeError("two\nlines"), MemoryError()]
)
def test_whatever_a_decoder_raises_is_the_files_error(tmp_path, monkeypatch, error) -> None:
    def raises(*_: object) -> None:
        raise error

    path = save(tmp_path / "a.png", photo())
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", raises)
    with pytest.raises(ImageFileError, match=r"a\.png: cannot be read as an image: .") as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)


def animated(path: Path) -> Path:
    frames = [Image.fromarray(photo(seed=s)).convert("P") for s in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda d: d / "none.png", "no such file"),
        (lambda d: d, "is a folder"),
        (lambda d: written(d / "a.png", b""), "the file is empty"),
        (lambda d: written(d / "a.png", b"not a picture"), "cannot be read as an image"),
        (lambda d: truncated(d / "a.png"), "cannot be read as an image"),
        (lambda d: animated(d / "a.gif"), "3 frames; extract one"),
        (lambda d: save(d / "a.tif", photo(channels=1).astype(np.float32)), "colour mode F"),
        (lambda d: save(d / "a.tif", photo(channels=1).astype(np.int32)), "colour mode I"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path: Path, make, says: str) -> None:
    path = make(tmp_path)
    with pytest.raises(ImageFileError, match=says) as caught:
        read_picture(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cmyk_is_refused(tmp_path: Path) -> None:
    Image.fromarray(photo()).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(ImageFileError, match="colour mode CMYK"):
        read_picture(tmp_path / "a.jpg")


def test_formats_that_would_lose_something_are_refused(tmp_path: Path) -> None:
    grey = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ImageFileError, match="JPEG keeps no transparency"):
        output_format(tmp_path / "a.jpg", Picture(grey, alpha=grey))
    with pytest.raises(ImageFileError, match="WEBP keeps no 16-bit grey"):
        output_format(tmp_path / "a.webp", Picture(grey, bits=16))
    with pytest.raises(ImageFileError, match=r"cannot write the suffix '\.xyz'; known are \.png"):
        output_format(tmp_path / "a.xyz", Picture(grey))


def test_values_out_of_range_are_clipped_not_wrapped(tmp_path: Path) -> None:
    color = torch.tensor([-0.5, 1.5, 0.5]).view(1, 1, 1, 3)
    assert np.asarray(round_trip(Picture(color), tmp_path, "8.png")).tolist() == [[0, 255, 128]]
    deep = np.asarray(round_trip(Picture(color, bits=16), tmp_path, "16.png"))
    assert deep.tolist() == [[0, 65535, 32768]]


def fail_half_way(path: Path) -> None:
    try:
        with output_file(path, overwrite=True) as file:
            file.write(b"half")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass


def test_a_failed_block_leaves_nothing(tmp_path: Path) -> None:
    fail_half_way(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "a.png", b"old")
    with (
        pytest.raises(ImageFileError, match="exists; pass --overwrite"),
        output_file(path, overwrite=False),
    ):
        pytest.fail("the block was entered")
    fail_half_way(path)
    assert path.read_bytes() == b"old"
    with output_file(path, overwrite=True) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_found_at_once(tmp_path: Path) -> None:
    with (
        pytest.raises(ImageFileError, match="cannot be written: No such file or directory"),
        output_file(tmp_path / "none" / "a.png", overwrite=False),
    ):
        pytest.fail("the block was entered")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_dangling_link_is_followed_only_with_overwrite(tmp_path: Path, overwrite: bool) -> None:
    link, target = tmp_path / "a.png", tmp_path / "elsewhere.png"
    link.symlink_to(target)
    if overwrite:
        with output_file(link, overwrite=True) as file:
            file.write(b"new")
        assert target.read_bytes() == b"new"
        assert link.is_symlink()
        return
    with (
        pytest.raises(ImageFileError, match=r"is a link to .*elsewhere\.png; pass --overwrite"),
        output_file(link, overwrite=False),
    ):
        pytest.fail("the block was entered")
    assert not target.exists()


@pytest.mark.parametrize("hard_links", [True, False])
def test_one_of_several_writers_of_a_new_file_succeeds(
    tmp_path: Path, monkeypatch, hard_links: bool
) -> None:
    def refused(*_: object) -> None:
        raise OSError("not on this file system")

    if not hard_links:
        monkeypatch.setattr("os.link", refused)

    def late_and_early() -> None:
        with output_file(path, overwrite=False) as late:
            late.write(b"late")
            with output_file(path, overwrite=False) as early:  # the name is still free
                early.write(b"early")

    path = tmp_path / "a.png"
    with pytest.raises(ImageFileError, match="exists; pass --overwrite"):
        late_and_early()
    assert path.read_bytes() == b"early"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_as_long_as_the_system_allows_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".png")
    with output_file(path, overwrite=False) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_read_image_is_the_colours_of_the_picture(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", photo(channels=4))
    assert torch.equal(read_image(str(path)), read_picture(path).color)
