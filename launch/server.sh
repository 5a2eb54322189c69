#!/usr/bin/env bash
# One rollout server of this node, started again whenever it ends by itself, until this script is told to end.
#   launch/server.sh NUMBER MODEL [ARGUMENT...]      on device NUMBER and port 8000 + NUMBER
# Without a secret in SIGHTSOUND_SERVER_TOKEN it listens on the loopback address only.
set -u
number=$1 model=$2
shift 2
host=127.0.0.1
[ -z "${SIGHTSOUND_SERVER_TOKEN:-}" ] || host=0.0.0.0

end() {
    kill "$child" 2>/dev/null
    wait "$child"
    exit 143
}
trap end TERM INT HUP

while true; do
    CUDA_VISIBLE_DEVICES=$number python -m inference.vllm_server \
        --model "$model" --host "$host" --port $((8000 + number)) "$@" &
    child=$!
    wait "$child"
    echo "launch/server.sh: rollout server $number has ended and is started again in 10 s" >&2
    sleep 10 &
    child=$!
    wait "$child"
done
