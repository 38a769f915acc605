"""A folder of photos is split: a tenth is held out, and no photo is on both sides."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from crnet.data import find_images
from crnet.training.folder import MOST, on_own_photos
from crnet.training.recipe import Recipe

RECIPE = Recipe()


def folder(root: Path, count: int, side: int = 192) -> Path:
    root.mkdir()
    for i in range(count):
        Image.new("L", (side, side)).save(root / f"{i:03}.png")
    return root


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 45))
def test_a_tenth_is_held_out(tmp_path: Path, count: int) -> None:
    root = tmp_path / str(count)
    if not root.exists():
        folder(root, count)
    recipe = on_own_photos(RECIPE, root)
    trained = [p for name in recipe.sets for p in find_images(root / name, recipe.exclude)]
    held = [p for name in recipe.validation for p in find_images(root / name)]
    assert len(held) == (max(1, count // 10) if count > 1 else 0)
    assert sorted(p.name for p in trained + held) == [f"{i:03}.png" for i in range(count)]
    assert on_own_photos(recipe, root) == recipe  # as a resumed run reads it


def test_few_of_many_photos_are_held_out(tmp_path: Path) -> None:
    root = folder(tmp_path / "many", 230)
    held = on_own_photos(RECIPE, root).validation
    assert len(held) == MOST
    assert held[-1] > "200.png"  # spread over the folder


def test_small_and_damaged_photos_are_not_held_out(tmp_path: Path) -> None:
    root = folder(tmp_path / "small", 20, side=100)
    (root / "000.png").write_text("no")
    assert on_own_photos(RECIPE, root).validation == ()
    Image.new("L", (300, 200)).save(root / "007.png")
    assert on_own_photos(RECIPE, root).validation == ("007.png",)


def test_validation_may_be_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "mine", 20)
    recipe = on_own_photos(RECIPE, root, validation=False)
    assert (recipe.sets, recipe.validation) == ((".",), RECIPE.validation)
    assert recipe.exclude == RECIPE.exclude


def test_image_sets_are_left_alone(tmp_path: Path) -> None:
    for name in RECIPE.sets:
        folder(tmp_path / name, 2)
    assert on_own_photos(RECIPE, tmp_path) is RECIPE
    Image.new("L", (300, 200)).save(tmp_path / "a.png")
    assert on_own_photos(RECIPE, tmp_path) is RECIPE


@pytest.mark.parametrize("made", ["empty", "other"])
def test_a_folder_without_photos_changes_nothing(tmp_path: Path, made: str) -> None:
    root = tmp_path / "empty"
    root.mkdir()
    if made == "other":
        folder(root / "other", 2)
    assert on_own_photos(RECIPE, root) is RECIPE
