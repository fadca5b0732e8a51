"""``python -m superposition``: see :mod:`superposition.cli`."""

from superposition.cli import main

raise SystemExit(main())
