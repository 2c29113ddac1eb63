"""Wrong labels and the AUC: synthetic scenes with 0 to 30 % of labels flipped, judged by given and by true labels.

    python -m tests.models.bench_flips --demo demo-out [--flips 0,0.1,0.2,0.3]

Needs the folder of a finished demo (its features and its truth). Labels are flipped clip by clip, then every clip is
judged out of fold by the recipe's model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from acoustic_env.audit.table import read_table
from acoustic_env.clips.table import read_clips
from acoustic_env.io.documents import load_recipe
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.preprocessing import Preprocessor
from acoustic_env.models.learn import prepare
from acoustic_env.models.validation.cross_fitting import out_of_fold
from acoustic_env.stats.intervals import of_metric
from acoustic_env.stats.ranking import Ranking
from acoustic_env.store.feature_store import FeatureStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", required=True)
    parser.add_argument("--flips", default="0,0.1,0.2,0.3")
    options = parser.parse_args()
    demo, recipe = Path(options.demo), load_recipe("scenes")
    clips = read_clips(str(demo / "scenes" / "clips.parquet"))
    study = prepare(clips, FeatureStore(str(demo / "features")), recipe, log=lambda _: None)
    table = read_table(str(demo / "scenes" / "truth.parquet"))
    label = dict(zip(table["clip_id"].to_pylist(), table["label"].to_pylist(), strict=True))
    true = np.array([label[clip_id] == "urban" for clip_id in study.targets.clip_ids])
    print("flipped  AUC by given labels    AUC by true labels")
    for flip in map(float, options.flips.split(",")):
        flipped = np.random.default_rng(23).permutation(len(true)) < round(flip * len(true))
        given = true ^ flipped
        posterior = out_of_fold(
            Examples(study.matrix.values, given.astype(np.int64), study.groups),
            recipe.model,
            preprocessor=Preprocessor.of(study.matrix.columns, recipe.reduction),
            size=recipe.model.ensemble,
        ).probabilities[:, 1]
        by_given, by_true = (
            of_metric(Ranking(truth, posterior).auc, study.groups, truth[:, None]) for truth in (given, true)
        )
        print(f"{flip:>6.0%}   {by_given}   {by_true}")


if __name__ == "__main__":
    main()
