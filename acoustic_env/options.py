"""The settings of one run of a command: its options, their defaults, ranges and help texts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from acoustic_env.config import Settings

Design = Literal["simple", "stratified", "unequal"]


class ExtractSettings(Settings):
    """One run of the extraction job."""

    clips: str
    """Clip list (Parquet or CSV) or folder of audio, at any fsspec URL."""

    store: str
    """Feature store: a folder, s3://bucket/prefix or another fsspec URL."""

    recipe: str | None = None
    """Recipe (name or YAML file) whose signals and blocks, with their options, are the defaults of those two."""

    signals: tuple[str, ...] = ()
    """Signals of each clip, such as raw,fg,bg. Default: those of the recipe; without one, these three."""

    blocks: tuple[str, ...] = ()
    """Feature blocks, such as indices,mps. Default: those of the recipe; without one, these two."""

    engine: Literal["fast", "reference"] = "fast"
    """Engine: batched array code (fast) or the published libraries (reference)."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of networks and the modulation spectrum; auto takes a GPU where there is one."""

    limit: int | None = Field(None, ge=1)
    """Only the first N clips of the list, 1 or more. Default: all."""

    retry_errors: bool = False
    """Try clips with a permanent error again."""

    max_error_rate: float = Field(0.05, ge=0, le=1)
    """Share of the list's clips that may fail, 0 to 1, before the run ends with exit code 3."""

    address: str | None = None
    """Ray cluster to join. Default: that of RAY_ADDRESS, else one that is started on this machine."""

    wait_for_nodes: int | None = Field(None, ge=1)
    """Wait until N nodes with CPUs have joined the cluster, 1 or more, at most 15 minutes. Default: take those there
    are."""

    max_workers: int | None = Field(None, ge=1)
    """Workers that compute on CPUs, at most, 1 or more. Default: one a CPU, and more as nodes join."""

    dry_run: bool = False
    """Print the plan and how long it takes, and stop."""

    relocated: tuple[str, ...] = ()
    """The audio below OLD (a folder or URL), from which rows were computed, is now below NEW: the same files. May be
    given more than once."""


class StudySettings(Settings):
    """The data of a study, for training, search and comparison."""

    clips: str
    """Clip list (Parquet or CSV) or folder of audio, at any fsspec URL."""

    store: str
    """Feature store: a folder, s3://bucket/prefix or another fsspec URL."""

    recipe: str | None = None
    """Recipe: a name or a YAML file. Default: the list's labels are the classes, the store's blocks of clips the
    features."""

    out: str
    """Folder of the results."""

    blocks: tuple[str, ...] = ()
    """Feature blocks, instead of the recipe's."""

    signals: tuple[str, ...] = ()
    """Signals, instead of the recipe's."""

    group_by: str | None = None
    """Column of the clip list whose values must not be split, such as site. Default: group."""

    fingerprint: tuple[str, ...] = ()
    """Version of a block that the store has in several. May be given more than once."""


class TrainSettings(StudySettings):
    """One run of `train`."""

    model: str | None = None
    """Kind of the classifier: mlp, xgboost, logistic, random_forest, gradient_boosting, svm, knn, on frames cnn,
    resnet, attention, crnn, or one of another package. Default: the recipe's."""

    settings: str | None = None
    """Classifier settings (YAML or JSON), as of `tune`."""

    ensemble: int | None = Field(None, ge=1)
    """Models averaged, 1 or more. Default: the recipe's."""

    workers: int | None = Field(None, ge=0)
    """Ray Train workers of a network; 0 for this process. Default: the recipe's."""

    overfit: int | None = Field(None, ge=1)
    """Only check that the network can learn: train on this many batches alone, without regularization, until the loss
    falls to a fiftieth. Writes nothing; exit code 1 where it does not fall."""

    checkpoints: str | None = None
    """Checkpoints of the workers, a folder or URL that every node sees."""

    address: str | None = None
    """Ray cluster to join. Default: that of RAY_ADDRESS, else one that is started on this machine."""


class TuneSettings(StudySettings):
    """One run of `tune`."""

    model: str | None = None
    """Kind of the classifier, as of `train`. Default: the recipe's."""

    settings: str | None = None
    """Classifier settings that are not searched (YAML or JSON)."""

    trials: int = Field(100, ge=1)
    """Trials in all, 1 or more."""

    inner_folds: int | None = Field(None, ge=2)
    """Score a trial by predictions out of this many grouped folds of training and validation clips, 2 or more. Default:
    by those of the validation clips."""

    address: str | None = None
    """Ray cluster to join. Default: that of RAY_ADDRESS, else one that is started on this machine."""


class CompareSettings(StudySettings):
    """One run of `compare`."""

    models: tuple[str, ...] = ()
    """Classifiers to compare: kinds, and files of settings (.yaml or .json), each named by its file. Default: the
    recipe's."""

    trials: int | None = Field(None, ge=1)
    """Search each classifier's settings, so many trials on five inner folds of each training part (nested
    cross-validation). Default: settings as they are."""

    every_fold: bool = False
    """Predict test folds, too; results can no longer be used for model selection."""


class SampleSettings(Settings):
    """How a sample of ranked rows is drawn."""

    n: int = Field(ge=1)
    """Rows to draw; gold and repeated rows are added."""

    design: Design = "stratified"
    """simple (all rows alike), stratified (class x score quantile, as fine as n allows) or unequal (undecided rows more
    often, with a minimum for every row)."""

    seed: int = Field(23, ge=0)
    """Seed of the draw and of the order."""

    absent: bool = False
    """Sample labels that the list does not give, to find missing ones, in place of those it gives."""

    repeat: float = Field(0.1, ge=0, le=1)
    """Share of the drawn rows presented a second time, to measure whether annotators agree with themselves, 0 to 1."""


class RelabelSettings(Settings):
    """How the ranking may decide labels without an answer."""

    precision: float = Field(0.8, ge=0.5, lt=1)
    """Share of automatic decisions that must be right, proven with 95 % confidence for each kind (drop, add, keep), in
    [0.5, 1)."""


class ReannotateSettings(Settings):
    """One run of the re-annotation job."""

    clips: str
    """The new clip list (Parquet or CSV) or folder of audio."""

    store: str
    """Feature store."""

    bundle: str
    """Folder of the trained classifier."""

    versions: str
    """LABELS, the folder of versions of the labels."""

    annotations: str | None = None
    """All annotations of the samples so far (Parquet or CSV); those of earlier runs are kept."""

    budget: int = Field(100, ge=2)
    """Rows in the sample that evaluates a version, at least 2."""

    approve: str | None = None
    """Name of the approver: publish the new version whatever its sample says."""

    max_error_rate: float = Field(0.05, ge=0, le=1)
    """Share of the list's clips that may fail in the extraction before the run ends with exit code 3, 0 to 1."""

    address: str | None = None
    """Ray cluster to join; without it that of RAY_ADDRESS, or a local one."""

    seed: int = Field(23, ge=0)
    """Seed of the sample and of the drift test."""


class ServeSettings(Settings):
    """Limits of the classification page and its HTTP API."""

    max_megabytes: float = Field(256.0, gt=0)
    """Largest upload in MB (10^6 bytes)."""

    max_seconds: float = Field(3600.0, gt=0)
    """Longest recording in seconds."""

    decode_seconds: float = Field(60.0, gt=0)
    """Seconds that decoding a recording may take, of processor time and of waiting."""

    decode_megabytes: int = Field(1024, ge=64)
    """Memory that decoding a recording may take, in MB, at least 64."""

    concurrency: int = Field(2, ge=1)
    """Recordings classified at the same time, and decoding processes."""

    waiting: int = Field(16, ge=0)
    """Further requests that may wait or be uploading; others are answered 503."""

    per_minute: int = Field(240, ge=1)
    """Requests for classification per minute and client address; others are answered 429."""

    upload_seconds: float = Field(120.0, gt=0)
    """Seconds that an upload may take."""


class ReplicaSettings(Settings):
    """Replicas and batches on Ray Serve."""

    replicas: int = Field(1, ge=1)
    """Replicas of the classifier, one CPU each."""

    page_replicas: int = Field(1, ge=1)
    """Replicas of the page and its API, which decode, one CPU each."""

    batch: int = Field(8, ge=1)
    """Windows, of any requests, that a replica of the classifier computes together."""

    batch_wait_ms: float = Field(2.0, ge=0)
    """Milliseconds that a replica waits for more windows before it computes a batch that is not full."""


class RayServeSettings(ServeSettings, ReplicaSettings):
    """The application on Ray Serve: `args` of a Serve config."""

    bundle: str
    """Trained classifier, at any fsspec URL that every node reads."""

    window_s: float | None = Field(None, ge=0.1)
    """Length of the windows in seconds; null for that of the training clips."""

    host: str = "127.0.0.1"
    """Address that is served, or the host name that clients use."""

    port: int = Field(8000, ge=1, le=65535)
    """Port that is served."""
