"""What hostile uploads cost a server: seconds, and peak memory of the server and of its decoding process.

    python -m tests.web.bench_hostile

The classifier costs next to nothing; each file meets a server of its own with the default limits. The server is this
process: its memory holds the client, too, and is given as the growth over that before the upload.
"""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import soundfile

from tests.sounds import good_files, tone
from tests.web.fake import Client, serving, wav

RATE = 16_000
DAMAGED = 100
HOUR_S = 3600


def bomb() -> bytes:
    """Silence of eight channels: 5.3 GB of 32-bit samples in a file of less than 3 MB."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 655_350, 8, "PCM_16", format="FLAC") as file:
        for _ in range(160):
            file.write(np.zeros((1 << 20, 8), np.int16))
    return buffer.getvalue()


def ten_hours() -> bytes:
    """Ten hours of silence."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", RATE, 1, "PCM_16", format="FLAC") as file:
        for _ in range(10):
            file.write(np.zeros(RATE * HOUR_S, np.int16))
    return buffer.getvalue()


def damaged() -> Iterator[bytes]:
    """Containers of every kind with some bytes replaced, some cut."""
    chance = random.Random(16)
    files = [file for name, file in good_files().items() if not name.endswith(".wav")]
    for number in range(DAMAGED):
        file = bytearray(files[number % len(files)])
        for _ in range(chance.choice([1, 10, 100])):
            file[chance.randrange(min(len(file), chance.choice([64, 1_024, 1 << 20])))] = chance.randrange(256)
        yield bytes(file[: chance.randrange(1, len(file))] if chance.random() < 0.3 else file)


def endless(client: Client) -> str:
    """Send an upload that never ends until the server hangs up."""
    connection = client.begin_upload()
    piece, sent = b"%x\r\n%s\r\n" % (1 << 20, bytes(1 << 20)), 0
    try:
        while True:
            connection.send(piece)
            sent += 1
    except ConnectionError:
        return f"hung up after {sent} MiB"
    finally:
        connection.close()


def upload(file: bytes) -> Callable[[Client], str]:
    """Return what sends a file and describes the answer."""

    def send(client: Client) -> str:
        status, answer = client.upload(file)
        return f"{status} {answer.get('code', '')}".strip()

    return send


def upload_damaged(client: Client) -> str:
    """Send all damaged files; count the answers."""
    found = [client.upload(file)[0] for file in damaged()]
    return ", ".join(f"{found.count(status)} x {status}" for status in sorted(set(found)))


def measure(name: str, send: Callable[[Client], str]) -> None:
    """Print a row of the table."""
    own, ended, peaks = psutil.Process(), threading.Event(), {"server": 0, "decoder": 0}

    def watch() -> None:
        while not ended.wait(0.01):
            peaks["server"] = max(peaks["server"], own.memory_info().rss - before)
            for child in own.children(recursive=True):
                try:
                    peaks["decoder"] = max(peaks["decoder"], child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue

    with serving(per_minute=100_000) as client:
        client.timeout_s = 300.0
        client.upload(wav(tone(1.0, RATE, 300.0)))
        before = own.memory_info().rss
        watcher = threading.Thread(target=watch)
        watcher.start()
        begun = time.perf_counter()
        said = send(client)
        seconds = time.perf_counter() - begun
        ended.set()
        watcher.join()
        begun = time.perf_counter()
        assert client.upload(wav(tone(1.0, RATE, 300.0)))[0] == 200
        after = time.perf_counter() - begun
    mb = {key: f"{value / 1e6:,.0f} MB" for key, value in peaks.items()}
    print(f"| {name} | {said} | {seconds:.2f} s | {mb['server']} | {mb['decoder']} | {1e3 * after:.0f} ms |")


def main() -> None:
    """Measure each kind of file."""
    measure("5 s of tone", upload(wav(tone(5.0, RATE, 300.0))))
    measure("decompression bomb", upload(bomb()))
    measure("endless stream", endless)
    measure("ten hours", upload(ten_hours()))
    measure(f"{DAMAGED} damaged containers", upload_damaged)


if __name__ == "__main__":
    main()
