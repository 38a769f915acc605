"""The compiled kernels of the CPU solvers, and their threads: the only numba of the library."""
