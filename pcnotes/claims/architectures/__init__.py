"""Claims of the chapter on architectures: what is shared, batched, bent, coarser."""
