"""
The demo page with several users at once: time to the first token and to the full report, refused requests, and answers
that belong to another user's image.

    python benchmarks/demo_page.py
    python benchmarks/demo_page.py --users 8 --seconds 120 --images FOLDER

Each user has an X-ray and, until the time is over, uploads it, requests the report, asks a question and generates an
image with their own seed. The responses are compared with the output of the model outside the page: reconstruction and
generated image pixel by pixel, report and answer as text. Without `--images` the X-rays are the examples of the
page. The times are seconds as a user sees them, including waiting.
"""

import argparse
import statistics
import threading
import time
from collections import Counter
from pathlib import Path

import gradio_client
import numpy as np
import PIL.Image
import torch
import transformers

from transformers_cxr.checkpoints import checkpoint_name, load_checkpoint
from transformers_cxr.demo.handlers import EXAMPLES, report_sections
from transformers_cxr.demo.model import DemoModel
from transformers_cxr.demo.server import serve

QUESTION = "Is there pneumonia?"
TEXT = "IMPRESSION: Normal chest X-ray of a child."


class User:
    """One user with an image and the expected responses of the page."""

    def __init__(self, url: str, demo_model: DemoModel, image: Path, seed: int):
        self.client = gradio_client.Client(url, verbose=False, httpx_kwargs={"timeout": 60})
        self.image = image
        self.seed = seed
        xray = demo_model.open(image)
        self.reconstruction = np.asarray(xray.reconstruction)
        *_, report = demo_model.write(xray.codes, [demo_model.processor.report_instruction])
        self.report = report_sections(report)
        *_, self.answer = demo_model.write(xray.codes, [QUESTION])
        *_, images = demo_model.generate(TEXT, seed=seed, guidance_scale=1.0)
        self.generated = np.asarray(images[0])
        self.first_token: list[float] = []
        self.full_report: list[float] = []
        self.counts = Counter()

    def use_until(self, end: float) -> None:
        while time.monotonic() < end:
            for step in (self._open, self._report, self._ask, self._generate):
                try:
                    correct = step()
                # Count and show every refusal, whatever its reason.
                except Exception as error:
                    self.counts["refused"] += 1
                    print(f"user {self.seed}: {step.__name__.strip('_')}: {error}", flush=True)
                else:
                    self.counts["answered" if correct else "mixed up"] += 1

    def _open(self) -> bool:
        _, reconstruction, *_ = self.client.predict(gradio_client.handle_file(self.image), api_name="/open_image")
        return np.array_equal(PIL.Image.open(reconstruction).convert("L"), self.reconstruction)

    def _report(self) -> bool:
        begin = time.monotonic()
        job = self.client.submit(api_name="/report")
        for index, _ in enumerate(job):
            if index == 0:
                self.first_token.append(time.monotonic() - begin)
        self.full_report.append(time.monotonic() - begin)
        return tuple(job.result()) == self.report

    def _ask(self) -> bool:
        messages, _ = self.client.predict(QUESTION, api_name="/ask")
        return messages[-1]["content"][0]["text"] == self.answer

    def _generate(self) -> bool:
        (result,) = self.client.predict(TEXT, 1, 1, self.seed, api_name="/generate")
        return np.array_equal(PIL.Image.open(result["image"]), self.generated)


def median_and_max(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} | {max(seconds):.2f}" if seconds else "none | none"


def main(args: argparse.Namespace) -> None:
    model, processor = load_checkpoint(args.model, args.device, None)
    with serve(model, processor) as url:
        images = (
            list(EXAMPLES) if args.images is None else sorted(p for p in Path(args.images).iterdir() if p.is_file())
        )
        if len(images) < max(args.users):
            raise SystemExit(f"Expected {max(args.users)} images, one per user, got {len(images)}: use `--images`.")
        print(f"{checkpoint_name(args.model)}, {model.device}, {torch.get_num_threads()} threads, ", end="")
        print(f"torch {torch.__version__}, transformers {transformers.__version__}\n")
        print("| users | seconds | reports | first token, median | max | full report, median | max | ", end="")
        print("answered | refused | mixed up |\n|" + "---|" * 10)
        demo_model = DemoModel(model, processor)
        for count in args.users:
            users = [User(url, demo_model, image, seed) for seed, image in enumerate(images[:count])]
            begin = time.monotonic()
            threads = [threading.Thread(target=user.use_until, args=(begin + args.seconds,)) for user in users]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seconds = time.monotonic() - begin
            counts = sum((user.counts for user in users), Counter())
            full_report = [s for user in users for s in user.full_report]
            first_token = [s for user in users for s in user.first_token]
            print(
                f"| {count} | {seconds:.0f} | {len(full_report)} | {median_and_max(first_token)} | "
                f"{median_and_max(full_report)} | {counts['answered']} | {counts['refused']} | {counts['mixed up']} |",
                flush=True,
            )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", nargs="+", type=int, default=[1, 8], help="users at once")
    parser.add_argument("--seconds", type=float, default=120, help="duration of a run")
    parser.add_argument("--images", help="folder of X-rays, one per user; default: the eight examples")
    parser.add_argument("--model", help="checkpoint; default: the embedded one")
    parser.add_argument("--device", help="cpu, cuda ...; default: CUDA if available")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse_args())
