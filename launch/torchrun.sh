#!/usr/bin/env bash
# A stage with rollout servers on one machine, or on several without a scheduler that all see this folder:
#   ROOT=runs/grpo MODEL=runs/sft/best launch/torchrun.sh fit --config grpo.yaml --config hardware/8xa40.yaml
#   HOSTS="node1 node2" NODE=0 ROOT=...      the same on node1 of two, and with NODE=1 on node2
#
# Settings, from the environment:
#   ROOT, MODEL                    folder of the results, and checkpoint that the servers start with; needed
#   GPUS=8 SERVERS=2 RANKS=6       devices of a machine: a server on each of the first, a rank on each of the last
#   SERVER_ARGS                    further arguments of each server ("--dtype bfloat16 --weight-transfer nccl")
#   SIGHTSOUND_SERVER_TOKEN        the servers' secret; needed on several machines, the same on all
#
# SIGTERM: a checkpoint after the batch under way, then the end, with status 143; the same command goes on from there.
# SIGUSR1: the same, and this script starts the run again at once. It also does so when a rank has failed, was killed or
# hung, as long as there is a new checkpoint each time.
set -u
cd "$(dirname "$0")/.."
read -r -a hosts <<<"${HOSTS:-127.0.0.1}"
: "${ROOT:?names the folder of the results}" "${MODEL:?names the checkpoint that the servers start with}"
GPUS=${GPUS:-8} SERVERS=${SERVERS:-2} RANKS=${RANKS:-6}

urls=() children=()
for host in "${hosts[@]}"; do
    for ((number = 0; number < SERVERS; number++)); do urls+=("http://$host:$((8000 + number))"); done
done
[ "$SERVERS" = 0 ] || export SIGHTSOUND_SERVERS="[$(IFS=,; echo "${urls[*]}")]"
for ((number = 0; number < SERVERS; number++)); do
    # shellcheck disable=SC2086
    launch/server.sh "$number" "$MODEL" ${SERVER_ARGS---dtype bfloat16 --weight-transfer nccl} &
    children+=($!)
done
trap '[ -z "${children[*]}" ] || kill "${children[@]}" 2>/dev/null; wait' EXIT

run='' again='' stopped=''
trap 'again=yes; kill -USR1 "$run"' USR1
trap 'stopped=143; kill -TERM "$run"' TERM
trap 'stopped=130' INT # which the terminal has sent to all

last=$ROOT/checkpoints/last.ckpt
begun=$(mktemp)
while [ -z "$stopped" ]; do
    touch "$begun"
    CUDA_VISIBLE_DEVICES=$(seq -s, $((GPUS - RANKS)) $((GPUS - 1))) torchrun \
        --nnodes "${#hosts[@]}" --node-rank "${NODE:-0}" --nproc-per-node "$RANKS" \
        --master-addr "${hosts[0]}" --master-port "${MASTER_PORT:-29500}" \
        --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout 600 \
        train.py "$@" --trainer.default_root_dir "$ROOT" --ckpt_path last \
        --trainer.num_nodes "${#hosts[@]}" --trainer.devices "$RANKS" &
    run=$!
    while wait "$run"; status=$?; kill -0 "$run" 2>/dev/null; do :; done # a trap interrupts wait
    [ "$status" != 0 ] || break
    [ -n "$again$stopped" ] || [ "$last" -nt "$begun" ] || break
    status=$stopped again=''
    [ -z "$stopped" ] || break
    echo "launch/torchrun.sh: the run is started again" >&2
    sleep 5 # until all machines have ended it
done
rm -f "$begun"
exit "$status"
