"""Claims of the chapter on any graph: several path lengths, and how to mend them."""
