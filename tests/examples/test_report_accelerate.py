"""`examples/report_accelerate.py` on a tiny model, by two processes and by one."""

import json
import os
import subprocess
import sys
from pathlib import Path

from transformers import pipeline

SCRIPT = "examples/report_accelerate.py"


def contents(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}


def test_two_processes_write_the_reports_of_the_pipeline_and_one_resumes(load_script, data_dir, model_dir, tmp_path):
    (data_dir / "3.png").write_bytes(b"no image")
    output, settings = tmp_path / "reports", {"batch_size": 2, "shard_size": 3}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = ["--records", data_dir, "--output_dir", output, "--model", model_dir]
    options += [part for name, value in settings.items() for part in (f"--{name}", value)]
    command = [*launch, Path(__file__).parents[2] / SCRIPT, *options]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run([str(part) for part in command], check=True, env=environment, timeout=300)

    images = [str(data_dir / f"{number}.png") for number in range(12) if number != 3]
    expected = [text["generated_text"] for (text,) in pipeline("cxr-report", model=str(model_dir))(images)]
    written = (output / "reports.jsonl").read_bytes()
    lines = [json.loads(line) for line in written.splitlines()]
    assert [(line["image"], line["report"]) for line in lines] == list(zip(images, expected, strict=True))
    assert all(line["generated"] and "For research only" in line["notice"] for line in lines)
    assert json.loads((output / "codes/skipped.jsonl").read_text())["id"] == "3.png"

    (batch,) = (output / "reports").glob("00000004-*.parquet")
    killed = [output / "codes/codes-00001.parquet", batch, output / "reports.jsonl"]
    for path in killed:
        path.unlink()
    kept = contents(output)
    with load_script(SCRIPT) as script:
        script.main(script.Arguments(str(data_dir), str(output), str(model_dir), **settings))
    assert (output / "reports.jsonl").read_bytes() == written
    assert contents(output).items() >= kept.items() and all(path.exists() for path in killed)
