"""Digits and images: small sets that ship with packages, full ones when asked for.

One call alone opens a connection: `images` with source="openml".
"""

from .loading import images
from .shipped import digits

__all__ = ["digits", "images"]
