"""`acoustic-env train` for `ray job submit -- python jobs/train_classifier.py --clips ... --workers 4`."""

import sys

from acoustic_env.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
