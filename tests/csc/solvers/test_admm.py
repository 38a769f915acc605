"""What is sporco's own; the laws that ADMM shares with the other solvers are in test_ista.py."""

import subprocess
import sys

import pytest
import torch

from csc import admm, fista, lam_max


def test_one_by_one_atoms(seeded: torch.Generator) -> None:
    """sporco's NoBndryCross would zero every code of a 1×1 dictionary."""
    x = torch.randn(1, 2, 5, 6, generator=seeded, dtype=torch.float64)
    D = torch.randn(3, 2, 1, 1, generator=seeded, dtype=torch.float64)
    lam = 0.3 * lam_max(x, D)
    a, b = (solve(x, D, lam, tol=1e-8, max_iter=20_000) for solve in (admm, fista))
    assert a.codes.any()
    torch.testing.assert_close(a.objective, b.objective, rtol=1e-7, atol=0)


def test_codes_agree_where_the_optimum_is_unique(seeded: torch.Generator) -> None:
    """One atom of full column rank: the codes themselves are those of FISTA."""
    x = torch.randn(1, 1, 10, 9, generator=seeded, dtype=torch.float64)
    D = torch.tensor([[[[1.0, 0.3], [0.2, 0.1]]]], dtype=torch.float64)
    a, b = (solve(x, D, 0.2, tol=1e-10, max_iter=5000) for solve in (admm, fista))
    torch.testing.assert_close(a.codes, b.codes, rtol=1e-4, atol=1e-5)


def test_other_dtypes_are_refused() -> None:
    x = torch.ones(1, 1, 4, 4, dtype=torch.bfloat16)
    with pytest.raises(TypeError, match="float32 or float64, got torch.bfloat16"):
        admm(x, x[:, :, :2, :2], 0.1)


def test_libraries_are_imported_only_where_used() -> None:
    code = (
        "import sys, csc, crnet, baselines\n"
        "heavy = {'sporco', 'matplotlib', 'lightning', 'pyfftw', 'sklearn', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
