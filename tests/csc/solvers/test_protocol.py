import inspect

import pytest

from csc import Solver, admm, coordinate_descent, fista, ista

PROTOCOL = list(inspect.signature(Solver.__call__).parameters.values())[1:]  # without self


@pytest.mark.parametrize("solve", [ista, fista, admm, coordinate_descent])
def test_every_solver_has_the_signature(solve: Solver) -> None:
    """Names, order, kinds, defaults and types; a solver's own options follow, with defaults."""
    parameters = list(inspect.signature(solve).parameters.values())
    assert parameters[: len(PROTOCOL)] == PROTOCOL
    for own in parameters[len(PROTOCOL) :]:
        assert own.kind is inspect.Parameter.KEYWORD_ONLY
        assert own.default is not inspect.Parameter.empty
    assert (
        inspect.signature(solve).return_annotation
        == inspect.signature(Solver.__call__).return_annotation
    )
