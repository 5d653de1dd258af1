#!/bin/sh
# One model on many machines with Slurm: an array of parts, and a job behind it that puts them together.
#
#   slurm.sh PARTS FOLDER PROGRAM ARGUMENT...
#
#   slurm.sh 16 out quantize /models/llama-405b --type q4_k_m
#   slurm.sh 16 out evaluate compare /models/llama-405b --type q8_0,q4_k_m --text wiki.txt
#
# Every machine must see the model and FOLDER under the same path. PARTS tasks run PROGRAM … --part auto -o FOLDER;
# the last job runs `quantize --gather` or `evaluate gather`. Of the environment:
#
#   SBATCH_OPTIONS   more options for both jobs, such as "--partition=cpu --cpus-per-task=16 --time=2:00:00"
#   GATHER_OPTIONS   more options for putting together, such as "-o model.gguf" or "--max-kld 0.01"
#   RETRIES          how often a task that was killed is queued again (3)
#
# A task that dies is queued again; finished parts are found by their records and skipped, so the whole can be submitted
# again at any time.
set -eu

case "${1:-}" in
--task) # inside the array
    folder=$2
    shift 2
    code=0
    "$@" --part auto -o "$folder" || code=$?
    # Wrong usage or bad input would fail again. Killed (above 128), or a system that failed (4): once more.
    if [ "$code" -gt 128 ] || [ "$code" -eq 4 ]; then
        if [ "${SLURM_RESTART_COUNT:-0}" -lt "${RETRIES:-3}" ]; then
            echo "ended with $code: queued again" >&2
            scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
            sleep 60 # until Slurm ends this run
        fi
    fi
    exit "$code"
    ;;
--gather)
    parts=$2 folder=$3 program=$4
    # shellcheck disable=SC2086 # options are words
    case "$program" in
    *quantize) exec "$program" --gather "$folder" --parts "$parts" ${GATHER_OPTIONS:-} ;;
    *) exec "$program" gather "$folder" ${GATHER_OPTIONS:-} ;;
    esac
    ;;
esac

[ $# -ge 4 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
parts=$1 folder=$2 program=$3
shift 2
mkdir -p "$folder/log"
# shellcheck disable=SC2086 # options are words
array=$(sbatch --parsable --requeue --open-mode=append --job-name="$(basename "$program")" --array="1-$parts" \
    --output="$folder/log/%A-%a.txt" ${SBATCH_OPTIONS:-} "$0" --task "$folder" "$@")
# shellcheck disable=SC2086 # options are words
gather=$(sbatch --parsable --dependency="afterok:$array" --kill-on-invalid-dep=yes --job-name=gather \
    --output="$folder/log/gather-%j.txt" ${SBATCH_OPTIONS:-} "$0" --gather "$parts" "$folder" "$program")
echo "array $array: $parts parts; job $gather puts them together; what they say is in $folder/log"
