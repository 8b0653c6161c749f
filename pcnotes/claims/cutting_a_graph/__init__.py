"""Claims of the chapter on cuts: what is local, what does not depend on them."""
