"""What is sporco's own; the laws that ADMM shares with the other solvers are in test_ista.py."""

import subprocess
import sys

import pytest
import torch

from csc import admm, fista, lam_max, objective, random_dictionary


def test_one_by_one_atoms(seeded: torch.Generator) -> None:
    """sporco's NoBndryCross would zero every code of a 1×1 dictionary."""
    x = torch.randn(1, 2, 5, 6, generator=seeded, dtype=torch.float64)
    D = torch.randn(3, 2, 1, 1, generator=seeded, dtype=torch.float64)
    lam = 0.3 * lam_max(x, D)
    a, b = (solve(x, D, lam, tol=1e-8, max_iter=20_000) for solve in (admm, fista))
    assert a.codes.any()
    torch.testing.assert_close(a.objective, b.objective, rtol=1e-7, atol=0)


@pytest.mark.parametrize("k", [(1, 4), (4, 1)])
def test_atoms_of_one_pixel_along_an_axis(k: tuple[int, int], seeded: torch.Generator) -> None:
    """sporco's NoBndryCross would zero every code along that axis."""
    x = torch.randn(2, 2, 6, 7, generator=seeded, dtype=torch.float64)
    D = random_dictionary(3, 2, k, generator=seeded, dtype=torch.float64)
    mask = torch.rand(1, 1, 6, 7, generator=seeded) < 0.8
    for known in (None, mask):
        lam = 0.3 * lam_max(x, D, mask=known)
        a, b = (solve(x, D, lam, mask=known, tol=1e-7) for solve in (admm, fista))
        assert a.converged
        torch.testing.assert_close(a.objective, b.objective, rtol=1e-6, atol=0)


def test_codes_agree_where_the_optimum_is_unique(seeded: torch.Generator) -> None:
    """One atom of full column rank: the codes themselves are those of FISTA."""
    x = torch.randn(1, 1, 10, 9, generator=seeded, dtype=torch.float64)
    D = torch.tensor([[[[1.0, 0.3], [0.2, 0.1]]]], dtype=torch.float64)
    a, b = (solve(x, D, 0.2, tol=1e-10, max_iter=5000) for solve in (admm, fista))
    torch.testing.assert_close(a.codes, b.codes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_the_first_step_from_the_optimum_stays_there(masked: bool, seeded: torch.Generator) -> None:
    """A start sets the multipliers too, those of the known pixels included."""
    x = torch.rand(1, 1, 12, 12, generator=seeded, dtype=torch.float64)
    D = random_dictionary(4, 1, 3, generator=seeded, dtype=torch.float64)
    mask = torch.rand(x.shape, generator=seeded) < 0.8 if masked else None
    lam = 0.2 * lam_max(x, D, mask=mask)
    best = fista(x, D, lam, mask=mask, tol=1e-12)
    heard: list[torch.Tensor] = []
    admm(
        x, D, lam, mask=mask, start=best.codes, max_iter=3, tol=0.0,
        on_step=lambda k, z: heard.append(objective(x, D, z, lam, mask=mask)),
    )  # fmt: skip
    for value in heard:
        torch.testing.assert_close(value, best.objective, rtol=1e-9, atol=0)


def test_the_run_is_the_same_at_any_scale(seeded: torch.Generator) -> None:
    x = torch.rand(1, 1, 16, 16, generator=seeded, dtype=torch.float64)
    D = random_dictionary(4, 1, 3, generator=seeded, dtype=torch.float64)
    lam, found = 0.1 * lam_max(x, D), admm(x, D, 0.1 * lam_max(x, D))
    assert found.converged
    for scale in (2.0**-20, 2.0**8, 2.0**20):
        other = admm(scale * x, D, scale * lam)
        assert other.iterations == found.iterations
        torch.testing.assert_close(other.codes, scale * found.codes, rtol=1e-9, atol=0)
        other = admm(x, scale * D, scale * lam)
        torch.testing.assert_close(other.codes, found.codes / scale, rtol=1e-9, atol=0)


@pytest.mark.parametrize("lam", [0.0, 1e-12])
def test_almost_no_weight_does_not_diverge(lam: float, seeded: torch.Generator) -> None:
    x = torch.rand(1, 1, 12, 12, generator=seeded, dtype=torch.float64)
    D = random_dictionary(4, 1, 3, generator=seeded, dtype=torch.float64)
    heard: list[float] = []
    found = admm(
        x, D, lam, max_iter=1000, on_step=lambda k, z: heard.append(float(objective(x, D, z, lam)))
    )
    assert max(heard[10:]) <= heard[0]
    assert float(found.objective) < 0.1 * heard[0]


@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_weights_that_differ_a_hundredfold(factor: float, seeded: torch.Generator) -> None:
    x = torch.rand(1, 1, 16, 16, generator=seeded, dtype=torch.float64)
    D = random_dictionary(4, 1, 3, generator=seeded, dtype=torch.float64)
    lam = 0.1 * lam_max(x, D) * torch.tensor([factor, 1.0, 1.0, 1.0], dtype=torch.float64)
    assert admm(x, D, lam, max_iter=2000).converged


def test_other_dtypes_are_refused() -> None:
    x = torch.ones(1, 1, 4, 4, dtype=torch.bfloat16)
    with pytest.raises(TypeError, match="float32 or float64, got torch.bfloat16"):
        admm(x, x[:, :, :2, :2], 0.1)


def test_libraries_are_imported_only_where_used() -> None:
    """And without sporco and what it needs all modules import; its users say what to install."""
    code = """
import importlib, pkgutil, sys
import csc, crnet, baselines
heavy = {"numba", "sporco", "matplotlib", "lightning", "pyfftw", "sklearn", "scipy"}
print(sorted(heavy & set(sys.modules)))
sys.modules.update(dict.fromkeys(("sporco", "pyfftw", "imageio", "future")))
for package in (csc, crnet, baselines):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if "training" not in module.name:  # imports Lightning, which takes seconds
            importlib.import_module(module.name)
import torch
x, D = torch.rand(1, 1, 8, 8), csc.random_dictionary(2, 1, 3)
csc.ista(x, D, 0.1)
for use in (csc.admm, csc.learning.sporco.sporco_dictionary):
    try:
        use(x.split(1) if use is not csc.admm else x, D, 0.1)
    except ImportError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = run.stdout.splitlines()
    assert told[0] == "[]"
    says = "needs sporco, which cannot be imported; run: pip install sporco"
    assert told[1].startswith(f"ADMM {says}")
    assert told[2].startswith(f"sporco_dictionary {says}")
