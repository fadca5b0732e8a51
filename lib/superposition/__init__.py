"""Knowledge in Superposition: the library under the executable book.

Data flows one way: facts and text, keys and moments, overlap, record, figure.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("knowledge-in-superposition")
except PackageNotFoundError:
    __version__ = "0+unknown"
