import hashlib
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from csc.compiled import kernels
from csc.compiled.records import Active


def test_a_change_of_what_the_kernels_import_compiles_them_again() -> None:
    """numba caches on disk, and looks only at the file of a kernel to see whether it changed."""
    here = Path(kernels.__file__).parent
    sources = b"".join((here / name).read_bytes() for name in ("intrinsics.py", "records.py"))
    digest = hashlib.sha256(sources.replace(b"\r\n", b"\n")).hexdigest()[:12]
    assert digest == kernels.BUILT_FROM, f'write BUILT_FROM = "{digest}" in csc/compiled/kernels.py'


@given(st.integers(0, 2**16), st.booleans())
def test_relist_merges_by_row(seed: int, drop_zeros: bool) -> None:
    """Old and new coordinates, without zero codes if asked; what leaves loses its mark."""
    g = np.random.default_rng(seed)
    shape = (3, 6, 5)
    old = g.random(shape) < 0.2
    new = ~old & (g.random(shape) < 0.1)

    def sorted_list(which: np.ndarray) -> np.ndarray:
        rows, atoms, columns = np.nonzero(which.transpose(1, 0, 2))
        return np.stack([atoms, rows, columns]).astype(np.int32)

    at, found = sorted_list(old), sorted_list(new)
    values = g.integers(-1, 2, at.shape[1]).astype(float)
    in_list = old | new
    active = Active(*at, at[1].astype(np.int64), values, values, values)
    merged, kept = kernels.relist(active, found, drop_zeros, in_list)

    pairs = [*zip(at.T.tolist(), values, strict=True), *((c, 0.0) for c in found.T.tolist())]
    if drop_zeros:
        pairs = [pair for pair in pairs if pair[1] != 0 or pair[0] in found.T.tolist()]
    assert sorted(zip(merged.T.tolist(), kept, strict=True)) == sorted(pairs)
    assert (np.diff(merged[1]) >= 0).all()
    assert {tuple(c) for c in np.argwhere(in_list)} == {tuple(c) for c in merged.T}
