"""Claims of the chapter on predictive coding: the energy, and what it sees."""
