"""`acoustic-env serve --ray` for `ray job submit -- python jobs/serve.py --bundle ... --host 0.0.0.0 --port 8000`."""

import sys

from acoustic_env.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", "--ray", *sys.argv[1:]]))
