"""What `make` runs: the pipeline from notebooks to pages, and its upkeep."""
