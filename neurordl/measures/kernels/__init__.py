"""Kernels: pairwise distances, inner products and ranks, computed fast."""
