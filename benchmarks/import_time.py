"""
Time of `import transformers_cxr`, compared with `import transformers` and `import torch`.

    python benchmarks/import_time.py
    python benchmarks/import_time.py --repeats 3

Each import runs in its own process. Prints the medians of `--repeats` rounds as a Markdown table.
"""

import argparse
import statistics
import subprocess
import sys

MODULES = ("transformers_cxr", "transformers", "torch")
CODE = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def import_seconds(module: str) -> float:
    return float(subprocess.check_output([sys.executable, "-c", CODE.format(module)], text=True))


def main(repeats: int):
    for module in MODULES:
        import_seconds(module)  # fill the file cache
    seconds = {module: [] for module in MODULES}
    for _ in range(repeats):
        for module in MODULES:
            seconds[module].append(import_seconds(module))
    medians = {module: statistics.median(values) for module, values in seconds.items()}
    print("| import | seconds | times transformers_cxr |")
    print("|---|---|---|")
    for module, median in medians.items():
        print(f"| {module} | {median:.3f} | {median / medians['transformers_cxr']:.1f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10, help="imports of each module")
    main(**vars(parser.parse_args()))
