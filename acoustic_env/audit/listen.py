"""An annotation session: the order of the rows for each annotator, and every answer stored before it is acknowledged.

The journal (JSON lines beside the annotation table, `<out>.journal.jsonl`) is the record; the table is written from it.
An answer is one appended line (`audit.journal`); lines never change. A later answer of the same annotator to the same
row counts instead of the earlier one, and taking one back is a line, too. After a crash

    before the line is whole       the answer was not acknowledged; the page still has it and sends it again
    after it                       the answer is there; sent again, it is known by its id and not counted twice
    before the table is written    the next start writes it
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import unicodedata
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa

from acoustic_env.audit.annotations import ANNOTATION_SCHEMA, ANSWERS, OLD_NAMES, log_old_names
from acoustic_env.audit.journal import open_journal
from acoustic_env.audit.sample import SAMPLE_SCHEMA, when_again
from acoustic_env.audit.table import require_columns, write_table
from acoustic_env.errors import UsageError
from acoustic_env.io.files import read_if_there
from acoustic_env.io.location import split

LONGEST_NAME: Final = 60
LONGEST_NOTE: Final = 2_000
LONGEST_S: Final = 24 * 3600.0
JOURNAL_SUFFIX: Final = ".journal.jsonl"
_ID: Final = re.compile(r"[A-Za-z0-9-]{8,64}")

# What a session needs of the sample; the rest stays where no page can see it.
_NEEDED: Final = pa.schema([SAMPLE_SCHEMA.field(name) for name in ("clip_id", "label", "order", "role", "frame_hash")])


@dataclass(frozen=True)
class Row:
    """One clip-label row to annotate; its role (sample, gold or repeat) is hidden from the annotator."""

    clip_id: str
    label: str
    role: str


@dataclass(frozen=True)
class RowAnnotation:
    """One answer, as the journal has it.

    Attributes:
        id: the page's own, the same when it sends an answer again.
        annotator: name.
        row: number of the row in the sample.
        answer: one of `ANSWERS`, or None where the annotator took the last answer back.
        note: free text, None when empty.
        seconds: from the row's appearance to the answer.
        time_utc: ISO 8601.
    """

    id: str
    annotator: str
    row: int
    answer: str | None
    note: str | None
    seconds: float | None
    time_utc: str


class InvalidAnswerError(Exception):
    """An answer that cannot be stored; the message says why."""


def read_rows(sample: pa.Table, where: str) -> tuple[list[Row], str]:
    """Return the sample's rows in their order and the sample's id, a hash of rows and frame.

    Raises:
        UsageError: a column is missing or the sample is empty.

    >>> import pyarrow.parquet as pq
    >>> rows, sample_id = read_rows(pq.read_table("sample.parquet"), "sample.parquet")
    >>> len(rows), rows[0].role in ("sample", "repeat"), len(sample_id)
    (110, True, 16)
    """
    table = require_columns(sample, _NEEDED, where, "a sample of `audit sample`").sort_by("order")
    if not table.num_rows:
        raise UsageError(f"{where}: the sample is empty")
    rows = [Row(**row) for row in table.select(["clip_id", "label", "role"]).to_pylist()]
    described = json.dumps([table.column("frame_hash")[0].as_py(), [asdict(row) for row in rows]])
    return rows, hashlib.sha256(described.encode()).hexdigest()[:16]


def order_for(rows: list[Row], sample_id: str, annotator: str) -> list[int]:
    """Return the row numbers in this annotator's own random order, repeats after their originals.

    The same annotator and sample give the same order in every session.

    >>> rows = [Row("a", "rain", "sample"), Row("b", "rain", "sample"), Row("a", "rain", "repeat")]
    >>> order = order_for(rows, "0123", "Ada")
    >>> order.index(0) < order.index(2), order == order_for(rows, "0123", "ADA")
    (True, True)
    """
    seed = hashlib.sha256(f"{sample_id}\0{annotator.casefold()}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(seed, np.uint32))
    when = rng.random(len(rows))
    again = rng.random(len(rows))
    first = {(row.clip_id, row.label): number for number, row in enumerate(rows) if row.role != "repeat"}
    for number, row in enumerate(rows):
        original = first.get((row.clip_id, row.label))
        if row.role == "repeat" and original is not None:
            when[number] = when_again(when[original], again[number])
    order: list[int] = np.argsort(when, kind="stable").tolist()
    return order


def clean_name(name: object) -> str:
    """Return an annotator's name in one spelling: NFC, single spaces.

    Raises:
        InvalidAnswerError: empty, too long, or not text.

    >>> clean_name(" Ada   Lovelace ")
    'Ada Lovelace'
    """
    if not isinstance(name, str):
        raise InvalidAnswerError("the annotator's name is not text")
    cleaned = " ".join(unicodedata.normalize("NFC", name).split())
    if not cleaned or len(cleaned) > LONGEST_NAME or any(unicodedata.category(mark)[0] == "C" for mark in cleaned):
        raise InvalidAnswerError(f"an annotator's name has 1 to {LONGEST_NAME} printable characters")
    return cleaned


class Session:
    """The answers of all annotators to one sample; safe for several threads, one process at a time.

    Args:
        rows: of the sample, from `read_rows`.
        sample_id: from `read_rows`.
        out: the annotation table to write, .parquet or .csv, at any location.

    Raises:
        UsageError: the journal is of another sample, damaged or in use; or a table is there without its journal.
        LeaseHeld: a journal in an object store is in use.
    """

    def __init__(self, rows: list[Row], sample_id: str, out: str) -> None:
        self.rows = rows
        self.sample_id = sample_id
        self.out = out
        self.journal_url = out + JOURNAL_SUFFIX
        self._lock = threading.RLock()
        self._answers: dict[str, RowAnnotation] = {}
        self._last = datetime.min.replace(tzinfo=UTC)
        if read_if_there(self.journal_url) is None and read_if_there(out) is not None:
            raise UsageError(
                f"{out} is there, its journal {split(self.journal_url)[1]} is not; the table would be lost. "
                "Put the journal beside it, or choose another --out"
            )
        self._journal = open_journal(self.journal_url, "audit listen")
        try:
            self._replay()
            self.write_annotations()
        except BaseException:
            self._journal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal; every answer is in it already."""
        with self._lock:
            self._journal.close()

    def annotators(self) -> list[str]:
        """Return the names with answers, sorted."""
        with self._lock:
            return sorted({answer.annotator for answer in self._answers.values()})

    def known_as(self, name: object) -> str:
        """Return the annotator's name, in the journal's spelling if only its case differs."""
        cleaned = clean_name(name)
        same = [known for known in self.annotators() if known.casefold() == cleaned.casefold()]
        return same[0] if same else cleaned

    def counted(self, annotator: str | None = None) -> dict[tuple[str, int], RowAnnotation]:
        """Return (annotator, row) -> the answer that counts: the latest that was not taken back."""
        return {key: given[-1] for key, given in self._standing().items() if given and annotator in (None, key[0])}

    def kept(self) -> int:
        """Return the number of answers that count, over all annotators."""
        return len(self.counted())

    def record(self, entry: dict[str, Any]) -> RowAnnotation:
        """Store one answer; the answer None takes the last one of this row back.

        Args:
            entry: `id`, `annotator`, `row`, `answer`, and maybe `note`, `seconds`.

        Returns:
            The stored answer; the earlier one where the id is known.

        Raises:
            InvalidAnswerError: a value is invalid; nothing is stored.
            OSError: the disk or object store failed.
        """
        answer = self._checked(entry)
        with self._lock:
            known = self._answers.get(answer.id)
            if known is not None:
                return known
            self._append({"event": "answer", **asdict(answer)})
            self._answers[answer.id] = answer
            return answer

    def write_annotations(self) -> None:
        """Write the annotation table from the journal, whole or not at all."""
        with self._lock:
            write_table(self.annotations(), self.out)

    def annotations(self) -> pa.Table:
        """Return the annotation table: every answer not taken back, in order of time."""
        standing = [answer for given in self._standing().values() for answer in given]
        ordered = sorted(standing, key=lambda answer: answer.time_utc)
        entries = [
            asdict(answer) | asdict(self.rows[answer.row]) | {"time_utc": datetime.fromisoformat(answer.time_utc)}
            for answer in ordered
        ]
        return pa.Table.from_pylist(entries, schema=ANNOTATION_SCHEMA)

    def _standing(self) -> dict[tuple[str, int], list[RowAnnotation]]:
        """Return (annotator, row) -> its answers in order, without those taken back."""
        with self._lock:
            answers = list(self._answers.values())
        standing: dict[tuple[str, int], list[RowAnnotation]] = {}
        for answer in answers:
            given = standing.setdefault((answer.annotator, answer.row), [])
            if answer.answer is not None:
                given.append(answer)
            elif given:
                given.pop()
        return standing

    def _now(self) -> str:
        """Return the time, later than that of every earlier answer even if the clock was set back."""
        now = datetime.now(UTC)
        with self._lock:
            self._last = max(now, self._last + timedelta(microseconds=1))
            return self._last.isoformat(timespec="microseconds")

    def _checked(self, entry: dict[str, Any]) -> RowAnnotation:
        row, chosen, note, identifier = (entry.get(name) for name in ("row", "answer", "note", "id"))
        if not isinstance(identifier, str) or not _ID.fullmatch(identifier):
            raise InvalidAnswerError("the answer has no id")
        if not isinstance(row, int) or isinstance(row, bool) or not 0 <= row < len(self.rows):
            raise InvalidAnswerError("no such row")
        if "answer" not in entry:  # only null takes an answer back
            raise InvalidAnswerError("the key 'answer' is missing")
        if chosen is not None and chosen not in ANSWERS:
            raise InvalidAnswerError(f"{chosen!r} is not one of {', '.join(ANSWERS)}")
        if note is not None and (not isinstance(note, str) or len(note) > LONGEST_NOTE):
            raise InvalidAnswerError(f"a note is text of at most {LONGEST_NOTE:,} characters")
        cleaned = note.strip().encode("utf-8", "replace").decode() if note else ""
        seconds = entry.get("seconds")
        timed = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds <= LONGEST_S
        return RowAnnotation(
            id=identifier,
            annotator=self.known_as(entry.get("annotator")),
            row=row,
            answer=chosen,
            note=cleaned or None,
            seconds=round(float(seconds), 3) if timed and seconds is not None else None,
            time_utc=self._now(),
        )

    def _replay(self) -> None:
        lines = self._journal.lines()  # a line cut by a crash was never acknowledged
        if not lines:
            self._append({"event": "session", "sample": self.sample_id, "rows": len(self.rows)})
            return
        events = []
        for number, line in enumerate(lines, start=1):
            try:
                events.append(json.loads(line))
                self._take(events[-1], first=number == 1)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                msg = f"{self.journal_url}: line {number:,} is damaged ({error}); restore it or remove that line"
                raise UsageError(msg) from error
        if any(OLD_NAMES.keys() & event.keys() for event in events):
            log_old_names(self.journal_url, list(OLD_NAMES))

    def _take(self, event: dict[str, Any], *, first: bool) -> None:
        if first:
            if event["event"] != "session" or event["sample"] != self.sample_id:
                raise UsageError(
                    f"{self.journal_url} holds answers to another sample ({event.get('sample')}, this one is "
                    f"{self.sample_id}); choose another --out"
                )
            return
        named = {OLD_NAMES.get(name, name): value for name, value in event.items()}
        answer = RowAnnotation(**{name: named[name] for name in RowAnnotation.__dataclass_fields__})
        if not 0 <= answer.row < len(self.rows):
            raise ValueError(f"row {answer.row} is not in the sample")
        self._last = max(self._last, datetime.fromisoformat(answer.time_utc))
        self._answers[answer.id] = answer

    def _append(self, event: dict[str, Any]) -> None:
        self._journal.append(json.dumps(event, ensure_ascii=False).encode() + b"\n")
