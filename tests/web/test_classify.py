"""The API of the classification page: its answers, its limits, and what a hostile upload costs."""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.sounds import Sound, bad_files, good_files, silence, tone
from tests.web.fake import HIGH, LOW, Client, FakePredictor, FakeWindow, form, serving, wav

RATE = 16_000
SOUND = np.concatenate([tone(2.0, RATE, 300.0), tone(1.5, RATE, 3_000.0)])


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serving(per_minute=10_000) as made:
        yield made


def test_a_recording_is_answered_by_window_and_as_a_whole(client: Client) -> None:
    status, answer = client.upload(wav(SOUND))
    assert (status, answer["seconds"]) == (200, 3.5)
    assert [(w["start_s"], w["end_s"]) for w in answer["windows"]] == [(0, 1), (1, 2), (2, 3), (3, 3.5)]
    assert [max(w["posterior"], key=w["posterior"].get) for w in answer["windows"]] == [LOW, LOW, HIGH, HIGH]
    assert answer["recording"]["posterior"][LOW] == pytest.approx(0.5, abs=1e-3)
    assert answer["recording"]["unlike"] is False


def test_a_long_recording_streams_the_answers_of_the_same_windows(client: Client) -> None:
    long = np.concatenate([SOUND, silence(0.5), np.tile(SOUND[: 4 * RATE], 20)])
    whole, lines = client.upload(wav(long))[1], client.stream(wav(long))
    pictures = [line.pop("spectrogram") for line in lines[:-1]]
    assert lines[:-1] == whole["windows"]
    assert lines[-1] == {"seconds": whole["seconds"], "recording": whole["recording"]}
    assert [w["start_s"] for w in whole["windows"]] == list(range(74))
    assert (pictures[0]["bands"], pictures[0]["frames"]) == (160, 20)


def test_every_promised_format_is_read(client: Client) -> None:
    for name, file in good_files().items():
        status, answer = client.upload(file)
        assert status == 200, (name, answer)


def test_a_bad_recording_is_a_problem_with_the_code_of_the_errors_table(client: Client) -> None:
    for name, (file, code) in bad_files().items():
        status, problem = client.upload(file)
        assert status == problem["status"] == (415 if code == "not_audio" else 422), name
        assert problem["code"] == code, name


def test_an_absurd_sample_rate_is_refused(client: Client) -> None:
    assert client.upload(wav(SOUND, 2_000_000))[1]["code"] == "decode_failed"


def test_a_request_without_a_file_is_told_so(client: Client) -> None:
    body, kind = form(wav(SOUND), "sound")
    assert client.request("/api/v1/predict", body, Content_Type=kind)[0] == 400
    assert client.request("/api/v1/predict", b"{}", Content_Type="application/json")[0] == 415
    assert client.request("/api/v1/predict", b"x", Content_Type="multipart/form-data")[0] == 400
    assert client.request("/nothing")[0] == 404


def test_health_metrics_and_the_schema_are_served(client: Client) -> None:
    client.upload(wav(SOUND))
    assert json.loads(client.request("/healthz")[2]) == {"status": "ok"}
    text = client.request("/metrics")[2].decode()
    assert 'acoustic_env_requests_total{path="/api/v1/predict",status="200"}' in text
    assert "acoustic_env_requests_in_progress 1.0" in text  # this one
    schema = json.loads(client.request("/openapi.json")[2])
    assert {"/api/v1/predict", "/api/v1/predict/stream", "/healthz", "/metrics"} <= set(schema["paths"])


def test_a_failure_of_the_classifier_is_a_problem_and_not_the_end() -> None:
    class Failing(FakePredictor):
        def pool(self, windows: object) -> object:
            raise ZeroDivisionError

    with serving(Failing()) as client:
        for _ in range(3):
            assert client.upload(wav(SOUND))[1]["code"] == "compute_failed"
        assert client.stream(wav(SOUND))[-1]["problem"]["status"] == 500
        assert client.request("/healthz")[0] == 200


# ---- who may use it


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
    ],
)
def test_another_site_in_the_same_browser_can_use_nothing(client: Client, headers: dict[str, str], status: int) -> None:
    assert client.upload(wav(SOUND), **headers)[0] == status


def test_a_link_of_another_site_opens_the_page_under_its_policy(client: Client) -> None:
    status, headers, _ = client.request("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    assert status == 200
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert "Set-Cookie" not in headers
    assert client.request("/api/v1/model", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="cors")[0] == 403


# ---- limits


def test_more_bytes_seconds_or_requests_than_allowed_are_refused() -> None:
    with serving(max_megabytes=0.1, max_seconds=4.0, per_minute=4) as client:
        assert client.upload(bytes(400_000))[0] == 413
        assert client.upload(wav(np.tile(SOUND, 2), kind="FLAC"))[0] == 413
        assert client.upload(wav(SOUND, kind="FLAC"))[0] == 200
        _endless(client)
        status, headers, _ = client.request("/api/v1/predict", b"")
        assert (status, headers["Retry-After"]) == (429, "60")
        assert client.request("/healthz")[0] == 200


def _endless(client: Client) -> None:
    """Upload without an end: the server answers and closes."""
    connection = client.begin_upload()
    piece = b"%x\r\n%s\r\n" % (1 << 16, bytes(1 << 16))
    with pytest.raises(ConnectionError):
        connection.send(piece for _ in range(1_000))
    connection.close()


def test_a_slow_upload_is_ended_and_only_so_many_requests_wait() -> None:
    with serving(upload_seconds=0.6, concurrency=1, waiting=0) as client:
        body, kind = form(wav(SOUND))
        with socket.create_connection(("127.0.0.1", client.server.access.port), timeout=30) as slow:
            head = f"POST /api/v1/predict HTTP/1.1\r\nHost: 127.0.0.1:{client.server.access.port}\r\n"
            slow.sendall(f"{head}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:99])
            time.sleep(0.2)
            assert client.upload(wav(SOUND))[0] == 503
            assert slow.recv(100).startswith(b"HTTP/1.1 408")
        assert client.upload(wav(SOUND))[0] == 200


def test_requests_at_the_same_time_each_get_their_own_answer() -> None:
    with serving(waiting=40) as client, ThreadPoolExecutor(8) as threads:
        sounds = [tone(1.0 + n / 10, RATE, 3_000.0 if n % 2 else 300.0) for n in range(16)]
        for n, (status, answer) in enumerate(threads.map(lambda sound: client.upload(wav(sound)), sounds)):
            assert (status, answer["seconds"]) == (200, pytest.approx(1.0 + n / 10))
            assert answer["recording"]["posterior"][HIGH] == pytest.approx(n % 2, abs=1e-3)


def test_a_client_that_leaves_ends_the_work_on_its_recording() -> None:
    class Slow(FakePredictor):
        def predict_windows(self, waveform: Sound, *, sample_rate: int) -> list[FakeWindow]:
            time.sleep(0.05)
            return super().predict_windows(waveform, sample_rate=sample_rate)

    with serving(Slow()) as client:
        connection = http.client.HTTPConnection("127.0.0.1", client.server.access.port, timeout=30)
        body, kind = form(wav(np.zeros(2_000 * 100, np.float32), 1_000, "FLAC"))
        connection.request("POST", "/api/v1/predict/stream", body, {"Content-Type": kind})
        reply = connection.getresponse()
        assert json.loads(reply.readline())["end_s"] == 1.0
        reply.close()
        connection.close()
        end = time.monotonic() + 10
        while client.service._admitted:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert client.service.metrics.audio._value.get() < 200


# ---- what a hostile file costs


def test_decoding_beyond_the_memory_or_time_allowed_ends_and_the_next_upload_is_answered() -> None:
    bomb = wav(np.zeros((6_600_000, 8), np.int16), 655_350, "FLAC")
    assert len(bomb) < 100_000
    with serving(decode_megabytes=64, concurrency=1) as client:
        assert client.upload(wav(SOUND))[0] == 200
        assert client.upload(bomb)[1]["code"] == "out_of_memory"
        assert client.upload(wav(SOUND))[0] == 200
    with serving(decode_seconds=0.05, concurrency=1) as client:
        assert client.upload(wav(np.zeros(8_000_000, np.int16), RATE, "FLAC"))[1]["code"] == "timed_out"
        assert client.request("/healthz")[0] == 200


def test_a_crash_of_the_decoder_ends_one_request_and_the_process_is_replaced(client: Client) -> None:
    client.upload(wav(SOUND))
    for worker in [decoder.start() for decoder in client.service._decoder._idle.queue]:
        limits = Path(f"/proc/{worker.process.pid}/limits").read_text()
        assert re.search(r"Max file size +0 ", limits)  # it can write no file
        worker.process.kill()
        worker.process.join()
    codes = [client.upload(wav(SOUND))[1].get("code") for _ in range(2 * client.service.settings.concurrency)]
    assert "worker_died" in codes
    assert codes[-1] is None


def test_damaged_containers_cost_a_request_each_and_never_the_server(client: Client) -> None:
    chance = random.Random(16)
    files = [good_files()[f"voice.{kind}"] for kind in ("ogg", "opus", "mp3", "m4a", "webm", "aac")]
    files += [good_files()["stereo.flac"], good_files()["24 bit quiet.wav"]]
    for number in range(48):
        file = bytearray(files[number % len(files)])
        for _ in range(chance.choice([1, 10, 100])):
            at = chance.randrange(min(len(file), chance.choice([64, 1_024, 1 << 20])))
            file[at] = chance.randrange(256)
        if chance.random() < 0.3:
            del file[chance.randrange(len(file)) :]
        status, answer = client.upload(bytes(file))
        assert status in (200, 413, 415, 422), answer
    assert client.upload(wav(SOUND))[0] == 200
