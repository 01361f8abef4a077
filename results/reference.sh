#!/bin/sh
# Makes the reference runs on an idle machine, in two steps; about 70 minutes on two slow cores:
#   sh results/reference.sh tune FOLDER    writes FOLDER/SUITE.methods, one -m argument a line
#   sh results/reference.sh run FOLDER     measures them
# and for English, about an hour, with the extra `smol`:
#   sh results/reference.sh smol FOLDER
#
# Every method that has options gets the same effort: its best ones are looked for in as many minutes, among candidates
# of its kind, on scenes that no run reports. Then all are measured in one run for each suite.
set -eu
step=${1:?tune, run or smol} out=${2:?the folder}
minutes=${MINUTES:-1}
mkdir -p "$out"

tuned() { # prints -m's argument for the fastest candidate; a race of long answers may need twice the minutes
  found=$(tune "$minutes" "$@" || tune $((2 * minutes)) "$@")
  printf '%s\n' "$found" | sed -n 's/^-m //p'
}

tune() { # MINUTES OPTIONS...
  budget=$1
  shift
  fastvlm-bench tune --suite "$suite" --threads 1 --budget "$budget" --out "$out/tuning" --quiet "$@"
}

candidates() { # NAME OPTION VALUE...: "-m NAME:OPTION=VALUE" for each value
  name=$1 option=$2
  shift 2
  for value in "$@"; do printf ' -m %s:%s=%s' "$name" "$option" "$value"; done
}

measured() { # SUITE OPTIONS...: one run of all methods of the suite's file
  suite=$1
  shift
  while read -r method; do set -- "$@" -m "$method"; done < "$out/$methods.methods"
  fastvlm-bench run --suite "$suite" --threads 1 --out "$out" --require-valid "$@"
}

case $step in
tune)
  for suite in describe coco-caption; do
    {
      echo standard
      for head in eagle attention twig mlp; do tuned --head $head; done
      tuned --head raw --exit-layer 1,2,4,6
      tuned -m medusa -m medusa:stop_below=0.1 -m medusa:stop_below=0.3 -m medusa:topk=2
      tuned $(candidates adaptive draft eagle-exit1 attention-exit1 attention-exit2 twig-exit1)
      tree=fastvlm:head=eagle,exit_layer=1,gamma=16
      tuned -m $tree,topk=2 -m $tree,topk=2,branch_above=0.05 -m $tree,topk=3,nodes=24 -m $tree,topk=2,stop_below=0.3
      tuned $(candidates block gamma 4 8 12 16) -m block:gamma=8,least=0.3 -m block:topk=3,nodes=24
      tuned -m hierarchical:levels=1+2,head=attention -m hierarchical:levels=1+2,head=attention,each=8,gamma=16 \
        -m hierarchical:levels=2+6,head=mlp -m hierarchical:levels=1+6,head=attention+mlp,gamma=16
      for method in prompt-lookup draft-verify swift clasp; do tuned $(candidates $method gamma 1 2 4 6 10); done
      printf '%s\n' hf-prompt-lookup hf-generate early-exit
    } > "$out/$suite.methods"
  done
  ;;
run)
  methods=describe measured describe
  methods=coco-caption measured coco-caption
  methods=coco-caption measured vqav2 # answers of one or two tokens
  fastvlm-bench run --suite coco-caption --limit 160 --threads 1 --out "$out" --batch-size 1,2,4,8,16 -m fastvlm
  ;;
smol)
  methods=smol
  # γ and stop of the eagle head are what `tune --model smol --suite stories --head eagle` found
  printf '%s\n' standard fastvlm:head=eagle,gamma=6,stop_below=0.7 fastvlm:head=attention fastvlm:head=mlp \
    layerskip:exit_layer=15,gamma=2 adaptive:draft=eagle-exit2 prompt-lookup:gamma=2 hf-generate > "$out/smol.methods"
  measured stories --model smol --limit 20
  measured coco-caption --model smol --limit 20
  measured vqav2 --model smol --limit 40
  ;;
*) echo "$0: '$step' is not tune, run or smol" >&2; exit 2 ;;
esac
