"""A study in a notebook: the steps of the command line as methods, with tables as results."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acoustic_env.cli import build_parser
from acoustic_env.commands.arguments import complete
from acoustic_env.errors import UsageError
from acoustic_env.io.study_folder import StudyFolder, read_study

if TYPE_CHECKING:
    import pandas as pd

    from acoustic_env.api import Classifier, Store


class Study:
    """A study: a folder or URL with study.yaml, made by `Study.init` or `acoustic-env init`.

    Each method is the command of its name in that study; keyword arguments are the command's options
    (`acoustic-env train --help`), with underscores for dashes. What a command logs goes to standard error.

    Args:
        folder: path or URL.

    Raises:
        UsageError: there is no study, or study.yaml is damaged.

    >>> from acoustic_env import Study
    >>> study = Study("study")
    >>> found = study.train(model="logistic")
    >>> study.bundle.classes
    ('natural', 'urban')
    >>> sorted(study.evaluate()["metrics"])[:3]
    ['accuracy', 'auc', 'average_precision']
    >>> study.predict().columns.tolist()
    ['clip_id', 'label', 'posterior']
    """

    def __init__(self, folder: str | Path = ".") -> None:
        self.folder = str(folder)
        self._read()

    @classmethod
    def init(cls, audio: str | Path, folder: str | Path = ".", **options: Any) -> Study:
        """Make a study of a folder of audio or a clip list.

        Args:
            audio: folder, or list as Parquet or CSV.
            folder: of the study.
            **options: `labels`, `group_from`, `recipe`.

        Raises:
            UsageError: the audio or an option is wrong, or a study is there already.
        """
        _run(["init", str(audio), str(folder)], options)
        return cls(folder)

    @property
    def clips(self) -> pd.DataFrame:
        """The clip list."""
        from acoustic_env.clips.table import read_clips

        table: pd.DataFrame = read_clips(self._read().place("clips")).to_pandas()
        return table

    @property
    def store(self) -> Store:
        """The feature store, for reading."""
        from acoustic_env.api import open_store

        return open_store(self._read().place("store"))

    @property
    def bundle(self) -> Classifier:
        """The trained classifier."""
        from acoustic_env.api import load_bundle

        return load_bundle(self._read().place("bundle"))

    def extract(self, **options: Any) -> dict[str, Any]:
        """Compute what is missing in the store; return the record of the run: clips, failures, rates, versions."""
        return dict(self._command("extract", options))

    def train(self, **options: Any) -> dict[str, Any]:
        """Train the classifier and write the bundle; return its performance on held-out clips."""
        return dict(self._command("train", options))

    def compare(self, **options: Any) -> pd.DataFrame:
        """Compare blocks, signals and classifiers; return a row for each, best first."""
        return _table(self._command("compare", options))

    def evaluate(self, **options: Any) -> dict[str, Any]:
        """Evaluate the bundle on clips it was not trained on; return the metrics with their intervals."""
        return dict(self._command("evaluate", options))

    def predict(self, files: str | Path | Sequence[str | Path] = (), **options: Any) -> pd.DataFrame:
        """Predict the study's clips, or audio files; return clip_id, label and posterior, a row a clip and class."""
        given = [files] if isinstance(files, (str, Path)) else files
        return _read_table(self._command("predict", options, *map(str, given))["predictions"])

    def explain(self, **options: Any) -> pd.DataFrame:
        """Draw what the classifier relies on; return the plots with their captions and files."""
        return _table(self._command("explain", options))

    def rank(self, **options: Any) -> pd.DataFrame:
        """Rank every label by quality, lowest first; return clip_id, label, given, quality and the scorers' scores."""
        return _read_table(self._command("audit rank", options)["out"])

    def report(self, **options: Any) -> str:
        """Write the page with everything there is; return its path."""
        return str(self._command("report", options)["page"])

    def _read(self) -> StudyFolder:
        return read_study(self.folder)

    def _command(self, command: str, options: dict[str, Any], *positional: str) -> Any:
        return _run([*command.split(), *positional], options | {"study": self.folder})


def _run(words: list[str], options: dict[str, Any]) -> Any:
    """Run a command with `--json` and return what it prints; raises what it raises."""
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            words.append(f"{option}={text}")
    said, printed = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            namespace = build_parser(words[0]).parse_args([*words, "--json"])
    except SystemExit as error:
        raise UsageError(said.getvalue().strip().rpartition("error: ")[2]) from error
    namespace.resume = "run this step again"
    complete(namespace)
    with contextlib.redirect_stdout(printed):
        namespace.run(namespace)
    return json.loads(printed.getvalue())


def _table(rows: Any) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows)


def _read_table(place: str) -> pd.DataFrame:
    from acoustic_env.audit.table import read_table

    table: pd.DataFrame = read_table(place).to_pandas()
    return table
