"""Choosing prototypes among the candidates: Algorithm 1 and Table 4's rivals.

A set filter is a file with a function of `RankedCandidates`, the number T wanted per
class and a seed; for each class it returns positions among the candidates in order of
selection, min(T, candidates) of them. Its name goes into `registry.FILTERS`.
"""
