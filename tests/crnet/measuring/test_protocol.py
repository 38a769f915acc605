from pathlib import Path

import pytest
import torch

from baselines import bicubic
from crnet.errors import DataError
from crnet.measuring.evaluate import evaluate, score
from crnet.measuring.protocol import TABLE_2, TABLE_3, Protocol, check_size
from tests.crnet.pictures import photo, save


@pytest.mark.parametrize("protocol", [TABLE_2, TABLE_3, Protocol(shave=0)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_an_image_is_refused_exactly_where_it_cannot_be_measured(
    protocol: Protocol, scale: int
) -> None:
    channels = 3 if protocol.rgb else 1

    def system(x: torch.Tensor, scale: int) -> torch.Tensor:
        return bicubic(x, scale)

    for side in range(8, 25):
        x = torch.zeros(1, channels, side, 40, dtype=torch.uint8)
        try:
            check_size(x, scale, protocol)
        except ValueError:
            with pytest.raises(ValueError, match="11x11"):
                score(x, scale, system, protocol)
        else:
            score(x, scale, system, protocol)


def test_table_2_is_on_y_and_table_3_on_rgb() -> None:
    assert (TABLE_2.rgb, TABLE_2.clip, TABLE_2.edges) == (False, (16, 235), "symmetric")
    assert (TABLE_3.rgb, TABLE_3.clip, TABLE_3.edges) == (True, None, "replicate")


def test_a_small_image_is_named_before_any_is_measured(tmp_path: Path) -> None:
    for name, side in (("a", 60), ("b", 60), ("c", 18)):
        (tmp_path / "mine").mkdir(exist_ok=True)
        save(tmp_path / "mine" / f"{name}.png", photo(side, side))

    def never(*_: object) -> torch.Tensor:
        pytest.fail("measured")

    with pytest.raises(DataError, match=r"c\.png, x4: SSIM needs .* 18x18 pixels leaves 8x8; rem"):
        evaluate({"spy": never}, tmp_path, ["mine"], [2, 4])
    assert len(evaluate({"bicubic": bicubic}, tmp_path, ["mine"], [2])) == 1
