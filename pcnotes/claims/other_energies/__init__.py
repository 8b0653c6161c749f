"""Claims of the chapter on other energies: which road survives which energy."""
