import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from csc import CISTA, Kernels, ista, unfold
from tests.laws import close
from tests.strategies import Problem, problems

# Some of the drawn problems have λ ≥ λ_max where z ≥ 0.
pytestmark = pytest.mark.filterwarnings("ignore:all codes are zero")

nonnegs = st.booleans()


def build(p: Problem, K: int, nonneg: bool = False, **options: int) -> CISTA:
    return CISTA(unfold(p.D, p.lam, p.L), K, nonneg=nonneg, **options)


@given(problems(), st.integers(0, 8), nonnegs)
def test_freshly_built_it_is_ista(p: Problem, K: int, nonneg: bool) -> None:
    net = build(p, K, nonneg)
    close(net(p.x), ista(p.x, p.D, p.lam, nonneg=nonneg, max_iter=K + 1, tol=0.0).codes, 1e-9)


@given(problems(odd=True), st.integers(0, 4))
def test_padding_keeps_the_size_of_the_image(p: Problem, K: int) -> None:
    down, across = p.D.shape[2] // 2, p.D.shape[3] // 2
    z = build(p, K, padding=(down, across))(p.x)
    assert z.shape[-2:] == p.x.shape[-2:]
    extended = F.pad(p.x, [across, across, down, down])
    close(z, build(p, K)(extended), 1e-12)  # the codes of the zero-extended image
    if down == across:
        close(z, build(p, K, padding=down)(p.x), 1e-15)


@given(problems(), st.integers(0, 5))
def test_codes_yields_every_recursion(p: Problem, K: int) -> None:
    net = build(p, K)
    zs = list(net.codes(p.x))
    assert len(zs) == K + 1
    assert torch.equal(zs[-1], net(p.x))
    for k, z in enumerate(zs):
        net.recursions = k
        assert torch.equal(net(p.x), z)  # any K at inference


def test_recursions_change_no_parameter() -> None:
    D = torch.ones(3, 2, 3, 3)
    shapes = [
        {name: tuple(v.shape) for name, v in CISTA(unfold(D, 0.1, 9.0), K).state_dict().items()}
        for K in (0, 1, 25)
    ]
    assert shapes[0] == shapes[1] == shapes[2]
    assert shapes[0] == {"W": (3, 2, 3, 3), "S": (3, 3, 5, 5), "theta": (3,)}


class CountConvolutions(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN204
        self.count += "convolution" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("K", [0, 1, 7])
def test_the_image_is_convolved_once(K: int) -> None:
    net = CISTA(unfold(torch.ones(2, 1, 3, 3), 0.1, 9.0), K)
    with CountConvolutions() as mode:
        net(torch.ones(1, 1, 6, 6))
    assert mode.count == 1 + K


@pytest.mark.parametrize(("B", "K"), [(1, 1), (1, 7), (3, 5), (8, 9), (10, 4)])
@pytest.mark.parametrize("threshold", [False, True])
def test_recomputing_changes_no_number(
    B: int, K: int, threshold: bool, seeded: torch.Generator
) -> None:
    """Codes and gradients, for any cut of batch and recursions; each code is computed twice."""
    draw = lambda *n: torch.randn(*n, generator=seeded, dtype=torch.float64)  # noqa: E731
    theta = 0.1 * draw(2).abs() if threshold else None
    kernels = Kernels(draw(2, 1, 3, 3), 0.3 * draw(2, 2, 3, 3), theta)
    x = draw(B, 1, 6, 5).requires_grad_()
    weight = draw(B, 2, 4, 3)
    values = []
    for recompute in (False, True):
        net = CISTA(kernels, K, nonneg=True, recompute=recompute)
        z = net(x)
        with CountConvolutions() as mode:
            grads = torch.autograd.grad((weight * z).sum(), [x, *net.parameters()])
        values.append([z, *grads])
        parts = -(-B // -(-B // 8))  # of the batch
        backward = 1 + (parts if recompute else 1) * K
        assert mode.count == backward + (parts * K if recompute else 0)
    for plain, recomputed in zip(*values, strict=True):
        close(recomputed, plain, 1e-12)
    with torch.no_grad():
        assert torch.equal(net(x), values[0][0])


@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("threshold", [False, True])
def test_gradients_reach_every_kernel_through_all_recursions(
    nonneg: bool, threshold: bool, seeded: torch.Generator
) -> None:
    """Against finite differences, for a 3×3 S as in the paper."""
    if not (nonneg or threshold):
        return
    draw = lambda *n: torch.randn(*n, generator=seeded, dtype=torch.float64)  # noqa: E731
    theta = draw(2).abs() * 0.1 if threshold else None
    net = CISTA(Kernels(draw(2, 1, 3, 3), 0.3 * draw(2, 2, 3, 3), theta), 3, nonneg=nonneg)
    x = draw(1, 1, 6, 5)
    names = [name for name, _ in net.named_parameters()]

    def call(*parameters: Tensor) -> Tensor:
        return torch.func.functional_call(net, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, tuple(net.parameters()))
    net(x).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0, name


def test_gradient_of_S_sees_more_than_the_last_recursion(seeded: torch.Generator) -> None:
    """One tensor for all recursions: its gradient is that of the unshared copies, summed."""
    draw = lambda *n: torch.randn(*n, generator=seeded, dtype=torch.float64)  # noqa: E731
    W, S, theta, x = draw(2, 1, 3, 3), 0.3 * draw(2, 2, 3, 3), torch.zeros(2), draw(1, 1, 6, 6)
    net = CISTA(Kernels(W, S, theta.double()), 3, nonneg=True)
    net(x).sum().backward()
    copies = [S.clone().requires_grad_() for _ in range(3)]
    u = torch.conv2d(x, W)
    z = u.relu()
    for own in copies:
        z = (u + torch.conv2d(z, own, padding=1)).relu()
    z.sum().backward()
    close(net.S.grad, sum(own.grad for own in copies), 1e-10)
    assert copies[0].grad.abs().sum() > 0


def test_threshold_is_kept_nonnegative() -> None:
    net = CISTA(unfold(torch.ones(1, 1, 2, 2), 0.4, 4.0), 2)
    with torch.no_grad():
        net.theta.fill_(-5.0)
    at_zero = CISTA(unfold(torch.ones(1, 1, 2, 2), 0.0, 4.0), 2)
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert torch.equal(net(x), at_zero(x))


@given(problems(batch=1))
def test_copies_are_independent(p: Problem) -> None:
    net = build(p, 3)
    before = net(p.x)
    twin = copy.deepcopy(net)
    other = build(p, 3)
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    assert torch.equal(twin(p.x), before)
    assert torch.equal(other(p.x), before)


def test_kernels_are_copied(seeded: torch.Generator) -> None:
    kernels = unfold(torch.randn(2, 1, 3, 3, generator=seeded), 0.1, 9.0)
    net = CISTA(kernels, 1)
    kernels.W.zero_()
    kernels.S.zero_()
    kernels.theta.fill_(9)
    assert net.W.abs().sum() > 0
    assert net.S.abs().sum() > 0
    assert net.theta.max() < 9


def test_bad_input_is_named() -> None:
    W, S = torch.ones(2, 1, 3, 3), torch.ones(2, 2, 3, 3)
    with pytest.raises(
        ValueError,
        match=r"S must have shape \(2, 2, sh, sw\) with sh and sw odd, got \(3, 3, 3, 3\)",
    ):
        CISTA(Kernels(W, torch.ones(3, 3, 3, 3), None), 1, nonneg=True)
    with pytest.raises(ValueError, match=r"sh and sw odd, got \(2, 2, 2, 2\)"):
        CISTA(Kernels(W, torch.ones(2, 2, 2, 2), None), 1, nonneg=True)
    with pytest.raises(TypeError, match="S is torch.float64"):
        CISTA(Kernels(W, S.double(), None), 1, nonneg=True)
    with pytest.raises(ValueError, match="W has 18 NaN"):
        CISTA(Kernels(W * torch.nan, S, None), 1, nonneg=True)
    with pytest.raises(ValueError, match="theta must be finite and ≥ 0"):
        CISTA(Kernels(W, S, -torch.ones(2)), 1)
    with pytest.raises(ValueError, match=r"an image of \(2, 5\) is smaller than an atom"):
        CISTA(Kernels(W, S, None), 1, nonneg=True)(torch.ones(1, 1, 2, 5))
    with pytest.raises(ValueError, match=r"one value per atom, shape \(2,\), .*got shape \(3,\)"):
        CISTA(Kernels(W, S, torch.ones(3)), 1)
    with pytest.raises(ValueError, match="make h the identity"):
        CISTA(Kernels(W, S, None), 1)
    with pytest.raises(ValueError, match="recursions must be ≥ 0, got -1"):
        CISTA(Kernels(W, S, None), -1, nonneg=True)
    with pytest.raises(ValueError, match="x has 3 channels but the block takes 1"):
        CISTA(Kernels(W, S, None), 1, nonneg=True)(torch.ones(1, 3, 5, 5))
