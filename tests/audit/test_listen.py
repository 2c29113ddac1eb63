"""The annotation session: blind, no answer lost, no one else let in."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from acoustic_env.audit import listen_audio
from acoustic_env.audit.annotations import check_annotations, latest
from acoustic_env.audit.journal import LEASE_SUFFIX
from acoustic_env.audit.listen import InvalidAnswerError, Session, order_for, read_rows
from acoustic_env.audit.listen_audio import ClipCache, normalize_for_playback, places, spectrogram, video_at
from acoustic_env.audit.sample import draw_sample
from acoustic_env.audit.table import read_table
from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table, write_clips
from acoustic_env.errors import LeaseHeld, UsageError
from acoustic_env.io import retry
from acoustic_env.io.files import read_bytes, write_bytes
from acoustic_env.options import SampleSettings
from acoustic_env.web.annotate import annotation_page
from acoustic_env.web.app import Server
from tests.audit.generated import ranked_with_truth
from tests.s3 import S3Server
from tests.sounds import noise, tone

RANKED, _ = ranked_with_truth(120)
SAMPLE = draw_sample(RANKED, SampleSettings(n=40, design="simple", repeat=0.25))
ROWS, SAMPLE_ID = read_rows(SAMPLE, "sample.parquet")


def answer(row: int, chosen: str | None = "right", annotator: str = "Ada", **more: Any) -> dict[str, Any]:
    return {"id": uuid.uuid4().hex, "annotator": annotator, "row": row, "answer": chosen, **more}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "annotations.parquet"


# ---- the session


def test_answers_are_in_the_journal_and_the_table_before_record_returns(out: Path) -> None:
    with Session(ROWS, SAMPLE_ID, str(out)) as session:
        session.record(answer(3, "wrong", note=" a <b>bird</b> ", seconds=4.25))
        assert json.loads(Path(session.journal_url).read_bytes().splitlines()[-1])["answer"] == "wrong"
        session.write_annotations()
    table = check_annotations(pq.read_table(out), str(out))
    (row,) = table.to_pylist()
    assert (row["clip_id"], row["label"], row["role"]) == (ROWS[3].clip_id, ROWS[3].label, ROWS[3].role)
    assert (row["annotator"], row["note"], row["seconds"]) == ("Ada", "a <b>bird</b>", 4.25)


def test_a_session_goes_on_where_it_stopped_and_forgets_half_a_line(out: Path) -> None:
    with Session(ROWS, SAMPLE_ID, str(out)) as session:
        for row in range(3):
            session.record(answer(row))
        journal = Path(session.journal_url)
    with journal.open("ab") as file:
        file.write(b'{"event": "answer", "id": "cut o')
    out.unlink()
    journal_only = journal.read_bytes()
    with Session(ROWS, SAMPLE_ID, str(out)) as session:
        assert session.kept() == 3
        session.record(answer(3))
    assert pq.read_table(out).num_rows == 3  # written at the start; the fourth answer is in the journal
    assert journal.read_bytes().startswith(journal_only[: journal_only.rfind(b"\n") + 1])
    with Session(ROWS, SAMPLE_ID, str(out)) as session:
        assert session.kept() == 4


def test_an_answer_sent_twice_counts_once(out: Path) -> None:
    with Session(ROWS, SAMPLE_ID, str(out)) as session:
        entry = answer(0)
        assert session.record(entry) == session.record(entry)
        assert session.annotations().num_rows == 1


def test_the_latest_answer_counts_and_earlier_ones_stay(out: Path) -> None:
    with Session(ROWS, SAMPLE_ID, str(out)) as session:
        for chosen in ("right", "wrong", "unsure"):
            session.record(answer(0, chosen))
        assert session.counted()["Ada", 0].answer == "unsure"
        assert session.annotations().column("answer").to_pylist() == ["right", "wrong", "unsure"]
        assert latest(session.annotations()).column("answer").to_pylist() == ["unsure"]


def test_taking_an_answer_back_brings_the_one_before_back(out: Path) -> None:
    with Session(ROWS, SAMPLE_ID, str(out)) as session:
        for chosen in ("right", "wrong", None):
            session.record(answer(0, chosen))
        assert session.counted()["Ada", 0].answer == "right"
        session.record(answer(0, None))
        session.record(answer(0, None))
        assert session.kept() == 0
        assert session.annotations().num_rows == 0
        assert len(Path(session.journal_url).read_bytes().splitlines()) == 6
    with Session(ROWS, SAMPLE_ID, str(out)) as session:
        assert session.kept() == 0


def test_each_annotator_has_answers_of_their_own_whatever_the_case_of_the_name(out: Path) -> None:
    with Session(ROWS, SAMPLE_ID, str(out)) as session:
        session.record(answer(0, "right", "Ada  Lovelace"))
        session.record(answer(0, "wrong", "ada lovelace"))
        session.record(answer(0, "unsure", "Grace"))
        assert session.annotators() == ["Ada Lovelace", "Grace"]
        assert session.counted()["Ada Lovelace", 0].answer == "wrong"
        assert session.kept() == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"row": len(ROWS)},
        {"row": -1},
        {"row": True},
        {"row": "0"},
        {"answer": "maybe"},
        {"annotator": " "},
        {"annotator": "a\x00b"},
        {"annotator": "x" * 61},
        {"id": "short"},
        {"id": "../../../../etc"},
        {"note": 7},
        {"note": "x" * 2001},
    ],
)
def test_a_wrong_answer_is_refused_and_not_kept(out: Path, wrong: dict[str, Any]) -> None:
    with Session(ROWS, SAMPLE_ID, str(out)) as session:
        before = Path(session.journal_url).read_bytes()
        with pytest.raises(InvalidAnswerError):
            session.record({**answer(0), **wrong})
        assert Path(session.journal_url).read_bytes() == before


def test_the_journal_of_another_sample_is_refused(out: Path) -> None:
    Session(ROWS, SAMPLE_ID, str(out)).close()
    with pytest.raises(UsageError, match="answers to another sample"):
        Session(ROWS, "0" * 16, str(out))


def test_a_damaged_line_is_named(out: Path) -> None:
    with Session(ROWS, SAMPLE_ID, str(out)) as session:
        journal = Path(session.journal_url)
    journal.write_bytes(journal.read_bytes() + b"not json\n")
    with pytest.raises(UsageError, match="line 2 is damaged"):
        Session(ROWS, SAMPLE_ID, str(out))


def test_two_sessions_do_not_share_a_journal(out: Path) -> None:
    with (
        Session(ROWS, SAMPLE_ID, str(out)),
        pytest.raises(UsageError, match="another `audit listen`"),
    ):
        Session(ROWS, SAMPLE_ID, str(out))


def test_a_table_without_its_journal_is_not_overwritten(out: Path) -> None:
    with Session(ROWS, SAMPLE_ID, str(out)) as session:
        session.record(answer(0))
        session.write_annotations()
        Path(session.journal_url).unlink()
    with pytest.raises(UsageError, match="its journal"):
        Session(ROWS, SAMPLE_ID, str(out))


def test_answers_on_an_object_store_are_there_before_record_returns(s3: S3Server) -> None:
    out = f"s3://{s3.bucket}/annotations.parquet"
    killed = Session(ROWS, SAMPLE_ID, out)
    for row in range(3):
        killed.record(answer(row))
        assert len(read_bytes(killed.journal_url).splitlines()) == 2 + row
    with pytest.raises(LeaseHeld, match="audit listen"):
        Session(ROWS, SAMPLE_ID, out)
    killed.close()
    with Session(ROWS, SAMPLE_ID, out) as session:
        assert session.kept() == 3
        session.write_annotations()
    assert read_table(out).num_rows == 3


def test_an_answer_that_the_object_store_refuses_is_not_kept(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    out = f"s3://{s3.bucket}/annotations.csv"
    with Session(ROWS, SAMPLE_ID, out) as session:
        session.record(answer(0))
        monkeypatch.setattr(retry, "GIVE_UP_S", 0)
        s3.choose = lambda method, _path, _number: "throttle" if method == "PUT" else None
        with pytest.raises(OSError, match="after 7 tries"):
            session.record(again := answer(1))
        s3.choose = lambda _method, _path, _number: None
        assert session.kept() == 1
        session.record(again)
    with Session(ROWS, SAMPLE_ID, out) as session:
        assert session.kept() == 2


def test_a_session_that_lost_its_journal_to_another_keeps_nothing(s3: S3Server) -> None:
    out = f"s3://{s3.bucket}/annotations.parquet"
    first = Session(ROWS, SAMPLE_ID, out)
    lease = f"{first.journal_url}{LEASE_SUFFIX}/lease/00000001.json"
    write_bytes(lease, json.dumps({**json.loads(read_bytes(lease)), "released": True}).encode())
    with Session(ROWS, SAMPLE_ID, out) as second:
        second.record(answer(0))
        with pytest.raises(OSError, match="lease"):
            first.record(answer(1))
        assert len(read_bytes(second.journal_url).splitlines()) == 2
    first.close()


def test_the_order_is_random_the_annotators_own_and_repeats_come_later() -> None:
    orders = {name: order_for(ROWS, SAMPLE_ID, name) for name in ("Ada", "Grace")}
    assert orders["Ada"] == order_for(ROWS, SAMPLE_ID, "ada")
    assert orders["Ada"] != orders["Grace"]
    first = {(row.clip_id, row.label): n for n, row in enumerate(ROWS) if row.role == "sample"}
    for order in orders.values():
        assert sorted(order) == list(range(len(ROWS)))
        assert order != sorted(order)
        repeats = [(n, first[row.clip_id, row.label]) for n, row in enumerate(ROWS) if row.role == "repeat"]
        assert len(repeats) == 10
        assert all(order.index(original) < order.index(repeat) for repeat, original in repeats)


# ---- the clips


def test_the_spectrogram_puts_a_tone_at_its_frequency_and_time() -> None:
    sound = np.concatenate([np.zeros(16_000, np.float32), tone(1.0, 16_000, 3_000.0)])
    levels = spectrogram(sound, 16_000)
    band, frame = np.unravel_index(levels.argmax(), levels.shape)
    mel = 2595 * np.log10(1 + np.array([50.0, 3_000.0, 8_000.0]) / 700)
    assert band / levels.shape[0] == pytest.approx((mel[1] - mel[0]) / (mel[2] - mel[0]), abs=0.01)
    assert levels[band, : int(levels.shape[1] * 0.45)].max() < 100
    assert levels[band, int(levels.shape[1] * 0.55) :].min() > 240
    assert frame > levels.shape[1] / 2


@pytest.mark.parametrize("samples", [1, 100, 1_601, 480_000])
def test_a_clip_of_any_length_and_silence_have_a_spectrogram(samples: int) -> None:
    assert spectrogram(np.zeros(samples, np.float32), 16_000).max() == 0
    assert spectrogram(noise(samples / 16_000), 16_000).shape[1] <= 800


def test_clips_are_brought_to_one_loudness_without_clipping() -> None:
    for gain in (0.002, 0.1, 5.0):
        levelled = normalize_for_playback(noise(2.0) * np.float32(gain) + np.float32(0.2))
        assert np.sqrt(np.mean(levelled**2)) == pytest.approx(0.1, rel=0.01)
    click = np.zeros(16_000, np.float32)
    click[5] = 1.0
    assert np.abs(normalize_for_playback(click)).max() == pytest.approx(0.9, rel=1e-3)


@pytest.mark.parametrize(
    ("clip_id", "uri", "start_s", "expected"),
    [
        ("-0RWZT-miFs_30000", "", None, "https://www.youtube.com/watch?v=-0RWZT-miFs&t=30s"),
        ("abcdefghijk_12500", "s3://b/x.flac", 0.0, "https://www.youtube.com/watch?v=abcdefghijk&t=12s"),
        ("x", "https://youtu.be/abcdefghijk", 4.0, "https://www.youtube.com/watch?v=abcdefghijk&t=4s"),
        ("x", "https://www.youtube.com/watch?v=abcdefghijk", None, "https://www.youtube.com/watch?v=abcdefghijk&t=0s"),
        ("x", "https://youtube.com.evil.example/watch?v=abcdefghijk", None, None),
        ("1-100032-A.ogg", "/data/a.ogg", None, None),
    ],
)
def test_an_audioset_clip_has_its_video_at_the_second(
    clip_id: str, uri: str, start_s: float | None, expected: str | None
) -> None:
    assert video_at(clip_id, uri, start_s) == expected


# ---- the server


@dataclass
class ListenServer:
    """A running page and its session."""

    server: Server
    session: Session
    thread: threading.Thread

    def __getattr__(self, name: str) -> Any:
        return getattr(self.server.access, name)


@dataclass
class Visitor:
    """A client that sends what a browser with the page open would send."""

    server: ListenServer
    cookie: str = ""

    def request(
        self, path: str, body: object = None, method: str | None = None, **headers: str | None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        address = f"127.0.0.1:{self.server.port}"
        sent: dict[str, str | None] = {"Host": address, "Cookie": self.cookie or None}
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent |= {"Content-Type": "application/json", "Origin": f"http://{address}", "Sec-Fetch-Site": "same-origin"}
            sent["Content-Length"] = str(len(data))
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        try:
            connection.putrequest(method or ("POST" if body is not None else "GET"), path, skip_host=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(data)
            reply = connection.getresponse()
            try:
                return reply.status, reply.headers, reply.read()
            except ConnectionResetError:  # refused with the body unread: the status came before the reset
                return reply.status, reply.headers, b""
        finally:
            connection.close()

    def json(self, path: str, body: object = None) -> Any:
        status, _, data = self.request(path, body)
        assert status == 200, data
        return json.loads(data)

    def enter(self) -> Visitor:
        _, headers, _ = self.request(self.server.url.partition(str(self.server.port))[2])
        self.cookie = headers["Set-Cookie"].partition(";")[0]
        return self


def three_clips(folder: Path) -> tuple[pa.Table, pa.Table]:
    """A sample of a playable clip, one that is only a video, and one that is not audio; and their clip list."""
    soundfile.write(folder / "tone.flac", tone(1.5, 22_050), 22_050)
    (folder / "noise.wav").write_text("this is no sound")
    listed = [
        {"clip_id": "secret-dog/tone", "uri": str(folder / "tone.flac"), "labels": ["Dog", "Rain"]},
        {"clip_id": "-0RWZT-miFs_30000", "uri": "/nowhere/at/all.wav", "end_s": 10.0, "labels": ["Dog"]},
        {"clip_id": "broken", "uri": str(folder / "noise.wav"), "labels": ["<b>Cat</b>"]},
    ]
    rows = [(entry["clip_id"], entry["labels"][0]) for entry in listed]
    ranked = pa.table(
        {
            "clip_id": [clip_id for clip_id, _ in rows],
            "label": [label for _, label in rows],
            "given": [True] * 3,
            "quality": [0.1, 0.5, 0.9],
            "flagged": [True, False, False],
        }
    )
    return draw_sample(ranked, SampleSettings(n=3, design="simple", repeat=0.0)), clip_table(listed)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ListenServer]:
    sample, clips = three_clips(tmp_path)
    rows, sample_id = read_rows(sample, "sample")
    with (
        Session(rows, sample_id, str(tmp_path / "v.csv")) as session,
        Server("127.0.0.1", 0, annotation_page(session, ClipCache(places(rows, clips, "clips")))) as made,
    ):
        thread = threading.Thread(target=made.serve)
        thread.start()
        yield ListenServer(made, session, thread)
        made.shutdown()
        thread.join()


@pytest.fixture
def visitor(server: ListenServer) -> Visitor:
    return Visitor(server).enter()


def row_of(server: ListenServer, clip_id: str) -> int:
    return [row.clip_id for row in server.session.rows].index(clip_id)


def test_the_token_becomes_a_strict_cookie_and_leaves_the_address(server: ListenServer) -> None:
    status, headers, body = Visitor(server).request(f"/?token={server.token}")
    assert status == 200
    assert {"HttpOnly", "SameSite=Strict"} <= {part.strip() for part in headers["Set-Cookie"].split(";")}
    assert b"url=/'" in body
    assert server.token.encode() not in body


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/api/session", "/api/state?annotator=Ada", "/api/rows/0", "/audio/0"]
)
def test_nothing_is_told_without_the_token(server: ListenServer, path: str) -> None:
    stranger = Visitor(server)
    assert stranger.request(path)[0] == 403
    assert stranger.request(f"{path}{'&' if '?' in path else '?'}token=wrong")[0] == 403
    stranger.cookie = f"{server.cookie}=wrong"
    assert stranger.request(path)[0] == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "10.0.0.1:{port}", "", None, "[::1"]
)
def test_a_foreign_host_is_refused_even_with_the_cookie(visitor: Visitor, host: str | None) -> None:
    given = host.format(port=visitor.server.port) if host is not None else None
    assert visitor.request("/api/session", Host=given)[0] == (421 if given is not None else 400)  # HTTP/1.1 needs one


def test_this_machines_names_are_accepted(visitor: Visitor) -> None:
    for name in ("localhost", "LOCALHOST", "[::1]"):
        assert visitor.request("/api/session", Host=f"{name}:{visitor.server.port}")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": None},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Cookie": None},
        {"Content_Length": "70000"},
        {"Content_Length": "-1"},
        {"Transfer_Encoding": "chunked"},
    ],
)
def test_an_answer_from_elsewhere_is_refused(visitor: Visitor, headers: dict[str, str | None]) -> None:
    status, _, _ = visitor.request("/api/answers", answer(0), **headers)
    assert status in (400, 403, 413, 415)
    assert visitor.server.session.kept() == 0
    assert visitor.request("/api/answers", answer(0))[0] == 200


def test_another_site_may_not_even_read(visitor: Visitor) -> None:
    assert visitor.request("/audio/0", Sec_Fetch_Site="cross-site")[0] == 403
    opened = visitor.request(f"/?token={visitor.server.token}", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    assert opened[0] == 200  # a link in a mail


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/page/../../listen.py",
        "/audio/../../etc/passwd",
        "/audio/%2e%2e%2fx",
        "/audio//etc/passwd",
        "/audio/-1",
        "/audio/3",
        "/audio/999999999",
        "/audio/0/..",
        "/audio/0.wav",
        "/api/rows/3",
        "/api/rows/١",
        "//evil.example/",
        "/page.js/",
        "/index.html",
        "/audio/0?uri=/etc/passwd&row=2",
    ],
)
def test_no_path_leads_out_of_the_sample(visitor: Visitor, path: str) -> None:
    status, _, body = visitor.request(quote(path, safe="/%?=&.:-"))
    if path.startswith("/audio/0?"):
        assert body == visitor.request("/audio/0")[2]  # the rest of the address says nothing
    else:
        assert status == 404
    assert b"root:" not in body


def test_every_reply_forbids_inline_scripts_framing_and_sniffing(visitor: Visitor) -> None:
    for path in ("/", "/page.js", "/page.css", "/api/session", "/audio/0", "/nothing"):
        _, headers, body = visitor.request(path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in policy
        assert b"onclick=" not in body
    assert b"innerHTML" not in visitor.request("/page.js")[2]


def test_a_clip_of_any_codec_is_played_as_wav_and_in_parts(visitor: Visitor) -> None:
    row = row_of(visitor.server, "secret-dog/tone")
    status, headers, whole = visitor.request(f"/audio/{row}")
    assert (status, headers["Content-Type"], headers["Accept-Ranges"]) == (200, "audio/wav", "bytes")
    assert whole[:4] == b"RIFF"
    size = len(whole)
    for wanted, start, stop in (("0-9", 0, 10), ("100-", 100, size), ("-7", size - 7, size), ("5-999999999", 5, size)):
        status, headers, part = visitor.request(f"/audio/{row}", Range=f"bytes={wanted}")
        assert (status, part) == (206, whole[start:stop])
        assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
    for beyond in (f"bytes={size}-", "bytes=9-3", "bytes=-0"):
        status, headers, part = visitor.request(f"/audio/{row}", Range=beyond)
        assert (status, part, headers["Content-Range"]) == (416, b"", f"bytes */{size}")
    assert visitor.request(f"/audio/{row}", Range="items=0-1")[::2] == (200, whole)
    assert visitor.request(f"/audio/{row}", method="HEAD")[1]["Content-Length"] == str(size)


def test_a_clip_that_cannot_be_played_says_why_without_telling_its_place(visitor: Visitor) -> None:
    video = visitor.json(f"/api/rows/{row_of(visitor.server, '-0RWZT-miFs_30000')}")
    assert video["video"] == "https://www.youtube.com/watch?v=-0RWZT-miFs&t=30s"
    assert video["length_s"] == 10.0
    broken = visitor.json(f"/api/rows/{row_of(visitor.server, 'broken')}")
    assert "soundfile" in broken["error"]
    assert broken["video"] is None
    for said in (video, broken):
        assert "/" not in said["error"].replace("https://", "")
    assert visitor.request(f"/audio/{row_of(visitor.server, 'broken')}")[0] == 404


def test_the_page_is_told_the_label_in_question_and_nothing_else_of_a_row(visitor: Visitor) -> None:
    state = visitor.json("/api/state?annotator=Ada")
    assert sorted(row["label"] for row in state["rows"]) == ["<b>Cat</b>", "Dog", "Dog"]
    assert all(set(row) == {"row", "label"} for row in state["rows"])
    everything = json.dumps(
        [state, *(visitor.json(f"/api/rows/{row}") for row in range(3)), visitor.json("/api/session")]
    )
    for hidden in ("secret-dog", "Rain", "quality", "flagged", "stratum", "role", "given", "gold"):
        assert hidden not in everything


def test_annotators_answer_and_find_their_answers_again(visitor: Visitor, tmp_path: Path) -> None:
    kept = visitor.json("/api/answers", answer(1, "incomplete", note="and a bell"))
    assert kept == {"row": 1, "answer": "incomplete", "note": "and a bell", "warning": None}
    visitor.json("/api/answers", answer(1, "wrong", "Grace"))
    state = visitor.json("/api/state?annotator=ada")
    assert (state["annotator"], state["answered"]) == ("Ada", [1])
    assert {"row": 1, "label": visitor.server.session.rows[1].label, "answer": "incomplete", "note": "and a bell"} in (
        state["rows"]
    )
    assert visitor.json("/api/session")["annotators"] == ["Ada", "Grace"]
    assert visitor.json("/api/answers", answer(1, None))["answer"] is None
    assert (tmp_path / "v.csv").read_text().count("Grace") == 1
    assert "Ada" not in (tmp_path / "v.csv").read_text()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b'{"row": 0}', b'{"id": "\\ud800aaaaaaaaaaaa"}'])
def test_what_is_no_answer_is_refused(visitor: Visitor, body: bytes) -> None:
    assert visitor.request("/api/answers", body)[0] == 400
    assert visitor.request("/api/answers", answer(99))[0] == 400
    assert visitor.request("/api/state?annotator=")[0] == 400
    assert visitor.request("/api/elsewhere", answer(0))[0] == 404


def test_a_full_disk_refuses_the_answer_and_keeps_the_journal_whole(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = visitor.server.session

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("acoustic_env.audit.journal.os.fsync", full)
    assert visitor.request("/api/answers", answer(0))[0] == 507
    monkeypatch.undo()
    assert session.kept() == 0
    assert len(Path(session.journal_url).read_bytes().splitlines()) == 1
    assert visitor.request("/api/answers", answer(0))[0] == 200


def test_many_answers_at_once_are_all_kept(visitor: Visitor) -> None:
    def send(name: str) -> None:
        for row in range(3):
            visitor.request("/api/answers", answer(row, "right", name))

    threads = [threading.Thread(target=send, args=(f"annotator {n}",)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert visitor.server.session.kept() == 15
    assert len(Path(visitor.server.session.journal_url).read_bytes().splitlines()) == 16


# ---- the command


def test_a_clip_that_the_list_does_not_hold_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample, clips = three_clips(tmp_path)
    pq.write_table(sample, tmp_path / "s.parquet")
    write_clips(clips.slice(0, 2), str(tmp_path / "c.parquet"))
    command = ["--sample", str(tmp_path / "s.parquet"), "--clips", str(tmp_path / "c.parquet")]
    assert main(["audit", "listen", *command, "--out", str(tmp_path / "v.parquet")]) == 2
    assert "1 of 3 clips of the sample are not in this list (broken, ...)" in capsys.readouterr().err


def test_a_session_killed_in_the_middle_loses_nothing_and_an_interrupt_ends_it_cleanly(tmp_path: Path) -> None:
    sample, clips = three_clips(tmp_path)
    pq.write_table(sample, tmp_path / "s.parquet")
    write_clips(clips, str(tmp_path / "c.parquet"))
    command = [sys.executable, "-m", "acoustic_env.cli", "audit", "listen", "--sample", "s.parquet"]
    command += ["--clips", "c.parquet", "--out", "v.parquet"]

    def start(*more: str) -> tuple[subprocess.Popen[str], Visitor]:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONFAULTHANDLER": "1"}
        process = subprocess.Popen(
            [*command, *more], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        address = process.stderr.readline().removeprefix("annotation page: ").strip()
        port = int(address.split(":")[2].partition("/")[0])
        visitor = Visitor(_Remote(port, address.rpartition("=")[2]))  # type: ignore[arg-type]
        return process, visitor.enter()

    process, visitor = start()
    visitor.json("/api/answers", answer(0, "wrong"))
    process.kill()
    process.communicate()
    process, visitor = start("--port", str(visitor.server.port))
    assert visitor.json("/api/state?annotator=Ada")["answered"] == [0]
    visitor.json("/api/answers", answer(1, "right"))
    process.send_signal(signal.SIGINT)
    try:
        said, _ = process.communicate(timeout=120)  # a disk that is busy may take its time to sync
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        pytest.fail(f"the page does not end; its threads are at: {process.communicate()[1]}")
    assert process.returncode == 0
    assert "v.parquet: 2 answers by Ada to 3 rows" in said
    assert "to resume: acoustic-env audit listen --sample s.parquet --clips c.parquet --out v.parquet --port " in said
    assert pq.read_table(tmp_path / "v.parquet").num_rows == 2


def test_the_page_ends_while_a_clip_is_still_being_fetched(
    server: ListenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(listen_audio, "load_clip", lambda _place: asked.set() or go_on.wait(60))
    visitor = Visitor(server).enter()
    threading.Thread(target=visitor.request, args=("/audio/0",), daemon=True).start()
    assert asked.wait(10)
    server.server.shutdown()
    server.thread.join(10)
    assert not server.thread.is_alive()
    go_on.set()


@dataclass
class _Remote:
    """What a visitor needs to know of a server in another process."""

    port: int
    token: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={self.token}"


def test_a_port_that_is_taken_is_a_message(out: Path) -> None:
    with Session(ROWS, SAMPLE_ID, str(out)) as session, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="choose another port"):
            Server("127.0.0.1", taken.getsockname()[1], annotation_page(session, ClipCache([])))
