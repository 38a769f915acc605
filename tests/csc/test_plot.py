import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from csc import Kernels, analysis, plot, random_dictionary, synthesis, unfold
from csc.attribution import contributions, shares
from csc.html import percent
from csc.recursion.spectrum import eigenvalues, singular_values


@pytest.fixture(autouse=True)
def closed():
    yield
    plot.plt.close("all")


@pytest.fixture
def D(seeded: torch.Generator) -> torch.Tensor:
    return random_dictionary(7, 1, 3, generator=seeded)


@pytest.fixture
def z(seeded: torch.Generator) -> torch.Tensor:
    z = torch.randn(1, 7, 10, 12, generator=seeded)
    return z * (torch.rand(z.shape, generator=seeded) < 0.3)


def shown(axes) -> np.ndarray:
    """What the last image of some axes holds."""
    return np.asarray(axes.images[-1].get_array())


def panels(figure) -> list:
    return [axes for axes in figure.axes if axes.get_visible() and axes.images]


def test_atoms_lie_where_they_belong(D: torch.Tensor) -> None:
    axes = plot.atoms(D, columns=3, title="seven")
    sheet = shown(axes)
    assert sheet.shape == (3 * 4 - 1, 3 * 4 - 1)
    for m in range(7):
        top, left = 4 * (m // 3), 4 * (m % 3)
        atom = (D[m, 0] / D[m].abs().max()).numpy()
        np.testing.assert_allclose(sheet[top : top + 3, left : left + 3], atom, rtol=1e-6)
    assert np.ma.masked_invalid(sheet).mask[3].all()  # a gap between rows
    assert axes.images[0].get_clim() == (-1, 1)
    assert "7 atoms of 3×3 pixels" in axes.get_xlabel()
    assert axes.get_title() == "seven"


def test_atoms_of_other_sides_and_of_signals(seeded: torch.Generator) -> None:
    wide = random_dictionary(2, 1, (2, 3), generator=seeded)
    axes = plot.atoms(wide, columns=1)
    np.testing.assert_allclose(
        shown(axes)[3:], (wide[1, 0] / wide[1].abs().max()).numpy(), rtol=1e-6
    )
    assert "2 atoms of 2×3 pixels" in axes.get_xlabel()
    D = random_dictionary(3, 1, (1, 8), generator=seeded)
    axes = plot.atoms(D, columns=2)
    curves = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 8]
    for m, curve in enumerate(curves):
        atom = (D[m, 0, 0] / D[m].abs().max()).numpy()
        np.testing.assert_allclose((curve + m // 2) / 0.45, atom, rtol=1e-5, atol=1e-6)
    assert len(curves) == 3
    assert "3 atoms of 8 samples" in axes.get_xlabel()


def test_codes_of_a_signal_are_lines_at_the_centre_of_their_atoms() -> None:
    z = torch.zeros(1, 3, 1, 20)
    z[0, 1, 0, [4, 9]] = torch.tensor([2.0, -1.0])
    z[0, 0, 0, 7] = 0.5
    figure = plot.code_maps(z, torch.randn(1, 1, 1, 24), top=2)
    first, second = figure.axes
    (lines,) = first.collections
    ends = [segment.tolist() for segment in lines.get_segments()]
    assert ends == [[[6, 0], [6, 2]], [[11, 0], [11, -1]]]
    assert "atom 1: 86% of ‖z‖₁" in first.get_ylabel()
    assert len(second.collections[0].get_segments()) == 1
    assert len(first.lines[0].get_ydata()) == 24
    assert len(plot.code_maps(z, top=1).axes) == 1


def test_colour_atoms_are_drawn_around_grey(seeded: torch.Generator) -> None:
    D = random_dictionary(2, 3, 2, generator=seeded)
    D[1] = 0
    sheet = shown(plot.atoms(D, columns=2))
    atom = ((1 + D[0] / D[0].abs().max()) / 2).permute(1, 2, 0)
    np.testing.assert_allclose(sheet[:, :2], atom, rtol=1e-6)
    np.testing.assert_allclose(sheet[:, 3:], 0.5)


def test_what_is_passed_in_is_drawn_on_and_returned(D: torch.Tensor, z: torch.Tensor) -> None:
    S = unfold(D, 0.1, 9.0).S
    before = len(plot.plt.get_fignums())
    figure = plot.canvas(9, 3)
    for draw in (
        lambda axes: plot.atoms(D, ax=axes),
        lambda axes: plot.usage(z, ax=axes),
        lambda axes: plot.convergence({"a": ([0, 1], [1, 2])}, xlabel="k", ylabel="y", ax=axes),
        lambda axes: plot.spectrum(S, (4, 4), ax=axes),
        lambda axes: plot.monotone_spectrum(S, (4, 4), ax=axes),
    ):
        axes = figure.add_subplot()
        assert draw(axes) is axes
    assert len(plot.plt.get_fignums()) == before + 1


def test_code_maps_are_those_of_the_most_used_atoms(z: torch.Tensor) -> None:
    figure = plot.code_maps(z, top=4)
    order = analysis.usage(z).order[:4]
    for axes, m in zip(panels(figure), order, strict=True):
        np.testing.assert_allclose(shown(axes), z[0, m], rtol=1e-6)
        assert axes.get_title().startswith(f"atom {m}: ")
    low, high = panels(figure)[0].images[0].get_clim()
    assert low == -high < 0
    assert figure.axes[-1].get_ylabel() == "code z"


def test_codes_lie_at_the_centres_of_their_atoms(z: torch.Tensor) -> None:
    """Codes 10×12 of 5×5 atoms belong two pixels inside an image of 14×16."""
    figure = plot.code_maps(z.abs(), torch.rand(3, 14, 16), top=1)
    axes = panels(figure)[0]
    assert axes.images[0].get_extent() == [-0.5, 15.5, 13.5, -0.5]
    assert axes.images[1].get_extent() == [1.5, 13.5, 11.5, 1.5]
    assert axes.get_xlim() == (-0.5, 15.5)
    m = analysis.usage(z).order[0]
    opacity = axes.images[1].get_alpha()
    assert np.array_equal(opacity > 0, (z[0, m] != 0).numpy())
    assert axes.images[1].get_cmap().name == "magma"


def test_very_sparse_codes_are_drawn_thick() -> None:
    z = torch.zeros(1, 1, 12, 12)
    z[0, 0, 5, 5], z[0, 0, 5, 7] = -2, 1
    drawn = shown(panels(plot.code_maps(z))[0])
    expected = np.zeros((12, 12))
    expected[4:7, 6:9] = 1
    expected[4:7, 4:7] = -2
    assert np.array_equal(drawn, expected)


def test_a_density_below_one_percent_is_not_zero() -> None:
    z = torch.zeros(1, 2, 20, 20)
    z[0, 0, 3, 3] = 1  # 1 of 400
    z[0, 1] = 1e-3
    titles = [axes.get_title() for axes in panels(plot.code_maps(z))]
    assert titles == [
        "atom 0: 71% of ‖z‖₁\non at 0.25% of positions",
        "atom 1: 29% of ‖z‖₁\non at 100% of positions",
    ]
    assert [percent(p) for p in (0.0, 0.0004, 0.00996, 0.01, 0.256)] == [
        "0%", "0.04%", "1%", "1%", "26%"
    ]  # fmt: skip


def test_usage_is_ranked_in_percent(z: torch.Tensor) -> None:
    z[:, 2] = 0
    axes = plot.usage(z)
    heights = [bar.get_height() for bar in axes.patches]
    on = sorted((float((z[0, m] != 0).float().mean()) for m in range(7)), reverse=True)
    assert heights == pytest.approx([100 * v for v in on])
    assert axes.get_title().startswith("6 of 7 atoms used, entropy ")
    assert "%" in axes.get_ylabel()
    again = plot.usage(analysis.usage(z))
    assert [bar.get_height() for bar in again.patches] == pytest.approx(heights)


def test_curves_are_drawn_as_given_on_a_log_axis() -> None:
    curves = {"ISTA": ([0, 1, 2], [1.0, 0.1, 0.0]), "FISTA": ([0.0, 0.5], [2.0, 0.3])}
    axes = plot.convergence(curves, xlabel="seconds", ylabel="gap")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("seconds", "gap")
    assert axes.get_yscale() == "log"
    a, b = axes.lines
    np.testing.assert_array_equal(a.get_ydata(), [1.0, 0.1, np.nan])
    assert list(b.get_xdata()) == [0, 0.5]
    assert a.get_color() != b.get_color()
    assert a.get_marker() != b.get_marker()
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["ISTA", "FISTA"]


def test_spectra_are_ranges_over_the_frequencies(seeded: torch.Generator) -> None:
    S = torch.randn(4, 4, 3, 3, generator=seeded)
    for draw, values in (
        (plot.spectrum, singular_values(S, (5, 6)).flatten(0, 1)),
        (plot.monotone_spectrum, eigenvalues(S, (5, 6)).flatten(0, 1).flip(1)),
    ):
        axes = draw(S, (5, 6))
        np.testing.assert_allclose(axes.lines[0].get_ydata(), values.median(0).values)
        band = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert band.max() == pytest.approx(float(values.max()))
        assert band.min() == pytest.approx(float(values.min()))
        assert axes.get_xlabel() == "rank"
    assert plot.spectrum(S, (5, 6)).lines[1].get_ydata()[0] == 1


def test_contributions_are_ranked_signed_and_complete(D: torch.Tensor, z: torch.Tensor) -> None:
    parts, image = contributions(z, D), synthesis(z, D)
    figure = plot.attribution(parts, image, top=3)
    order = parts[0].flatten(1).norm(dim=1).argsort(descending=True).tolist()[:3]
    drawn = panels(figure)[:4]
    for axes, m in zip(drawn, order, strict=False):
        np.testing.assert_allclose(shown(axes), parts[0, m, 0], rtol=1e-5, atol=1e-7)
        assert axes.get_title() == f"atom {m}: {float(shares(parts)[0, m]):+.1%} of the sum"
    assert drawn[3].get_title().startswith("the other 4: ")
    np.testing.assert_allclose(sum(shown(axes) for axes in drawn), image[0, 0], atol=1e-5)
    low, high = drawn[0].images[1].get_clim()
    assert low == -high < 0
    assert drawn[0].images[1].get_cmap().name == "PuOr"


def test_a_region_chooses_the_atoms_and_is_outlined(D: torch.Tensor, z: torch.Tensor) -> None:
    parts = contributions(z, D)[0]
    region = torch.zeros(parts.shape[-2:], dtype=torch.bool)
    region[3:6, 4:9] = True
    figure = plot.attribution(parts, top=1, region=region)
    m = int((parts * region).flatten(1).norm(dim=1).argmax())
    assert panels(figure)[0].get_title().startswith(f"atom {m}: ")
    outline = np.vstack([p.vertices for p in panels(figure)[0].collections[0].get_paths()])
    assert (outline[:, 0].min(), outline[:, 0].max()) == (3.5, 8.5)


def test_images_side_by_side() -> None:
    grey, rgb = torch.rand(1, 1, 6, 8), 2 * torch.rand(3, 6, 8)
    figure = plot.images({"grey": grey, "colour": rgb}, title="two")
    a, b = panels(figure)
    np.testing.assert_allclose(shown(a), grey[0, 0], rtol=1e-6)
    np.testing.assert_allclose(shown(b), rgb.clamp(0, 1).permute(1, 2, 0), rtol=1e-6)
    assert a.images[0].get_clim() == (0, 1)
    assert [a.get_title(), b.get_title()] == ["grey", "colour"]
    assert figure.get_suptitle() == "two"


def test_crops_are_cut_and_framed() -> None:
    rgb = torch.rand(3, 40, 50)
    crops = [(0, 0, 10), (20, 30, 15)]
    figure = plot.images({"a": rgb, "b": 1 - rgb}, crops=crops)
    whole, *cut = panels(figure)
    frames = [(p.get_y(), p.get_x(), p.get_width()) for p in whole.patches]
    assert frames == crops
    assert [axes.get_title() for axes in cut] == ["a", "b", "", ""]
    np.testing.assert_allclose(shown(cut[3]), (1 - rgb)[:, 20:35, 30:45].permute(1, 2, 0))
    colors = [p.get_edgecolor() for p in whole.patches]
    assert [axes.spines["top"].get_edgecolor() for axes in cut] == [
        colors[0], colors[0], colors[1], colors[1]
    ]  # fmt: skip


def test_figures_are_of_notebook_width(z: torch.Tensor) -> None:
    for figure in (plot.code_maps(z), plot.images({"a": torch.rand(3, 9, 9)})):
        assert figure.get_figwidth() == 9


def test_a_notebooks_backend_is_kept_and_csc_needs_none() -> None:
    code = (
        "import sys, csc; print('matplotlib' in sys.modules); import csc.plot, matplotlib as m; "
        "csc.plot.canvas(1, 1); print(m.get_backend().lower())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MPLBACKEND": "svg"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "svg"]


IMAGE, KERNELS = (
    torch.rand(1, 3, 5, 5),
    Kernels(torch.ones(1, 1, 1, 1), torch.ones(2, 1, 1, 1), None),
)


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: plot.atoms(torch.ones(2, 4, 3, 3)), ValueError, "1 or 3 channels can be drawn"),
        (lambda: plot.atoms(torch.ones(2, 1, 3, 3), columns=0), ValueError, "columns must be ≥ 1"),
        (lambda: plot.code_maps(torch.ones(2, 3, 4, 4)), ValueError, "of one image"),
        (lambda: plot.code_maps(IMAGE, top=0), ValueError, "top must be ≥ 1, got 0"),
        (lambda: plot.code_maps(IMAGE.long()), TypeError, "floating-point"),
        (lambda: plot.convergence({}, xlabel="", ylabel=""), ValueError, "no curves"),
        (
            lambda: plot.convergence({"a": ([1], [])}, xlabel="", ylabel=""),
            ValueError,
            "'a' has 1 x values but 0 y values",
        ),
        (lambda: plot.spectrum(KERNELS.S, (4, 4)), ValueError, r"\(M, M, sh, sw\)"),
        (lambda: plot.attribution(IMAGE[0]), ValueError, r"\(M, C, H, W\)"),
        (lambda: plot.images({}), ValueError, "no images"),
        (lambda: plot.images({"a": torch.rand(2, 5, 5)}), ValueError, "1 or 3 channels, got 2"),
        (lambda: plot.images({"a": IMAGE}, crops=[(1, 1, 5)]), ValueError, "leaves the image"),
        (lambda: plot.images({"a": IMAGE}, crops=[(0, 0, 1)] * 5), ValueError, "at most 4 crops"),
    ],
)
def test_bad_input_is_named(call, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        call()
