"""For nbval: the outputs that it compares have no progress bars in them."""

import os

os.environ["TQDM_DISABLE"] = "1"
