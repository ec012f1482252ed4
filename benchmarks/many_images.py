"""
Time and peak memory of `transformers-cxr encode` or `report` on growing numbers of X-rays.

    python benchmarks/many_images.py FOLDER --command encode --numbers 1000 2000 3000 4000 5000
    python benchmarks/many_images.py FOLDER --command report --numbers 100 200 300 --batch-size 8

Each run is a process of its own on the first images of the folder. The last line is a linear fit of the seconds: the
cost of a thousand images, that of the start, and the largest difference of a run from the fit. Peak memory is the
largest resident set of the process.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from convert import run

from transformers_cxr.data.readers.image_folder import walk_images


def main(args: argparse.Namespace) -> None:
    images, seconds = list(walk_images(Path(args.folder).absolute())), []
    if len(images) < max(args.numbers):
        raise SystemExit(f"Expected {max(args.numbers)} images in '{args.folder}', got {len(images)}.")
    print(f"| images | `{args.command}` (s) | s per thousand | peak memory (MB) |")
    print("|---|---|---|---|")
    for number in args.numbers:
        with tempfile.TemporaryDirectory() as folder:
            xrays = Path(folder, "xrays")
            xrays.mkdir()
            for image in images[:number]:
                (xrays / f"{image.parent.name}-{image.name}").symlink_to(image)
            options = ["--device", args.device, "--batch-size", str(args.batch_size), "--output", f"{folder}/output"]
            took, peak = run(["-m", "transformers_cxr.cli.main", args.command, str(xrays), *options])
        seconds.append(took)
        print(f"| {number} | {took:.1f} | {1000 * took / number:.1f} | {peak:.0f} |", flush=True)
    slope, start = np.polyfit(args.numbers, seconds, 1)
    difference = np.abs(np.polyval([slope, start], args.numbers) - seconds).max()
    print(f"\n{1000 * slope:.1f} s per thousand images, and {start:.1f} s; runs differ by up to {difference:.1f} s.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder of X-rays, at any depth")
    parser.add_argument("--command", choices=["encode", "report"], default="encode")
    parser.add_argument("--numbers", type=int, nargs="+", default=[1000, 2000, 3000, 4000, 5000])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    main(parser.parse_args())
