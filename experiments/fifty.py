"""Find the target values of the fifty edits of part I, in the unedited model.

python experiments/fifty.py smollm2 --out book/records/fifty-edits.json
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from superposition import records
from superposition.book import example
from superposition.data import facts
from superposition.editing import targets
from superposition.lm import models

#: Of a search: plain numbers, one an edit.
COLUMNS = ("loss", "first_loss", "steps", "probability")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    start = time.perf_counter()
    lm = models.load(arguments.model)
    layer = example.layer_of(lm)
    requests = example.requests()
    found = targets.search(lm, requests, layer.index, batch=example.BATCH)
    data = {
        "kind": "edits of part I",
        "model": records.header(lm),
        "layer": layer.index,
        "facts": {"source": "book", "sha256": facts.fingerprint("book"), "count": len(requests)},
        "edits": example.described(requests),
        "settings": targets.TargetSettings().as_dict(),
        "dtype": records.dtype(lm),
        "columns": {name: getattr(found, name).tolist() for name in COLUMNS},
        "seconds": round(time.perf_counter() - start, 1),
    }
    command = f"python experiments/fifty.py {arguments.model} --out {arguments.out}"
    data["provenance"] = records.provenance(command=command, device=lm.device)
    records.write(arguments.out, data, {"shifts": found.shifts.astype(np.float32)})
    print(f"{arguments.out}: {data['seconds']} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
