"""Make workers of a real Ray sick: `install` is a Ray worker_process_setup_hook.

The file that ACOUSTIC_ENV_TEST_SICK names holds the rule: "none", "all", "node ID" (every process of that node), or
"once MARKER" (the first process that asks, after some clips, and no other). The second word after a colon says what is
sick: "decoder" (every decode raises) or "disk" (local files are not there). Beside a sick node the others wait until it
was asked, or they could do the whole list before it has started.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

VARIABLE = "ACOUSTIC_ENV_TEST_SICK"
HEALTHY_CALLS = 8
PATIENCE_S = 400

_calls = 0


def install() -> None:
    """Replace the decoder and the opening of local files by ones that obey the rule."""
    from acoustic_env.audio import fetch, prepare
    from acoustic_env.errors import ClipError

    decode_and_resample, open_filesystem = prepare.decode_and_resample, fetch.open_filesystem

    def decode(*arguments: Any) -> Any:
        if _is_sick("decoder"):
            msg = "libsndfile.so.1: cannot open shared object file"
            raise OSError(msg)
        return decode_and_resample(*arguments)

    def opened(url: str) -> Any:
        if _is_sick("disk"):
            code = "not_found"
            raise ClipError(code, f"{url}: not there")
        return open_filesystem(url)

    prepare.decode_and_resample = decode
    fetch.open_filesystem = opened


def _is_sick(organ: str) -> bool:
    import ray

    global _calls
    what, _, rule = Path(os.environ[VARIABLE]).read_text(encoding="utf-8").partition(":")
    if what != organ:
        return False
    kind, _, argument = rule.partition(" ")
    if kind == "node":
        asked = Path(f"{os.environ[VARIABLE]}-{argument}")
        if argument == ray.get_runtime_context().get_node_id():
            asked.touch()
            return True
        deadline = time.monotonic() + PATIENCE_S
        while not asked.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        return False
    if kind == "once":
        _calls += 1
        if _calls <= HEALTHY_CALLS:
            return False
        try:
            with Path(argument).open("x") as marker:
                marker.write(str(os.getpid()))
        except FileExistsError:
            return Path(argument).read_text() == str(os.getpid())
        return True
    return kind == "all"
