"""Kernels on disk: numba's cache, made safe, and what is told while a kernel compiles."""

# mypy: disable-error-code="no-untyped-call"
import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

from numba import njit
from numba.core.caching import FunctionCache

from csc.compiled.records import Atoms

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Function = TypeVar("Function", bound=Callable[..., object])
_log = logging.getLogger("csc")


def kernel(
    fastmath: bool | set[str] = False, *, inline: bool = False
) -> Callable[[Function], Function]:
    """Compile a function without the GIL, and cache it on disk for its types and the processor.

    The cache is beside the function's file or, where that folder is read-only, in the user's cache
    folder.  The environment variable ``NUMBA_CACHE_DIR`` names another.  Where none can be written,
    each process compiles for itself.  With `inline` it becomes part of the kernels that call it.
    """

    def compiled(function: Function) -> Function:
        dispatcher: Any = njit(nogil=True, fastmath=fastmath, forceinline=inline)(function)
        with suppress(RuntimeError):  # no folder can be written
            dispatcher._cache = _Cache(function)
        found: Function = dispatcher
        return found

    return compiled


class _Cache(FunctionCache):
    """numba's cache, which one process at a time reads or writes.

    A kernel's file gets the first free number.  Two processes that compile at once may choose the
    same number, and one would then load the kernel of the other.
    """

    def load_overload(self, sig: tuple[Any, ...], target_context: object) -> object:
        """Return the kernel of a signature, or None if it must be compiled."""
        found: object = None
        with _alone(self.cache_path):
            try:
                found = super().load_overload(sig, target_context)
            except (OSError, EOFError, UnpicklingError):  # a damaged file
                with suppress(OSError):
                    self.flush()
        if found is None:
            for one in sig:
                if getattr(one, "instance_class", None) is Atoms:
                    _tell(len(one.types[2].types[1]))  # the length of `Layout.k`
        return found

    def save_overload(self, sig: tuple[Any, ...], data: object) -> None:
        """Write a kernel; what cannot be written, as on a full disk, is compiled again."""
        with suppress(OSError), _alone(self.cache_path):
            super().save_overload(sig, data)


@functools.cache
def _tell(k: int) -> None:
    _log.info("compiling for %d×%d atoms, once; this takes some seconds", k, k)


@contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Wait until no other process is in this block, where the system can lock files."""
    with ExitStack() as stack:
        with suppress(OSError):
            file = stack.enter_context(Path(folder, "csc.lock").open("wb"))
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
