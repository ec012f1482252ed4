#!/usr/bin/env bash
# Train and evaluate the embedded checkpoint from DATA, a folder with a metadata.csv (docs/data.md), on a CPU. Every
# step resumes.
#
#     examples/embedded_checkpoint/run.sh DATA runs/embedded
#
# The checkpoint is OUTPUT/llm-cxr, with its numbers in its model card.
set -euo pipefail
DATA=$1
OUTPUT=$2
HERE=$(dirname "$0")
EXAMPLES=$HERE/..

# Classifiers of X-rays, for the evaluation.
for SEED in 0 1; do
    python "$EXAMPLES/train_classifier.py" --config "$HERE/classifier.yaml" --records "$DATA" --seed $SEED \
        --output_dir "$OUTPUT/classifier_$SEED"
done

# Image tokenizer.
python "$EXAMPLES/train_vq_gan.py" --config "$HERE/vq_gan.yaml" --records "$DATA" --output_dir "$OUTPUT/vq"

# Language model: random weights, four stages, and preferences.
if [ ! -e "$OUTPUT/new" ]; then
    python "$EXAMPLES/new_llm_cxr.py" --config "$HERE/language_model.yaml" --records "$DATA" \
        --vq_tokenizer "$OUTPUT/vq" --output_dir "$OUTPUT/new"
fi
python "$HERE/other_requests.py" "$OUTPUT/texts.jsonl"
MODEL=$OUTPUT/new
for STAGE in 1 2 3 4; do
    python "$EXAMPLES/finetune_llm_cxr.py" --config "$HERE/stage$STAGE.yaml" --model "$MODEL" --records "$DATA" \
        --texts "$OUTPUT/texts.jsonl" --source_weights "{hannover: 3.0, nih64: 0.4}" \
        --output_dir "$OUTPUT/stage$STAGE"
    MODEL=$OUTPUT/stage$STAGE/final
done
python "$EXAMPLES/report_pairs.py" --model "$MODEL" --records "$DATA" --num_pairs 2560 --seed 4 \
    --output "$OUTPUT/pairs.jsonl"
python "$EXAMPLES/dpo_llm_cxr.py" --config "$HERE/dpo.yaml" --model "$MODEL" --pairs "$OUTPUT/pairs.jsonl" \
    --use_cpu true --output_dir "$OUTPUT/dpo"
python "$HERE/publish.py" --model "$OUTPUT/dpo/final" --output_dir "$OUTPUT/llm-cxr"

# Evaluation.
python "$EXAMPLES/evaluate_vq_gan.py" --model "$OUTPUT/vq" --records "$DATA" \
    --clinical_classifier "$OUTPUT/classifier_0/final" --features efficientnet-lite0 \
    --output_dir "$OUTPUT/vq_evaluation"
python "$EXAMPLES/evaluate_llm_cxr.py" --model "$OUTPUT/llm-cxr" --records "$DATA" --training_split train \
    --classifier "$OUTPUT/classifier_0/final" --features efficientnet-lite0 \
    --model_card "$OUTPUT/llm-cxr/README.md" --output_dir "$OUTPUT/evaluation"
