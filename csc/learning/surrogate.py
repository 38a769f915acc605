"""The surrogate of dictionary learning: sums over all codes, and the exact minimiser over atoms.

With the codes z of images x held fixed, the squared error is a quadratic in D:

    Σ ½‖x − D z‖² = f(D) + const,       f(D) = ½⟨D, A * D⟩ − ⟨B, D⟩,

    A_mn(s) = Σ_p z_m(p) z_n(p+s),      B_m = z_m ⋆ x,      (A * D)_m = Σ_n A_mn * d_n,

summed over images, with shifts s below kh and kw, and A * D taken on the window of an atom.  This
is exact, because every atom lies within its image.  Codes are mostly zero, so A is summed over
pairs of non-zero codes closer than an atom.  A * D is computed in the Fourier domain at sides 2kh−1
and 2kw−1.

Accelerated projected gradients minimise f over atoms in the unit ball, with a step per atom.  They
stop when a Frank-Wolfe gap certifies the result:

    f(D) − f* ≤ ⟨∇f, D⟩ + Σ_m ‖∇_m f‖.

References
----------
Mairal, Bach, Ponce, Sapiro, "Online learning for matrix factorization and sparse coding", JMLR 11,
2010: the surrogate, there for patches and with a pass of block coordinate descent.  Liu,
Garcia-Cardona, Wohlberg, Yin, "First- and second-order methods for online convolutional dictionary
learning", SIAM J. Imaging Sci. 11(2), 2018: the same for convolution, on dense codes.  Beck,
Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems", SIAM J.
Imaging Sci. 2(1), 2009.  O'Donoghue, Candès, "Adaptive restart for accelerated gradient schemes",
Found. Comput. Math. 15, 2015.  Jaggi, "Revisiting Frank-Wolfe: projection-free sparse convex
optimization", ICML 2013: the gap.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from csc.acceleration import momentum
from csc.compiled.threads import one_torch_thread

# A gap of 1e-3 takes about ten steps.  The limit ends runs whose gap stays open by rounding.
MOST_STEPS = 1000


def correlations(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return A_mn(s) = Σ_p z_m(p) z_n(p+s) and B_m = z_m ⋆ x of one image, in float64.

    Without checks.

    Parameters
    ----------
    x : Tensor, shape (C, H, W)
        Image.
    z : Tensor, shape (M, H-kh+1, W-kw+1)
        Codes.

    Returns
    -------
    A : Tensor, shape (M, M, 2kh-1, 2kw-1)
        The shift s = 0 is at the centre.
    B : Tensor, shape (M, C, kh, kw)

    Examples
    --------
    >>> import torch
    >>> A, B = correlations(torch.ones(1, 2, 3), torch.tensor([[[2.0, 3.0]]]))
    >>> A[0, 0, 1], B[0, 0, 0]  # 2·3, 2² + 3², 3·2 in the middle row; 2·1 + 3·1
    (tensor([ 6., 13.,  6.], dtype=torch.float64), tensor([5., 5.], dtype=torch.float64))
    """
    atoms = (x.shape[1] - z.shape[1] + 1, x.shape[2] - z.shape[2] + 1)
    sums = Correlations((z.shape[0], x.shape[0], *atoms))
    places = z.nonzero()
    sums.add(x, places, z[tuple(places.T)])
    return sums.A(), sums.B


class Correlations:
    """A and B of several images, added one by one from the non-zero codes of each.

    Parameters
    ----------
    shape : sequence of int
        Shape (M, C, kh, kw) of the dictionary.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        M, _, kh, kw = shape
        self._half = torch.zeros(M, M, 2 * kh - 1, 2 * kw - 1, dtype=torch.float64)
        self.B = torch.zeros(*shape, dtype=torch.float64)

    def add(self, x: Tensor, places: Tensor, values: Tensor) -> None:
        """Add an image (C, H, W): its codes are `values` (n,) at `places` (n, 3).

        A place is (atom, row, column).
        """
        from csc.compiled import correlations as compiled

        add_pairs: Callable[..., None] = compiled.correlate_codes
        kh, kw = self.B.shape[2:]
        h, w = x.shape[1] - kh + 1, x.shape[2] - kw + 1
        order = torch.argsort(places[:, 1] * w + places[:, 2], stable=True)
        m, p, q = places[order].T.contiguous()
        values = values[order].double()
        bounds = torch.searchsorted(p, torch.arange(h + 1))
        with one_torch_thread():  # which makes Ctrl-C safe
            add_pairs(*(t.numpy() for t in (m, p, q, values, bounds)), kh, kw, self._half.numpy())
        windows = x.unfold(1, kh, 1).unfold(2, kw, 1)[:, p, q].transpose(0, 1)  # (n, C, kh, kw)
        self.B.index_add_(0, m, values[:, None, None, None] * windows)

    def A(self) -> Tensor:
        """Return A, shape (M, M, 2kh-1, 2kw-1)."""
        # A pair of codes was added once; A has it at (m, n, s) and at (n, m, −s).
        return self._half.transpose(0, 1).flip(2, 3).add_(self._half)


def minimise_surrogate(A: Tensor, B: Tensor, D: Tensor, tol: float) -> Tensor:
    """Return argmin f(D) = ½⟨D, A * D⟩ − ⟨B, D⟩ over ‖d_m‖ ≤ 1, with f(D) − f* ≤ tol·|f(D)|.

    Without checks.  An atom whose A and B are zero does not move.

    Parameters
    ----------
    A : Tensor, shape (M, M, 2kh-1, 2kw-1), float64
    B : Tensor, shape (M, C, kh, kw), float64
    D : Tensor, shape (M, C, kh, kw), float64
        Dictionary to start from; its atoms lie within the unit ball.
    tol : float
        Relative gap at which to stop; at most `MOST_STEPS` steps are taken.

    Returns
    -------
    Tensor, shape (M, C, kh, kw), float64

    Examples
    --------
    >>> import torch
    >>> A, B = (torch.full((1, 1, 1, 1), v, dtype=torch.float64) for v in (4.0, 2.0))
    >>> minimise_surrogate(A, B, 0 * B, tol=1e-9).item()  # of 2d² − 2d
    0.5
    """
    spectrum = correlation_spectrum(A)
    step = 1 / _majorant(spectrum)
    g = apply_correlations(spectrum, D) - B
    previous, g_previous, t, beta = D, g, 1.0, 0.0
    for _ in range(MOST_STEPS):
        f = 0.5 * float((D * (g - B)).sum())
        gap = float((D * g).sum() + torch.linalg.vector_norm(g, dim=(1, 2, 3)).sum())
        if gap <= tol * abs(f):
            break
        # The gradient is affine, so extrapolating it gives the gradient at the new point for free.
        y, g_y = (torch.lerp(*pair, 1 + beta) for pair in ((previous, D), (g_previous, g)))
        new = project(y - step * g_y)
        if float(((y - new) * (new - D) / step).sum()) > 0:  # restart: the momentum raises f
            t = 1.0
        beta, t = momentum(t)
        previous, g_previous, D = D, g, new
        g = apply_correlations(spectrum, D) - B
    return D


def correlation_spectrum(A: Tensor) -> Tensor:
    """Return the Fourier coefficients (2kh-1, kw, M, M) of A, with the shift 0 at the origin.

    Row by row: A is the largest tensor of a run, and one more of its size is enough.
    """
    M, _, *sides = A.shape
    origin = (-(sides[0] // 2), -(sides[1] // 2))
    spectrum = torch.empty(sides[0], (sides[1] + 1) // 2, M, M, dtype=A.dtype.to_complex())
    for m, row in enumerate(A):
        spectrum[:, :, m] = torch.fft.rfft2(row.roll(origin, (1, 2))).permute(1, 2, 0)
    return spectrum


def apply_correlations(spectrum: Tensor, D: Tensor) -> Tensor:
    """Return A * D on the window of the atoms, free of wrap-around at sides 2kh−1 and 2kw−1."""
    kh, kw = D.shape[2:]
    size = (2 * kh - 1, 2 * kw - 1)
    product = spectrum @ torch.fft.rfft2(D, s=size).permute(2, 3, 0, 1)  # (2kh-1, kw, M, C)
    whole: Tensor = torch.fft.irfft2(product.permute(2, 3, 0, 1), s=size)
    return whole[..., :kh, :kw]


def _majorant(spectrum: Tensor) -> Tensor:
    """Return L (M, 1, 1, 1) with diag(L) ≽ A at all frequencies, by scaled diagonal dominance.

    L_m s_m ≥ Σ_n |A_mn| s_n suffices for any s > 0.  s_m = A_mm^-½ evens out unequal atoms.
    """
    s = spectrum.diagonal(dim1=2, dim2=3).abs().amax((0, 1)).rsqrt()  # (M,)
    s = torch.where(torch.isfinite(s), s, 1.0)
    L = torch.stack([(row.abs() @ s).amax(0) for row in spectrum]).amax(0) / s
    return torch.where(L > 0, L, 1.0)[:, None, None, None]


def project(D: Tensor) -> Tensor:
    """Project the atoms on the unit ball."""
    norm: Tensor = torch.linalg.vector_norm(D, dim=(1, 2, 3), keepdim=True)
    return D / norm.clamp(min=1)
