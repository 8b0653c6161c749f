"""Claims of the chapter on backpropagation: adjoints, multipliers, work and depth."""
