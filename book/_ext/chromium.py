"""A Chromium without a window, for the PDF and for the tests of the pages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from superposition.errors import UserError

#: Programs looked for, in order, unless the environment's SUPERPOSITION_BROWSER names one.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@contextmanager
def browser() -> Iterator[Any]:
    """Playwright's browser, closed at the end; a UserError where there is none."""
    from playwright.sync_api import sync_playwright

    program = os.environ.get("SUPERPOSITION_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        raise UserError(f"Chromium is missing: install one of {', '.join(NAMES)}, or name it by SUPERPOSITION_BROWSER.")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield launched
        finally:
            launched.close()
