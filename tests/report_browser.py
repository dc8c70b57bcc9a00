"""A report in a tab of a headless browser."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


class Opened:
    """A report in a tab, with all that went wrong while it was open."""

    def __init__(self, browser: Any, path: Path, *, fragment: str = "", **options: Any) -> None:
        self.tab = browser.new_context(**options).new_page()
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", lambda message: self.wrong.append(message.text))
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on("dialog", lambda dialog: (self.wrong.append(dialog.message), dialog.dismiss()))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(path.as_uri() + fragment)
        self.tab.wait_for_selector("#reader[data-ready]", state="attached")

    def shown(self) -> list[str]:
        return self.tab.locator("#list .row-text").all_text_contents()

    def chosen(self) -> tuple[str, str]:
        """The open instruction, and the cell it is shown for."""
        return self.tab.text_content("#instruction"), self.tab.text_content(".answer-of.chosen h4")

    def press(self, keys: str) -> None:
        for key in keys.split():
            self.tab.keyboard.press(key)

    def to_reader(self) -> None:
        self.tab.evaluate("document.getElementById('reader').scrollIntoView({behavior: 'instant'})")
