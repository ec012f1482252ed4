"""`transformers-cxr evaluate` and what follows from an evaluation: comparison, reader study, ReXrank."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .errors import cli_errors
from .options import BatchSize, Model


def evaluate(
    output: Annotated[
        Path, typer.Argument(help="Folder to write; a run that was cut off goes on from there.", file_okay=False)
    ],
    data_dir: Annotated[
        Path | None, typer.Option(help="Imagefolder with a metadata.csv: label-derived references.")
    ] = None,
    reports: Annotated[Path | None, typer.Option(help="Reference reports, JSON or Parquet.")] = None,
    questions: Annotated[Path | None, typer.Option(help="Reference answers, JSON or Parquet.")] = None,
    texts: Annotated[Path | None, typer.Option(help="Text file, a paragraph a text: its perplexity.")] = None,
    model: Model = None,
    base_model: Annotated[
        str | None, typer.Option(help="The language model before fine-tuning, for its perplexity.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the metadata.")] = "validation",
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            help="Separated by commas: report, image, diversity, vqa, language, tokenizer, well-formed, robustness; all that "
            "there are references for if not given."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Examples of each task, for a quick look.")] = None,
    num_questions: Annotated[int, typer.Option(min=1, help="Questions.")] = 400,
    num_drawings: Annotated[int, typer.Option(min=1, help="X-rays that are drawn.")] = 200,
    num_diverse: Annotated[int, typer.Option(min=1, help="Reports that several X-rays are drawn of.")] = 20,
    num_corrupted: Annotated[int, typer.Option(min=1, help="X-rays that are read under every corruption.")] = 50,
    labeler: Annotated[str, typer.Option(help="Labeler of reports: rules or chexbert.")] = "rules",
    radeval: Annotated[
        list[str] | None, typer.Option(help="Separated by commas: radgraph, radcliq, green, ratescore, bertscore.")
    ] = None,
    classifier: Annotated[str, typer.Option(help="Classifier of X-rays: a folder or a name of torchxrayvision.")] = "",
    features: Annotated[
        list[str] | None,
        typer.Option(help="Separated by commas: inception, rad-dino, names of torchxrayvision, folders."),
    ] = None,
    training_split: Annotated[str, typer.Option(help="Split that is searched for copies among the drawings.")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a report or answer in tokens, at most.")] = 256,
    guidance_scale: Annotated[
        float | None, typer.Option(min=1.0, help="Classifier-free guidance of drawing; that of the checkpoint.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Draw from the likeliest codes of that mass.")
    ] = None,
    batch_size: BatchSize = 32,
    num_resamples: Annotated[int, typer.Option(min=0, help="Resamples of the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of wording, samples, drawings and resamples.")] = 0,
    model_card: Annotated[
        Path | None, typer.Option(help="Model card that the tables and the metadata are written into.")
    ] = None,
):
    """
    Evaluate a checkpoint: reports, drawings, answers, language, image tokenizer, robustness.

    ```
    transformers-cxr evaluate runs/quick --data-dir cxr --limit 8
    transformers-cxr evaluate runs/evaluation --model my-checkpoint \\
        --reports reports.json --tasks report,image
    accelerate launch -m transformers_cxr.cli.main \\
        evaluate runs/evaluation --data-dir cxr
    ```
    """
    with cli_errors():
        from ..evaluation.results.model_card import update_model_card
        from ..evaluation.results.tables import results_to_markdown
        from ..evaluation.runner import EvaluationArguments, cost_summary, run_evaluation

        arguments = EvaluationArguments(
            output_dir=str(output),
            data_dir=str(data_dir or ""),
            reports=str(reports or ""),
            questions=str(questions or ""),
            texts=str(texts or ""),
            model=model or "",
            base_model=base_model or "",
            split=split,
            tasks=_names(tasks),
            limit=limit,
            num_questions=num_questions,
            num_drawings=num_drawings,
            num_diverse=num_diverse,
            num_corrupted=num_corrupted,
            labeler=labeler,
            radeval=_names(radeval),
            classifier=classifier,
            features=_names(features),
            training_split=training_split,
            max_new_tokens=max_new_tokens,
            guidance_scale=guidance_scale,
            top_p=top_p,
            batch_size=batch_size,
            num_resamples=num_resamples,
            seed=seed,
        )
        results = run_evaluation(arguments)
        if results is None:
            return
        if model_card is not None:
            name = Path(model).name if model else "llm-cxr"
            data = (data_dir or reports or questions or texts).stem
            update_model_card(model_card, results, name, data, split, cost_summary(output))
    typer.echo(results_to_markdown(results))
    typer.echo(cost_summary(output))
    typer.echo(f"Written to {output}: results.json, tables.md, report.html.")


def compare(
    first: Annotated[Path, typer.Argument(help="Output folder of an evaluation.")],
    second: Annotated[Path, typer.Argument(help="That of another model on the same examples.")],
    num_resamples: Annotated[int, typer.Option(min=1, help="Resamples and exchanges.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of both.")] = 0,
):
    """
    Compare two evaluations: differences with intervals, and their significance, paired by patient.

    ```
    transformers-cxr compare runs/evaluation_before runs/evaluation_after
    ```
    """
    with cli_errors():
        from ..evaluation.results.comparison import compare_runs
        from ..evaluation.results.tables import differences_to_markdown

        differences = compare_runs(first, second, num_resamples, seed)
    typer.echo(differences_to_markdown(differences))


def reader_study(
    evaluation: Annotated[Path, typer.Argument(help="Output folder of an evaluation.")],
    output: Annotated[Path, typer.Argument(help="Folder for the readers; it must not exist.")],
    key: Annotated[Path, typer.Option(help="JSON file that says which one is generated; keep it from the readers.")],
    num_images: Annotated[int, typer.Option(min=0, help="Pairs of X-rays.")] = 50,
    num_reports: Annotated[int, typer.Option(min=0, help="Pairs of reports.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the order and of the sides.")] = 0,
):
    """
    Export blinded pairs of real and generated X-rays and reports, with sheets to fill in.

    ```
    transformers-cxr reader-study runs/evaluation study --key key.json
    transformers-cxr reader-study runs/evaluation study --key key.json \\
        --num-images 20 --num-reports 0
    ```
    """
    with cli_errors():
        from ..evaluation.reader_study import export_reader_study
        from ..evaluation.results.comparison import reader_study_pairs

        image_pairs, report_pairs = reader_study_pairs(evaluation, num_images, num_reports)
        export_reader_study(image_pairs, report_pairs, output, key, seed)
    typer.echo(f"{len(image_pairs)} pairs of X-rays and {len(report_pairs)} of reports in {output}, the key in {key}.")


def score_reader_study(
    study: Annotated[Path, typer.Argument(help="Folder of a reader study with its sheets filled in.")],
    key: Annotated[Path, typer.Option(help="Its key.")],
):
    """
    Score the filled sheets of a reader study.

    ```
    transformers-cxr score-reader-study study --key key.json
    ```
    """
    with cli_errors():
        from ..evaluation.reader_study import score_reader_study as score
        from ..evaluation.results.tables import format_estimate, markdown_table

        scores = score(study, key)
    rows = [[name, format_estimate(estimate), str(estimate.units)] for name, estimate in scores.items()]
    typer.echo(markdown_table(["score", "value", "trials"], rows))


def rexrank(
    studies: Annotated[Path, typer.Argument(help="JSON of the studies.")],
    output: Annotated[Path, typer.Argument(help="JSON to write, with predictions; it must not exist.")],
    image_root: Annotated[Path, typer.Argument(help="Folder that the image paths are in.")],
    model: Model = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a report in tokens, at most.")] = 256,
    batch_size: BatchSize = 32,
):
    """
    Write the reports that the ReXrank leaderboard asks for. A run that was cut off goes on.

    ```
    transformers-cxr rexrank ReXRank_IUXray_test.json predictions.json images/
    transformers-cxr rexrank ReXRank_MIMICCXR_test.json predictions.json \\
        mimic-cxr-jpg/files --model my-checkpoint
    ```
    """
    with cli_errors():
        from ..checkpoints import checkpoint
        from ..evaluation.generations import fingerprint, generate, processes, text_generator
        from ..evaluation.rexrank import read_rexrank_studies, write_rexrank_predictions
        from ..evaluation.runner import load_checkpoint

        if output.exists():
            raise FileExistsError(f"'{output}' exists. Remove it or choose another output.")
        asked, examples = read_rexrank_studies(studies, image_root)
        state = processes()
        llm, processor = load_checkpoint(model or checkpoint("llm-cxr"), state.device)
        settings = {"model": fingerprint(llm, processor), "max_new_tokens": max_new_tokens}
        produce = text_generator(llm, processor, max_new_tokens)
        cache = output.with_name(f"{output.name}.generations")
        texts = generate(examples, produce, cache, settings, batch_size, "reports")
        if not state.is_main_process:
            return
        write_rexrank_predictions(asked, {e.id: text for e, text in zip(examples, texts)}, output)
    typer.echo(f"{len(asked)} studies written to {output}; {cache} can be removed.")


def _names(given: list[str] | None) -> list[str]:
    return [name.strip() for text in given or [] for name in text.split(",") if name.strip()]
