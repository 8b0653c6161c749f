"""Claims of the chapter on zero divergence: the leading edge of live inference."""
