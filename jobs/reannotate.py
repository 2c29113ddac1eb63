"""`acoustic-env reannotate` for `ray job submit -- python jobs/reannotate.py --clips ... --json`."""

import sys

from acoustic_env.cli import main

if __name__ == "__main__":
    sys.exit(main(["reannotate", *sys.argv[1:]]))
