"""Knowledge in Superposition: the library under the executable book.

Data flows one way: facts and text, keys and moments, overlap, record, figure.
"""

import os
from importlib.metadata import PackageNotFoundError, version

# NumPy and SciPy each bring an OpenBLAS with threads of its own, which by default go on spinning for a while after
# every call, on the cores that the other's threads need. Read when an OpenBLAS is loaded; in powers of 2, in cycles.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")

try:
    __version__ = version("knowledge-in-superposition")
except PackageNotFoundError:
    __version__ = "0+unknown"
