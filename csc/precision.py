"""Solvers and bounds compute in the dtype of their images: autocast and TF32 are off inside."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar, cast

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., object])


def full_precision(function: Function) -> Function:
    """Let a function of images x compute in their dtype, whatever modes the caller has set."""

    @functools.wraps(function)
    def run(x: object, *arguments: object, **options: object) -> object:
        device = x.device.type if isinstance(x, Tensor) and not x.is_meta else "cpu"
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
