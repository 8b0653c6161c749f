"""What the closed forms are given: arrays, and graphs as mappings."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Parents = Mapping[str, Sequence[str]]
