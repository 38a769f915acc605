"""Certificates hold for the arithmetic they are computed in: no autocast and no TF32 inside."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def full_precision(function: Function) -> Function:
    """Let a function of images x compute in their dtype, whatever the caller has switched on."""

    @functools.wraps(function)
    def run(x: Any, *arguments: Any, **options: Any) -> Any:
        device = x.device.type if isinstance(x, Tensor) else "cpu"
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(device, enabled=False))
            if device == "cuda":
                now = torch.backends.cudnn
                flags = now.flags(
                    enabled=now.enabled,
                    benchmark=now.benchmark,
                    deterministic=now.deterministic,
                    allow_tf32=False,
                )
                stack.enter_context(flags)
            return function(x, *arguments, **options)

    return cast(Function, run)
