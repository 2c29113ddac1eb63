"""Headless Chromium driven over its debugging pipe: a person at the keyboard, with no driver to install."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
KEYS = {" ": ("Space", 32), "Enter": ("Enter", 13), "Escape": ("Escape", 27), "ArrowLeft": ("ArrowLeft", 37)}
KEYS["Tab"] = ("Tab", 9)


class Chromium:
    """One page of a fresh browser.

    Args:
        profile: an empty folder.
        more: options of the browser.
    """

    def __init__(self, profile: Path, *more: str) -> None:
        browser = next(filter(None, map(shutil.which, NAMES)), None)
        if browser is None:
            pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed (apt-get install chromium)")
        commands, self._commands = os.pipe()
        self._events, events = os.pipe()

        def move() -> None:  # Chromium reads commands at descriptor 3 and answers at 4
            os.dup2(commands, 100)
            os.dup2(events, 101)
            os.dup2(100, 3)
            os.dup2(101, 4)

        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"]
        options += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--window-size=1100,950"]
        options += ["--autoplay-policy=no-user-gesture-required", "--no-first-run", *more, "about:blank"]
        self._process = subprocess.Popen(
            [browser, *options], preexec_fn=move, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(commands)
        os.close(events)
        self._read = b""
        self._number = 0
        self._session: str | None = None
        self.log: list[str] = []
        pages = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in pages if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._commands)
        os.close(self._events)
        self._process.terminate()
        self._process.wait(20)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the DevTools protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._read:
                data = os.read(self._events, 1 << 16)
                assert data, "the browser is gone"
                self._read += data
            line, _, self._read = self._read.partition(b"\0")
            answer = json.loads(line)
            if answer.get("method") == "Log.entryAdded":
                self.log.append(answer["params"]["entry"]["text"])
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def go(self, address: str) -> None:
        """Open an address."""
        self.call("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        """Of a JavaScript expression (or promise) in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = 30.0) -> None:
        """Until the expression is true in the page."""
        end = time.monotonic() + seconds
        while not self.value(f"Boolean(document.readyState === 'complete' && ({expression}))"):
            assert time.monotonic() < end, f"never became true: {expression}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """One key: a character, or a name as in `KeyboardEvent.key`."""
        known = KEYS.get(key)
        code = known[0] if known else f"Digit{key}" if key.isdigit() else f"Key{key.upper()}"
        number = known[1] if known else ord(key.upper())
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        common = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Text into whatever has the focus."""
        self.call("Input.insertText", text=text)
