"""Claims of the chapter on cost: work, rounds, throughput, memory."""
