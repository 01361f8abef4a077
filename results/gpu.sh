#!/bin/sh
# Measures every method on a GPU, by both engines and by recorded passes of compiled parts, on the embedded model and on
# random weights in LLaVA-1.5-7B's shape:
#   sh results/gpu.sh [--device cuda|cuda:N|cpu] [--shape 7b|small] [--out FOLDER] [--limit N] [--tokens N]
#     [--methods "NAME NAME …"] [--dry-run]
#
# Nothing is downloaded. 7b needs 14 GB of disk and about 20 GB of GPU memory. It writes FOLDER/table.md (tokens a second,
# memory by allocator and NVML, energy, share of the memory roofline), the runs, and what the roofline was found to be.
# On a CPU it only shows that it works: sh results/gpu.sh --device cpu --shape small
set -eu
device=cuda shape=7b out=gpu limit='' tokens='' methods=all dry=''
refuse() { echo "$0: $1" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case $1 in
  --dry-run) dry=echo; shift; continue ;;
  -h | --help) sed -n '2,9s/^# *//p' "$0"; exit 0 ;;
  --device | --shape | --out | --limit | --tokens | --methods) [ $# -gt 1 ] || refuse "$1 needs a value" ;;
  *) refuse "'$1' is no option; see $0 --help" ;;
  esac
  case $1 in
  --device) device=$2 ;;
  --shape) shape=$2 ;;
  --out) out=$2 ;;
  --limit) limit=$2 ;;
  --tokens) tokens=$2 ;;
  --methods) methods=$2 ;;
  esac
  shift 2
done
case $device in cpu | cuda | cuda:[0-9]*) ;; *) refuse "--device is '$device'; it must be cuda, cuda:N or cpu" ;; esac
case $shape in
7b) limit=${limit:-25} tokens=${tokens:-128} energy=5 ;;
small) limit=${limit:-2} tokens=${tokens:-12} energy=1 ;;
*) refuse "--shape is '$shape'; it must be 7b or small" ;;
esac
case $limit$tokens in *[!0-9]*) refuse "--limit and --tokens are whole numbers, not '$limit' and '$tokens'" ;; esac
# Compiled parts go with recorded passes on a GPU, and with eager ones on a CPU.
if [ "$device" = cpu ]; then dtype='float32' more='--threads 1' under=eager; else dtype='bfloat16' more='' under=graphs; fi
python=${PYTHON:-python3} here=$(dirname "$0") named=''
for method in $methods; do named="$named -m $method"; done

write() { # FILE COMMAND...: what the command prints, or the line that would do it
  file=$1
  shift
  if [ -n "$dry" ]; then echo "$* > $file"; else "$@" > "$file"; fi
}
bench() { $dry $python -m fastvlm_bench "$@"; }

$dry mkdir -p "$out"
write "$out/roofline.json" $python -m fastvlm_bench doctor --roofline --json
$dry $python "$here/random_target.py" "$out/target" --shape "$shape" --device "$device"
for target in embedded random; do
  if [ $target = embedded ]; then model=tiny; else model=$out/target; fi
  write "$out/$target.predict.json" $python -m fastvlm_bench predict --model "$model" --dtype $dtype \
    --device "measured:$out/roofline.json" --exit-layer 2 --json
  for engine in eager graphs compiled; do
    passes="--engine $engine"
    if [ $engine = compiled ]; then passes="--engine $under --compile"; fi
    bench run --model "$model" --suite coco-caption --limit "$limit" --max-new-tokens "$tokens" --ignore-eos \
      --device "$device" --dtype $dtype $passes --phases --energy $energy $more $named \
      --out "$out/$target-$engine"
  done
done
write "$out/table.md" $python "$here/gpu_table.py" "$out"
$dry cat "$out/table.md"
