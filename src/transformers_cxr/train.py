"""The command `transformers-cxr train` as a module: `accelerate launch -m transformers_cxr.train`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
