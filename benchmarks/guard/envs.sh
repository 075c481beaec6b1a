#!/bin/sh
# Environments of the outside tools, each its own: sh benchmarks/guard/envs.sh FOLDER
# Versions are those of 2026-11-29. With `uv` on the path it takes two minutes, else ten. About 2 GB.
set -e
folder=$1
mkdir -p "$folder"
make() {
  name=$1
  shift
  if command -v uv > /dev/null; then
    uv venv -q "$folder/$name" && uv pip install -q --python "$folder/$name/bin/python" "$@"
  else
    python3 -m venv "$folder/$name" && "$folder/$name/bin/pip" install -q "$@"
  fi
}
more() {
  name=$1
  shift
  if command -v uv > /dev/null; then
    uv pip install -q --python "$folder/$name/bin/python" "$@"
  else
    "$folder/$name/bin/pip" install -q "$@"
  fi
}
make openai openai==3.57.0
make langchain langchain-openai==1.7.4
make litellm 'litellm[proxy]==1.108.7'
make inspect inspect-ai==0.3.285 openai==3.57.0
make pyrit pyrit==1.1.0 aiohttp # aiohttp: its image converters import it and do not declare it
make chunk chunk-invariance==0.2.0 casefold-fuzz==0.1.0
make pii 'pii-leak-benchmark[validate]==0.6.0'
make oracle starlette uvicorn httpx ecoji mikeshardmind-base2048 art confusable_homoglyphs
# garak without torch, transformers and langchain: its string probes and detectors need none of them.
make garak --no-deps garak==0.17.1
more garak avidtools==0.1.2 aiohttp backoff cmd2==2.4.3 colorama httpx huggingface_hub jsonschema langdetect lorem \
  markdown nltk numpy 'openai<3' pandas pytz requests scipy tiktoken tqdm wn==0.9.5 xdg-base-dirs pyyaml jinja2 \
  mikeshardmind-base2048 ecoji zalgolib jsonpath-ng pillow
