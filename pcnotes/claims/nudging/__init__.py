"""Claims of the chapter on nudging: equilibria, and how far from backpropagation."""
