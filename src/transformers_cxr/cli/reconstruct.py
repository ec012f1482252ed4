"""The command `reconstruct`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..checkpoints import checkpoint_name, load_vq_tokenizer, weights_fingerprint
from . import options
from .images import ImageReader, list_images, write_image
from .json_lines import open_json_lines


def reconstruct(
    images: options.Images,
    output: Annotated[Path, typer.Option(help="Folder to write to.", file_okay=False)] = Path("reconstructed"),
    batch_size: options.BatchSize = 8,
    model: options.Model = None,
    device: options.Device = None,
):
    """
    Write X-rays beside their reconstructions by the image tokenizer.

    One PNG per image, with the original on the left. The PSNR in dB is printed and, with the name of the PNG, written
    to reconstructions.jsonl in the same folder. The same command again writes missing files.

    ```
    transformers-cxr reconstruct xray.png
    transformers-cxr reconstruct scans/ --model runs/vq --output reconstructions
    ```
    """
    with open_json_lines(output / "reconstructions.jsonl", "image") as results:
        import torch

        from ..evaluation.metrics.reconstruction import RECONSTRUCTION_NOTICE

        paths = list_images(images)
        vq_tokenizer, image_processor = load_vq_tokenizer(model, device)
        fingerprint = weights_fingerprint(vq_tokenizer)
        settings = {"settings": {"model": checkpoint_name(model), "fingerprint": fingerprint}}
        known = {path: results.find({"image": path, **settings}) for path in paths}
        missing = [path for path, result in known.items() if not result or not (output / result["file"]).exists()]
        psnr = {path: result["psnr"] for path, result in known.items() if path not in missing}
        reader = ImageReader(image_processor)
        typer.echo(RECONSTRUCTION_NOTICE, err=True)
        batches = [missing[start : start + batch_size] for start in range(0, len(missing), batch_size)]
        for readable, pixel_values in reader.read(batches):
            pixel_values = pixel_values.to(vq_tokenizer.device)
            with torch.no_grad():
                decoded = vq_tokenizer.decode(vq_tokenizer.encode(pixel_values))
            mse = (decoded - pixel_values).square().mean(dim=(1, 2, 3))
            pairs = image_processor.postprocess(torch.cat([pixel_values, decoded], dim=-1))
            for path, pair, psnr[path] in zip(readable, pairs, (10 * torch.log10(4 / mse)).tolist()):
                pair.info["comment"] = RECONSTRUCTION_NOTICE
                result = known[path] or {
                    "image": path,
                    # The number distinguishes images of the same name from several folders.
                    "file": f"{len(results.results):03d}-{Path(path).stem}.png",
                    "psnr": psnr[path],
                    **settings,
                    "generated": True,
                    "notice": RECONSTRUCTION_NOTICE,
                }
                write_image(pair, result, results)
        for path in paths:
            if path in psnr:
                typer.echo(f"{psnr[path]:6.2f} dB  {path}")
        if len(psnr) > 1:
            typer.echo(f"{sum(psnr.values()) / len(psnr):6.2f} dB  mean of {len(psnr)} images")
        reader.exit_if_failed()
