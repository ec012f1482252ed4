"""`examples/report_ray.py` on a tiny model, with Ray on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import pipeline

SCRIPT = Path(__file__).parents[2] / "examples/report_ray.py"


def test_actors_write_the_reports_of_the_pipeline_that_are_missing(data_dir, model_dir, tmp_path):
    output, names = tmp_path / "reports", sorted(path.name for path in data_dir.glob("*.png"))
    (data_dir / "2.png").write_bytes(b"no image")
    output.mkdir()
    finished = {"image": [str(data_dir / "1.png")], "report": ["Of an earlier run."], "notice": [""]}
    pq.write_table(pa.table(finished), output / "earlier.parquet")
    options = ["--images", data_dir, "--output_dir", output, "--model", model_dir, "--batch_size", 4]
    # Beside other work, the actors of Ray get little time at their usual priority.
    environment = {**os.environ, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, [SCRIPT, *options])]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, env=environment)
    assert "2.png: " in result.stdout + result.stderr

    rows = pq.read_table(output).to_pylist()
    written = {Path(row["image"]).name: row for row in rows}
    assert len(rows) == len(written) and written.pop("1.png")["report"] == "Of an earlier run."
    expected = [name for name in names if name not in ("1.png", "2.png")]
    texts = pipeline("cxr-report", model=str(model_dir))([str(data_dir / name) for name in expected])
    assert {name: row["report"] for name, row in written.items()} == {
        name: text["generated_text"] for name, (text,) in zip(expected, texts, strict=True)
    }
    assert all("For research only" in row["notice"] for row in written.values())
