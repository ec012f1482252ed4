"""
Damaged files, images near the pixel limit, killed commands and a loaded demo page, in one table.

    python benchmarks/robustness.py
    python benchmarks/robustness.py images dicoms limit --seed 1
    python benchmarks/robustness.py kills page --xrays FOLDER

The seeds of the damaged files are real X-rays in every format, and the files of pydicom and pydicom-data. The image
processor reads files in a process of its own; it must read them or raise `ValueError` or `OSError`. A killed command
resumes until it is finished, and its output must be that of a command that was not killed. The users of the demo page
compare its responses with those of the model, while another one uploads damaged files. Exit code 1 if something
crashed, hung or raised another error, or if an output was lost or mixed up.

Peak memory is the largest resident set of the process that does the work; importing alone takes about 0.4 GB.
"""

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
from damage import damage, dicom_seeds, image_seeds, make_dicom, pydicom_seeds
from pydicom import uid

from transformers_cxr import LlmCxrImageProcessor
from transformers_cxr.data.readers.image_folder import walk_images

EXAMPLES = sorted(Path(__file__).parents[1].glob("examples/images/*.jpeg"))
# In seconds.
TIMEOUT = 60
COMMAND = [sys.executable, "-m", "transformers_cxr.cli.main"]


@dataclass
class Row:
    """A row of the table. `wrong` counts lost or mixed up outputs; `longest` is in seconds and `peak` in bytes."""

    name: str
    counts: Counter = field(default_factory=Counter)
    longest: float = 0
    peak: int = 0

    def add(self, outcome: str, seconds: float, peak: int = 0) -> None:
        self.counts[outcome] += 1
        self.longest, self.peak = max(self.longest, seconds), max(self.peak, peak)

    def __str__(self) -> str:
        outcomes = [self.counts[outcome] for outcome in ("done", "refused", "crashed", "hung", "wrong")]
        cells = [self.name, self.counts.total(), *outcomes, f"{self.longest:.1f}", f"{self.peak / 1e9:.1f}"]
        return f"| {' | '.join(map(str, cells))} |"


def peak_memory(pid: int | str = "self") -> int:
    """Return the largest resident set of a process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def read_file(processor: LlmCxrImageProcessor, file: bytes | str | Path) -> str:
    """Return "done" or "refused"; "wrong" if the pixels are, and "crashed" after another error."""
    try:
        pixel_values = processor(file, return_tensors="np").pixel_values
    except (OSError, ValueError) as error:
        return "refused" if str(error) else "crashed"
    except BaseException:
        traceback.print_exc()
        return "crashed"
    return "done" if pixel_values.shape == (1, 3, 256, 256) and np.abs(pixel_values).max() <= 1 else "wrong"


def _read_all(connection) -> None:
    """Read the files of a connection, paths or bytes, and answer with outcome, seconds and peak memory."""
    warnings.simplefilter("ignore")
    processor = LlmCxrImageProcessor()
    read_file(processor, EXAMPLES[0])
    connection.send("ready")
    while True:
        file, begin = connection.recv(), time.monotonic()
        outcome = read_file(processor, file)
        connection.send((outcome, time.monotonic() - begin, peak_memory()))


class FileReader:
    """A process that reads files, and starts again after a crash or a hang."""

    def __enter__(self):
        self.connection, theirs = multiprocessing.Pipe()
        # A forked process would inherit the memory of this one.
        self.process = multiprocessing.get_context("spawn").Process(target=_read_all, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.connection.recv()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()

    def read(self, file: bytes | str, row: Row) -> None:
        begin = time.monotonic()
        self.connection.send(file)
        try:
            if self.connection.poll(TIMEOUT):
                row.add(*self.connection.recv())
                return
            outcome = "hung"
        except EOFError:
            outcome = "crashed"
        row.add(outcome, time.monotonic() - begin)
        self.__exit__()
        self.__enter__()


def read_damaged(name: str, seeds: list[bytes], number: int, seed: int) -> Row:
    """Read `number` damaged files; write those that crash or hang to the folder for temporary files."""
    row = Row(name)
    with FileReader() as reader:
        for case in range(number):
            file, before = damage(seeds, np.random.default_rng([seed, case])), row.counts.copy()
            reader.read(file, row)
            (outcome,) = row.counts - before
            if outcome not in ("done", "refused"):
                path = Path(tempfile.gettempdir()) / f"{outcome}-{seed}-{case}"
                path.write_bytes(file)
                print(f"{outcome}: {path}", file=sys.stderr)
    return row


def limit_files(folder: Path) -> Iterable[tuple[str, Path]]:
    """Yield images just below the pixel limit."""
    side = int(PIL.Image.MAX_IMAGE_PIXELS**0.5)
    # A smooth picture with noise, so that nothing is compressed away.
    noise = np.random.default_rng(0).integers(0, 64, (side, side), dtype=np.uint16)
    pixels = (np.linspace(0, 4000, side).astype(np.uint16) + noise).astype(np.uint16)
    for name, array, options in (
        ("PNG, 8 bits", (pixels >> 4).astype(np.uint8), {"compress_level": 1}),
        ("PNG, 16 bits", pixels, {"compress_level": 1}),
        ("TIFF, 16 bits", pixels, {}),
        ("TIFF, float", pixels.astype(np.float32), {}),
    ):
        path = folder / f"{name}.{name[:4].strip().lower()}"
        PIL.Image.fromarray(array).save(path, name[:4].strip(","), **options)
        yield name, path
    for name, syntax in (
        ("uncompressed", uid.ExplicitVRLittleEndian),
        ("RLE", uid.RLELossless),
        ("JPEG 2000", uid.JPEG2000Lossless),
    ):
        path = folder / f"{name}.dcm"
        path.write_bytes(make_dicom(pixels, syntax))
        yield f"DICOM, {name}, 16 bits", path


def read_at_limit() -> Iterable[Row]:
    """Read an image near the pixel limit in each format, each in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        for name, path in limit_files(Path(folder)):
            row = Row(f"{name}, at the pixel limit")
            with FileReader() as reader:
                reader.read(str(path), row)
            path.unlink()
            # It is a valid image.
            row.counts["wrong"] = row.counts.pop("refused", 0)
            yield row


def make_xrays(folder: Path, count: int) -> list[Path]:
    """Write `count` different X-rays of 256x256 pixels, the examples of the page turned by a few degrees."""
    folder.mkdir()
    paths = [folder / f"xray-{number:02}.png" for number in range(count)]
    for number, path in enumerate(paths):
        PIL.Image.open(EXAMPLES[number % 2]).convert("L").resize((256, 256)).rotate(number // 2).save(path)
    return paths


def _read_encoded(output: Path) -> tuple[int, object]:
    """Return the number of finished shards and their content."""
    shards = sorted(output.glob("codes-*.parquet"))
    return len(shards), [pq.read_table(shard).to_pydict() for shard in shards]


def _read_reports(output: Path) -> tuple[int, object]:
    lines = output.read_text(encoding="utf-8").splitlines(keepends=True) if output.exists() else []
    finished = [line for line in lines if line.endswith("\n")]
    return len(finished), finished


def kill_and_resume(
    name: str, command: list[str], output: Path, read: Callable[[Path], tuple[int, object]], kills: int, seed: int
) -> Row:
    """Kill a command each time it has finished 0 to 2 more results, resume it, and compare its output."""
    row, generator = Row(f"`{name}`, killed"), np.random.default_rng(seed)
    arguments = [*COMMAND, name, *command, "--batch-size", "1", "--device", "cpu", "--output"]
    reference = output.with_name(f"reference-{output.name}")
    subprocess.run([*arguments, str(reference)], check=True, capture_output=True)
    total, expected = read(reference)
    for _ in range(kills):
        before, begin, peak = read(output)[0], time.monotonic(), 0
        target = min(before + int(generator.integers(3)), total - 1)
        process = subprocess.Popen([*arguments, str(output)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        hung = False
        while process.poll() is None and not hung and read(output)[0] < target:
            hung = time.monotonic() - begin > 5 * TIMEOUT
            peak = max(peak, peak_memory(process.pid))
            time.sleep(0.02)
        time.sleep(float(generator.random()))
        process.kill()
        process.wait()
        outcome = "hung" if hung else "wrong" if read(output)[0] < before else "done"
        row.add(outcome, time.monotonic() - begin, peak)
    if subprocess.run([*arguments, str(output)], capture_output=True).returncode or read(output)[1] != expected:
        row.counts["wrong"] += 1
    return row


def kill_all(folder: Path, kills: int, seed: int) -> Iterable[Row]:
    make_xrays(folder / "xrays", 2 * kills + 4)
    xrays = str(folder / "xrays")
    yield kill_and_resume("encode", [xrays, "--shard-size", "1"], folder / "codes", _read_encoded, kills // 2, seed)
    yield kill_and_resume("report", [xrays], folder / "reports.jsonl", _read_reports, kills - kills // 2, seed)


def _upload_damaged(url: str, seeds: list[bytes], folder: Path, end: float, row: Row, seed: int) -> None:
    """Upload damaged files to the page, one after the other."""
    import gradio_client

    client, case, path = gradio_client.Client(url, verbose=False), 0, folder / "damaged"
    while time.monotonic() < end:
        path.write_bytes(damage(seeds, np.random.default_rng([seed, case])))
        case, begin = case + 1, time.monotonic()
        try:
            client.predict(gradio_client.handle_file(path), api_name="/open_image")
            outcome = "done"
        except gradio_client.exceptions.AppError as error:
            outcome = "refused" if "damaged" in str(error) or "chest X-ray" in str(error) else "crashed"
        row.add(outcome, time.monotonic() - begin)


def use_page(folder: Path, seeds: list[bytes], num_users: int, seconds: float, seed: int) -> Iterable[Row]:
    """Serve the page by its command, and let users and uploads of damaged files at it."""
    # The process that reads files imports this script too.
    from demo_page import User

    from transformers_cxr.checkpoints import load_checkpoint
    from transformers_cxr.demo.model import DemoModel

    model, processor = load_checkpoint(device="cpu")
    demo_model, xrays = DemoModel(model, processor), make_xrays(folder / "users", num_users)
    with open(folder / "log", "w+") as log:
        process = subprocess.Popen(
            [*COMMAND, "demo", "--device", "cpu"], stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            url = process.stdout.readline().split()[4]
            users = [User(url, demo_model, xray, number) for number, xray in enumerate(xrays)]
            end, attack = time.monotonic() + seconds, Row("demo page, damaged uploads")
            targets = [(user.use_until, (end,)) for user in users]
            targets.append((_upload_damaged, (url, seeds, folder, end, attack, seed)))
            threads = [threading.Thread(target=target, args=arguments) for target, arguments in targets]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            peak = peak_memory(process.pid)
        finally:
            process.terminate()
            process.wait()
        log.seek(0)
        errors = log.read()
    row = Row(f"demo page, {num_users} users", sum((user.counts for user in users), Counter()))
    row.counts = Counter(
        # A user's requests are all valid.
        done=row.counts["answered"],
        wrong=row.counts["mixed up"] + row.counts["refused"],
        crashed=errors.count("Traceback"),
    )
    row.longest, row.peak = max(s for user in users for s in user.full_report), peak
    attack.peak = peak
    if errors:
        print(errors, file=sys.stderr)
    yield row
    yield attack


def main(args: argparse.Namespace) -> None:
    warnings.simplefilter("ignore")
    xrays = EXAMPLES if args.xrays is None else list(walk_images(Path(args.xrays)))[: args.num_xrays]
    print("| | tried | done | refused | crashed | hung | lost or mixed up | longest (s) | peak memory (GB) |")
    print("|" + "---|" * 9)
    failed = False

    def show(rows: Iterable[Row]) -> None:
        nonlocal failed
        for row in rows:
            print(row, flush=True)
            failed = failed or any(row.counts[outcome] for outcome in ("crashed", "hung", "wrong"))

    with tempfile.TemporaryDirectory() as folder:
        if "images" in args.parts:
            show([read_damaged("damaged images", image_seeds(xrays), args.images, args.seed)])
        if "dicoms" in args.parts:
            show(
                [read_damaged("damaged DICOM files", [*dicom_seeds(xrays), *pydicom_seeds()], args.dicoms, args.seed)]
            )
        if "limit" in args.parts:
            show(read_at_limit())
        if "kills" in args.parts:
            show(kill_all(Path(folder), args.kills, args.seed))
        if "page" in args.parts:
            seeds = [*image_seeds(EXAMPLES), *dicom_seeds(EXAMPLES), *pydicom_seeds()]
            show(use_page(Path(folder), seeds, args.users, args.seconds, args.seed))
    sys.exit(failed)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["images", "dicoms", "limit", "kills", "page"]
    parser.add_argument("parts", nargs="*", choices=[*parts, parts], default=parts, help="parts to run; default: all")
    parser.add_argument("--xrays", help="folder of X-rays, seeds of the damaged files; default: the examples")
    parser.add_argument("--num-xrays", type=int, default=20, help="X-rays of this folder to use")
    parser.add_argument("--images", type=int, default=2000, help="damaged images")
    parser.add_argument("--dicoms", type=int, default=2500, help="damaged DICOM files")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--users", type=int, default=8, help="users of the demo page at once")
    parser.add_argument("--seconds", type=float, default=120, help="duration of the demo page")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main(parse_args())
