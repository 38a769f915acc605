"""Metadata survive from format to format, scaled where necessary."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from baselines import bicubic
from crnet.files import Picture, not_kept, output_file, output_format, read_picture, write_picture
from crnet.metadata import Metadata
from crnet.upscale import upscale_picture
from tests.crnet.pictures import opened, photo, save, tiff

EXIF_IFD, MODEL, ORIENTATION, EXPOSURE, FOCAL_X = 0x8769, 272, 274, 0x829A, 0xA20E
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" '
    b'dc:title="cat" exif:PixelXDimension="11"><tiff:ImageWidth>11</tiff:ImageWidth>'
    b"</rdf:Description></x:xmpmeta>"
)


def camera(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[MODEL], exif[ORIENTATION] = "Box", orientation
    exif[282], exif[283], exif[296] = 100.0, 50.0, 2
    exif[EXIF_IFD] = {EXPOSURE: 0.25, 0xA002: 11, 0xA003: 13, FOCAL_X: 1000.0}
    return exif


def enlarged(source: Path, target: Path, scale: int = 3) -> tuple[Image.Image, list[str]]:
    """Enlarge a file; return the new image and the names of what is lost."""
    picture = read_picture(source)
    format_name = output_format(target, picture, scale)
    result = upscale_picture(picture, scale, bicubic)
    with output_file(target, overwrite=False) as file:
        write_picture(result, file, format_name)
    return opened(target), not_kept(picture, format_name)


@pytest.mark.parametrize("source", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("target", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_exif_and_xmp_are_kept_upright_and_scaled(
    tmp_path: Path, source: str, target: str, orientation: int
) -> None:
    exif = camera(orientation)
    options: dict[str, object] = {"exif": exif, "xmp": XMP}
    if source == "png":
        options = {"exif": exif, "pnginfo": PngInfo(), "dpi": (100, 50)}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    elif source == "tif":
        exif[700] = XMP
        options = {"exif": exif.tobytes()}
    path = save(tmp_path / f"a.{source}", photo(), **options)
    image, lost = enlarged(path, tmp_path / f"b.{target}")
    assert lost == []
    resolution = (150.0, 300.0) if orientation == 6 else (300.0, 150.0)
    assert image.size == ((39, 33) if orientation == 6 else (33, 39))
    with Image.open(tmp_path / f"b.{target}") as again:
        tags = again.getexif()
        details = tags.get_ifd(EXIF_IFD)
    assert tags[MODEL] == "Box"
    assert tags.get(ORIENTATION, 1) == 1
    assert float(details[EXPOSURE]) == 0.25
    assert float(details[FOCAL_X]) == 3000
    assert not {0xA002, 0xA003} & set(details)
    assert (float(tags[282]), float(tags[283])) == pytest.approx(resolution, abs=0.05)
    if target != "webp":  # it has a resolution in EXIF only
        assert [float(d) for d in image.info["dpi"]] == pytest.approx(resolution, abs=0.05)
    xmp = image.info["xmp"]
    assert b'dc:title="cat"' in xmp
    assert not [word for word in (b"Orientation", b"PixelX", b"ImageWidth") if word in xmp]


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "bmp"])
def test_resolution_grows_with_the_scale(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / "a.png", photo(), dpi=(72, 72))
    image, lost = enlarged(path, tmp_path / f"b.{suffix}", 4)
    assert [float(d) for d in image.info["dpi"]] == pytest.approx((288, 288), abs=0.05)
    assert lost == []


def test_no_resolution_is_made_up(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[MODEL] = "Box"
    for name, options in (("a", {"exif": exif}), ("b", {}), ("c", {"dpi": (0, 0)})):
        path = save(tmp_path / f"{name}.jpg", photo(), **options)
        assert read_picture(path).metadata.dpi is None


def test_colour_chunks_of_a_png_are_kept(tmp_path: Path) -> None:
    info = PngInfo()
    info.add(b"gAMA", (100_000).to_bytes(4, "big"))
    info.add(b"cHRM", b"".join((k * 10_000).to_bytes(4, "big") for k in range(1, 9)))
    info.add_text("Title", "cat")
    path = save(tmp_path / "a.png", photo(), pnginfo=info)
    image, lost = enlarged(path, tmp_path / "b.png")
    assert lost == []
    assert image.info["gamma"] == 1
    assert image.info["chromaticity"] == pytest.approx([k / 10 for k in range(1, 9)])
    assert image.info["Title"] == "cat"
    _, lost = enlarged(path, tmp_path / "b.tif")
    assert lost == ["gamma or primaries of its colours", "texts (Title)"]


def test_srgb_needs_no_word(tmp_path: Path) -> None:
    info = PngInfo()
    info.add(b"sRGB", b"\1")
    path = save(tmp_path / "a.png", photo(), pnginfo=info)
    image, _ = enlarged(path, tmp_path / "b.png")
    assert image.info["srgb"] == 1
    assert enlarged(path, tmp_path / "b.jpg")[1] == []


def test_a_comment_is_kept_where_there_is_room(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", photo(), comment="miau")
    image, lost = enlarged(path, tmp_path / "b.png")
    assert (image.info["Comment"], lost) == ("miau", [])
    image, lost = enlarged(tmp_path / "b.png", tmp_path / "c.jpg")
    assert (image.info["comment"], lost) == (b"miau", [])
    assert enlarged(tmp_path / "b.png", tmp_path / "d.webp")[1] == ["texts (Comment)"]


def test_texts_are_not_taken_for_what_their_keywords_say(tmp_path: Path) -> None:
    """ImageMagick writes the keyword comment; Pillow has a field of that name for JPEG."""
    info, keywords = PngInfo(), ("comment", "dpi", "resolution", "aspect", "gamma", "photoshop")
    for keyword in keywords:
        info.add_text(keyword, "300 dpi")
    path = save(tmp_path / "a.png", photo(), pnginfo=info)
    assert read_picture(path).metadata == Metadata(text=tuple((k, "300 dpi") for k in keywords))
    enlarged(path, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.text == dict.fromkeys(keywords, "300 dpi")


@pytest.mark.parametrize("tag", [282, FOCAL_X])
def test_numbers_that_are_none_cost_no_pixel(tmp_path: Path, tag: int) -> None:
    exif = camera()
    if tag == FOCAL_X:
        exif[EXIF_IFD] = {FOCAL_X: "wide"}
    else:
        exif[tag] = 0.0
    image, lost = enlarged(save(tmp_path / "a.webp", photo(), exif=exif), tmp_path / "b.png")
    assert image.size == (33, 39)
    assert lost == (["damaged EXIF"] if tag == FOCAL_X else [])


def test_what_a_format_cannot_hold_is_told(tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.jpg", photo(), exif=camera(), xmp=XMP, dpi=(9, 9), icc_profile=b"x" * 200
    )
    assert enlarged(path, tmp_path / "b.ppm")[1] == [
        "resolution", "EXIF", "XMP", "the colour profile",
    ]  # fmt: skip
    assert enlarged(path, tmp_path / "b.bmp")[1] == ["EXIF", "XMP", "the colour profile"]
    long = save(tmp_path / "l.webp", photo(), xmp=XMP + b" " * 70_000 + b".")
    assert enlarged(long, tmp_path / "l.jpg")[1] == ["XMP"]


def test_what_is_left_out_at_reading_is_told(tmp_path: Path) -> None:
    first, second = (Image.fromarray(photo(16, 16, seed=s)) for s in (0, 1))
    first.save(tmp_path / "a.mpo", save_all=True, append_images=[second])
    assert read_picture(tmp_path / "a.mpo").metadata.not_kept == (
        "the further pictures of the file",
    )
    private = tiff(tmp_path / "a.tif", bytes(16), 4, 4, 8, t50000=3)
    assert read_picture(private).metadata.not_kept == ("EXIF or TIFF tags 50000",)
    wide = save(tmp_path / "w.png", photo())
    whole = wide.read_bytes()
    from tests.crnet.pictures import png_chunk

    ratio = png_chunk(b"pHYs", (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\0")
    wide.write_bytes(whole[:33] + ratio + whole[33:])
    assert read_picture(wide).metadata.not_kept == ("the aspect ratio of its pixels",)


def test_damaged_exif_costs_no_pixel(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", photo(), exif=b"Exif\0\0neither II nor MM")
    picture = read_picture(path)
    assert picture.metadata.not_kept == ("damaged EXIF",)
    assert picture.color.shape == (1, 3, 13, 11)


def test_a_plain_picture_says_nothing(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "tif", "webp", "bmp"):
        path = save(tmp_path / f"a.{suffix}", photo())
        assert not_kept(read_picture(path), "PPM") in ([], ["resolution"])
        assert read_picture(path).metadata.exif == b""


def test_metadata_is_written_by_every_format() -> None:
    """Also for a picture that does not come from a file."""
    picture = Picture(torch.zeros(1, 1, 2, 2), metadata=Metadata(dpi=(10.0, 10.0)))
    for name in ("PNG", "TIFF", "WEBP", "JPEG", "BMP", "PPM"):
        write_picture(picture, io.BytesIO(), name)
