"""Claims of the chapter on fixed prediction: what arrives, when, in what order."""
