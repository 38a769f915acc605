"""The compiled kernels of the CPU solvers, and their threads.  Only this package uses numba."""
