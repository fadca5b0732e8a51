"""Make the book's records again, each by the command that it names.

python experiments/make.py [NAME ...]
"""

from __future__ import annotations

import glob
import itertools
import shlex
import subprocess
import sys

COMMANDS = {
    "smollm2-128": (
        "python -m superposition measure --model smollm2 --facts book --limit 128 --text book --tokens 24576 "
        "--out _build/measurements/smollm2-128 --compact book/records/smollm2-128.json"
    ),
    "smollm2-400": (
        "python -m superposition measure --model smollm2 --facts book --limit 400 --text book --tokens 102400 "
        "--out _build/measurements/smollm2-400 --compact book/records/smollm2-400.json"
    ),
    "gemma3-400": (
        "python -m superposition measure --model gemma3 --facts book --limit 400 --text book --tokens 102400 "
        "--out _build/measurements/gemma3-400 --compact book/records/gemma3-400.json"
    ),
    "smollm2-convergence": (
        "python -m superposition sample --model smollm2 --tokens 130000 --seed 1 --out _build/calibration-seed1.jsonl"
        " && python experiments/convergence.py --more _build/calibration-seed1.jsonl "
        "--out book/records/smollm2-convergence.json"
    ),
    "gemma3-convergence": (
        "python experiments/convergence.py --model gemma3 --layers 0 3 7 10 13 17 "
        "--out book/records/gemma3-convergence.json"
    ),
    "toy-memory": "python experiments/toys.py memory --out book/records/toy-memory.json",
    "toy-autoencoders": "python experiments/toys.py autoencoders --out book/records/toy-autoencoders.json",
    "toy-transformer": "python experiments/grid.py grid --out book/records/toy-transformer.json",
    "smollm2-nulls": "python experiments/nulls.py smollm2 --out book/records/smollm2-nulls.json",
    "gemma3-nulls": "python experiments/nulls.py gemma3 --out book/records/gemma3-nulls.json",
    **{
        f"{model}-texts": (
            "python experiments/texts.py write _build/texts && "
            f"python experiments/texts.py measure {model} --texts book _build/texts/manual.jsonl "
            f"_build/texts/wikipedia.jsonl --out book/records/{model}-texts.json"
        )
        for model in ("smollm2", "gemma3")
    },
    "random-smollm2": "python experiments/untrained.py smollm2 --out book/records/random-smollm2.json",
    "pairs": "python experiments/pairs.py regressions --out book/records/pairs.json",
    "paper-pairs": "python experiments/pairs.py paper --out book/records/paper-pairs.json",
    "pairs-edits": "python experiments/pairs.py edits --out book/records/pairs-edits.json",
    "fifty-edits": "python experiments/fifty.py smollm2 --out book/records/fifty-edits.json",
    "smollm2-single-edits": "python experiments/edits.py single --out book/records/smollm2-single-edits.json",
    "smollm2-lifelong": "python experiments/edits.py lifelong --out book/records/smollm2-lifelong.json",
    "forecasts": (
        "python experiments/forecasts.py forecasts --runs smollm2:6 smollm2:12 gemma3:5 gemma3:9 "
        "--out book/records/forecasts.json"
    ),
    "causes": "python experiments/forecasts.py causes --runs smollm2:6 --out book/records/causes.json",
    "cures": "python experiments/forecasts.py cures --runs smollm2:6 --out book/records/cures.json",
    "wordings": "python experiments/wordings.py --runs smollm2:6 --out book/records/wordings.json",
    "law-smollm2": "python experiments/law.py --model smollm2 --out book/records/law-smollm2.json",
    "law-gemma3": "python experiments/law.py --model gemma3 --out book/records/law-gemma3.json",
    "smollm2-failure": (
        "python experiments/gpu.py run --device cpu --stages failure --minutes 600 --work _build/failure "
        "--out _build/failure-out --set failure.search=float32 failure.edits=1000 failure.orders=1"
        " && python experiments/gpu.py bring _build/failure-out --to book/records"
    ),
    "sequences": (
        "python experiments/sequences.py ways --runs smollm2:6 smollm2:12 gemma3:9 gemma3:5 "
        "--out book/records/sequences.json"
    ),
    "lists": "python experiments/sequences.py lists --runs smollm2:6 --out book/records/lists.json",
    "runaway": "python experiments/sequences.py runaway --runs gemma3:5 gemma3:9 --out book/records/runaway.json",
    "search-units": (
        "python experiments/units.py --runs smollm2:6 smollm2:12 smollm2:25 gemma3:5 gemma3:9 "
        "--out book/records/search-units.json"
    ),
    "benchmark-editing": "python experiments/benchmarks/editing.py --out book/records/benchmark-editing.json",
    "benchmark-growth": "python experiments/benchmarks/growth.py --out book/records/benchmark-growth.json",
    "benchmark-measuring": "python experiments/benchmarks/measuring.py --out book/records/benchmark-measuring.json",
    "benchmark-peers": "python experiments/benchmarks/peers.py --out book/records/benchmark-peers.json",
    "run-times": "python book/_ext/notebooks.py time book/*.ipynb --out book/records/run-times.json",
}


def main() -> int:
    wanted = sys.argv[1:] or list(COMMANDS)
    unknown = [name for name in wanted if name not in COMMANDS]
    if unknown:
        print(f"No record {', '.join(unknown)}; there are {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    for name in wanted:
        print(f"{name}: {COMMANDS[name]}", flush=True)
        for command in COMMANDS[name].split(" && "):
            words = [sorted(glob.glob(word)) if "*" in word else [word] for word in shlex.split(command)[1:]]
            subprocess.run([sys.executable, *itertools.chain(*words)], check=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
