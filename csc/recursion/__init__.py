"""Recursions unfolded from ISTA: the kernels W and S, the trainable block, and its analysis."""
