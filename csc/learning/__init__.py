"""Convolutional dictionary learning."""
