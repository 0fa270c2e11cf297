"""Quality of training images: the paper's robustness and Table 4's rivals.

A quality is a file with a function of `QualityInput` that returns [N] float64 exponents
e >= 0, where exp(-e) stands in for the robustness r; smaller is better. Its name goes
into `registry.QUALITIES`.
"""
