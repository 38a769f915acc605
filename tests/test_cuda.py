"""Laws of a GPU: every tensor path gives the CPU's results there, and reads few numbers back."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import crnet
import csc
from crnet import networks, precision
from tests.crnet.test_sparse import net_a, net_b

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
CUDA = torch.device("cuda")
SMALL = {"n0": 8, "m0": 12, "recursions": 2}
NETS = {
    "CRNetA": SMALL,
    "CRNetB": {**SMALL, "border": 2},
    "VDSR": {"depth": 3, "maps": 8},
    "EDSR": {"scale": 2, "blocks": 1, "maps": 8},
}


@pytest.fixture(autouse=True)
def exact():
    """Convolve in float32, not in TF32."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem() -> tuple[Tensor, Tensor, float]:
    g = torch.Generator().manual_seed(1)
    D = csc.random_dictionary(6, 1, 5, generator=g, dtype=torch.float64)
    x = rand(2, 1, 20, 18)
    return x, D, 0.2 * csc.lam_max(x, D)


def same(there: Tensor, here: Tensor, tol: float = 1e-9) -> None:
    assert there.device.type == CUDA.type
    torch.testing.assert_close(there.cpu(), here, rtol=tol, atol=tol)


def network(name: str) -> networks.Network:
    if name in ("sparse a", "sparse b"):
        return (net_a() if name == "sparse a" else net_b()).double()
    return networks.build(name, NETS[name]).eval().to(torch.float64)


@pytest.mark.parametrize("solver", [csc.ista, csc.fista, csc.coordinate_descent, csc.admm])
@pytest.mark.parametrize("options", ["", "nonneg", "mask"])
def test_solvers(solver: csc.Solver, options: str) -> None:
    x, D, lam = problem()
    mask = rand(2, 1, 20, 18, seed=2) < 0.8 if options == "mask" else None
    nonneg = options == "nonneg"
    here = solver(x, D, lam, nonneg=nonneg, mask=mask, tol=1e-7, max_iter=3000)
    on = None if mask is None else mask.to(CUDA)
    there = solver(x.to(CUDA), D.to(CUDA), lam, nonneg=nonneg, mask=on, tol=1e-7, max_iter=3000)
    assert there.codes.device.type == CUDA.type
    same(there.objective, here.objective, 1e-6)
    gap = csc.duality_gap(x, D, there.codes.cpu(), lam, nonneg=nonneg, mask=mask)
    assert bool((gap <= there.gap.cpu() * (1 + 1e-3) + 1e-9).all())


@pytest.mark.parametrize(
    "quantity",
    [
        lambda x, D, lam: csc.synthesis(csc.adjoint(x, D), D),
        lambda x, D, lam: csc.gram(D),
        lambda x, D, lam: torch.as_tensor(csc.lam_max(x, D), device=x.device),
        lambda x, D, lam: csc.gradient(x, D, csc.adjoint(x, D)),
        lambda x, D, lam: csc.objective(x, D, csc.adjoint(x, D), lam),
        lambda x, D, lam: csc.duality_gap(x, D, csc.adjoint(x, D), lam),
        lambda x, D, lam: csc.soft_threshold(x, lam),
        lambda x, D, lam: csc.tikhonov_filter(x)[1],
        lambda x, D, lam: csc.CISTA(csc.unfold(D, lam, 9.0), 3).to(x.device)(x),
    ],
)
def test_operators(quantity: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    x, D, lam = problem()
    with torch.no_grad():
        same(quantity(x.to(CUDA), D.to(CUDA), lam), quantity(x, D, lam))


def test_learning_and_gradients() -> None:
    x, D, lam = problem()
    here, there = (
        csc.learn_dictionary(x.to(d), D.to(d), lam, passes=2,
                             generator=torch.Generator().manual_seed(0)).dictionary
        for d in ("cpu", CUDA)
    )  # fmt: skip
    same(there, here, 1e-6)
    slopes = []
    for d in ("cpu", CUDA):
        atoms = D.to(d).requires_grad_()
        csc.sparse_code(x.to(d), atoms, lam, tol=1e-9).square().sum().backward()
        slopes.append(atoms.grad)
    same(slopes[1], slopes[0], 1e-4)


def test_certificates() -> None:
    S = 0.05 * rand(5, 5, 3, 3)
    here, there = (csc.contraction.certify(S.to(d)) for d in ("cpu", CUDA))
    assert vars(there) == pytest.approx(vars(here), rel=1e-9)
    net, x = net_a().double(), rand(1, 1, 12, 10)
    here = net.certify(x)
    there = net.to(CUDA).certify(x.to(CUDA))
    for a, b in zip(here, there, strict=True):
        if isinstance(a, Tensor):
            same(b, a, 1e-6)


@pytest.mark.parametrize("name", [*NETS, "sparse a", "sparse b"])
@torch.no_grad()
def test_networks_and_tiles(name: str) -> None:
    net = network(name)
    x = rand(1, 3 if net.rgb else 1, 30, 26)
    here = crnet.Upscaler(net)(x, 2)
    upscale = crnet.Upscaler(net.to(CUDA))
    same(upscale(x, 2), here)
    same(crnet.Upscaler(net, memory_mib=0.01)(x, 2), here)
    same(crnet.Ensemble(upscale)(x, 2), crnet.Ensemble(crnet.Upscaler(network(name)))(x, 2), 1e-2)


def test_the_precision_is_measured_on_the_gpu() -> None:
    exact, low = precision.seconds("cuda")
    assert min(exact, low) > 0
    if torch.cuda.get_device_capability() >= (8, 0):
        assert precision.fastest("cuda") == "bfloat16"


def waits(run: Callable[[], object]) -> int:
    """How often torch says that it waits for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(w.message) for w in told)


@torch.no_grad()
def test_a_network_does_not_wait_for_the_gpu() -> None:
    net, x = networks.build("CRNetB", NETS["CRNetB"]).eval().to(CUDA), rand(1, 3, 20, 20)
    on = x.float().to(CUDA)
    networks.apply(net, on, 2)  # the first call chooses kernels
    assert waits(lambda: networks.apply(net, on, 2)) == 0


@pytest.mark.parametrize("solver", [csc.ista, csc.fista])
def test_steps_of_a_solver_do_not_wait_for_the_gpu(solver: csc.Solver) -> None:
    x, D, lam = problem()
    x, D = x.to(CUDA), D.to(CUDA)

    def run(steps: int) -> Callable[[], object]:
        return lambda: solver(x, D, lam, max_iter=steps, tol=0.0)

    run(20)()
    assert waits(run(60)) == waits(run(20))


def test_modules_move_as_a_whole() -> None:
    for name in (*NETS, "sparse a", "sparse b"):
        net = network(name)
        assert isinstance(net, nn.Module)
        held = [*net.to(CUDA).parameters(), *net.buffers()]
        assert all(t.device.type == CUDA.type for t in held)
