#!/bin/sh
# Makes the reference runs: `sh results/reference.sh FOLDER`, on an idle machine; about an hour on two slow cores.
#
# Every method that has options gets the same effort: its best ones are looked for in as many minutes, among as many
# candidates as there are of its kind, on scenes that no run reports. Then all are measured in one run for each suite.
set -eu
out=${1:?the folder for the runs}
minutes=${MINUTES:-1}

tuned() { # prints -m's argument for the fastest candidate
  fastvlm-bench tune --suite "$suite" --threads 1 --budget "$minutes" --out "$out/tuning" --quiet "$@" | sed -n 's/^-m //p'
}

for suite in describe coco-caption; do
  set -- -m standard
  for head in eagle attention twig mlp; do
    set -- "$@" -m "$(tuned --head $head)"
  done
  set -- "$@" -m "$(tuned --head raw --exit-layer 1,2,4,6)"
  set -- "$@" -m "$(tuned -m medusa -m medusa:stop_below=0.1 -m medusa:stop_below=0.3 -m medusa:topk=2)"
  for method in prompt-lookup draft-verify swift clasp; do
    set -- "$@" -m "$(tuned -m $method:gamma=1 -m $method:gamma=2 -m $method:gamma=4 -m $method:gamma=6 -m $method:gamma=10)"
  done
  set -- "$@" -m hf-prompt-lookup -m hf-generate -m early-exit
  fastvlm-bench run --suite "$suite" --threads 1 --out "$out" --require-valid "$@"
done
fastvlm-bench run --suite vqav2 --threads 1 --out "$out" --require-valid "$@" # answers of one or two tokens
fastvlm-bench run --suite coco-caption --limit 160 --threads 1 --out "$out" --batch-size 1,2,4,8,16 -m fastvlm
