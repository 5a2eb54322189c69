#!/usr/bin/env bash
# Environments of the peers that the learner is compared with, each in its own: benchmarks/peers/install.sh DIR
# They need about 12 GB. ms-swift's GRPO needs an older transformers than this project.
set -euo pipefail
dir=${1:?usage: install.sh DIR}
newest=2026-11-20T00:00:00Z
common=(torch==2.13.0 soundfile librosa psutil msgspec)
uv venv --allow-existing --python 3.11 "$dir/swift"
uv pip install --exclude-newer "$newest" --python "$dir/swift/bin/python" \
  "${common[@]}" "ms-swift>=4.6,<4.7" transformers==4.57.6 trl==0.26.2
uv venv --allow-existing --python 3.11 "$dir/trl"
uv pip install --exclude-newer "$newest" --python "$dir/trl/bin/python" "${common[@]}" "trl>=1.16,<1.17" peft
