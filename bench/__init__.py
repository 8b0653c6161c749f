"""Speed and memory of every rule against backpropagation: `python -m bench`.

models: what is trained. rules: what trains it, and the cost that is aimed at. clock:
time. memory: bytes. counting: matrix products, and the formulas they must obey.
peers: other packages. contest: all of these on one model. report, figure: the results.
"""
