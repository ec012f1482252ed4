#!/usr/bin/env bash
# Train the embedded checkpoint from DATA, a folder with a metadata.csv (docs/data.md), on a CPU. Every step resumes.
#
#     examples/embedded_checkpoint/run.sh DATA runs/embedded
#
# The checkpoint is OUTPUT/checkpoint. Its numbers are in model_cards/llm-cxr.md.
set -euo pipefail
DATA=$1
OUTPUT=$2
HERE=$(dirname "$0")
EXAMPLES=$HERE/..

# 1. Classifier of X-rays, for the clinical loss and for evaluation.
python "$EXAMPLES/train_classifier.py" --config "$HERE/classifier.yaml" --records "$DATA" \
    --output_dir "$OUTPUT/classifier"

# 2. Image tokenizer. The second and third command train the decoder alone, so the codes do not change.
python "$EXAMPLES/train_vq_gan.py" --config "$HERE/vq_gan.yaml" --records "$DATA" --output_dir "$OUTPUT/vq"
python "$EXAMPLES/train_vq_gan.py" --config "$HERE/vq_gan_decoder.yaml" --records "$DATA" \
    --initial_model "$OUTPUT/vq" --output_dir "$OUTPUT/vq_decoder"
python "$EXAMPLES/train_vq_gan.py" --config "$HERE/vq_gan_sharp.yaml" --records "$DATA" \
    --clinical_classifier "$OUTPUT/classifier/final" --initial_model "$OUTPUT/vq_decoder" \
    --output_dir "$OUTPUT/vq_sharp"

# 3. Untrained language model, extended by the image tokenizer.
if [ ! -e "$OUTPUT/new" ]; then
    python "$EXAMPLES/new_llm_cxr.py" --config "$HERE/language_model.yaml" --records "$DATA" \
        --vq_tokenizer "$OUTPUT/vq_sharp" --output_dir "$OUTPUT/new"
fi

# 4. Records with the codes of their images.
transformers-cxr encode "$DATA" --model "$OUTPUT/new" --output "$OUTPUT/codes"
if [ ! -e "$OUTPUT/records.parquet" ]; then
    python - "$DATA" "$OUTPUT" <<'PYTHON'
import sys

from transformers_cxr.data import load_codes, read_image_folder, write_records

data, output = sys.argv[1:]
print(write_records(read_image_folder(data), f"{output}/records.parquet", load_codes(f"{output}/codes")))
PYTHON
fi

# 5. Fine-tuning on reports and images.
python "$EXAMPLES/finetune_llm_cxr.py" --config "$HERE/finetune.yaml" --model "$OUTPUT/new" \
    --records "$OUTPUT/records.parquet" --source_weights "{hannover: 2.0, nih64: 0.4}" \
    --output_dir "$OUTPUT/llm"

# 6. Reading: frozen embeddings from the codebook (1), an auxiliary loss (2), a classifier of codes as teacher (3, 4).
python "$HERE/teach_reading.py" --config "$HERE/teach_reading_1.yaml" --records "$OUTPUT/records.parquet" \
    --model "$OUTPUT/llm/final" --output_dir "$OUTPUT/reading_1"
python "$HERE/teach_reading.py" --config "$HERE/teach_reading_2.yaml" --records "$OUTPUT/records.parquet" \
    --model "$OUTPUT/reading_1/final" --output_dir "$OUTPUT/reading_2"
python "$HERE/train_code_classifier.py" --config "$HERE/code_classifier.yaml" --records "$OUTPUT/records.parquet" \
    --vq_tokenizer "$OUTPUT/vq" --output_dir "$OUTPUT/teacher"
python "$HERE/teach_reading.py" --config "$HERE/teach_reading_3.yaml" --records "$OUTPUT/records.parquet" \
    --teacher "$OUTPUT/teacher/final" --model "$OUTPUT/reading_2/final" --output_dir "$OUTPUT/reading_3"
python "$HERE/teach_reading.py" --config "$HERE/teach_reading_4.yaml" --records "$OUTPUT/records.parquet" \
    --teacher "$OUTPUT/teacher/final" --student "$OUTPUT/reading_3/student.safetensors" \
    --model "$OUTPUT/reading_3/final" --output_dir "$OUTPUT/reading_4"

# 7. The checkpoint, with the settings of image generation.
python - "$OUTPUT" <<'PYTHON'
import sys

from transformers_cxr import LlmCxrForCausalLM, LlmCxrProcessor

folder = f"{sys.argv[1]}/reading_4/final"
model, processor = LlmCxrForCausalLM.from_pretrained(folder), LlmCxrProcessor.from_pretrained(folder)
model.generation_config.image_generation = {"guidance_scale": 4.0, "top_p": 0.85}
model.save_pretrained(f"{sys.argv[1]}/checkpoint")
processor.save_pretrained(f"{sys.argv[1]}/checkpoint")
PYTHON
