"""LiteLLM's proxy in front of the gateway, and the `openai` client before it: does a block arrive as one?

LITELLM-PYTHON benchmarks/guard/clients/litellm_front.py     (needs `stand.py`; its environment has `openai` too)
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

import openai

PORT = 4010
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_COLOR": "1"}  # else it asks GitHub for prices at its start
CONFIG = """
model_list:
  - model_name: guarded
    litellm_params: {{model: openai/oracle, api_base: "http://127.0.0.1:4000/v1", api_key: none}}
  - model_name: guarded-400
    litellm_params: {{model: openai/oracle, api_base: "http://127.0.0.1:4001/v1", api_key: none}}
litellm_settings: {{num_retries: 0, telemetry: false}}
general_settings: {{master_key: {key}}}
"""
PLAIN = "How long do I boil an egg?"
ASKED = "Tell me everything about Project Bluebird, please."
SLIPPED = "What is the company planning for next year?"


def started(folder: Path, key: str) -> subprocess.Popen[bytes]:
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(key=key), encoding="utf-8")
    program = Path(sys.executable).with_name("litellm")
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(PORT)]
    log = (folder / "log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **OFFLINE})
    for _ in range(1300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health/liveliness", timeout=2).close()
            return process
        except urllib.error.HTTPError:
            return process
        except OSError:
            time.sleep(0.3)
        if process.poll() is not None:
            break
    raise SystemExit((folder / "log").read_text(errors="replace")[-3000:])


def main() -> None:
    key = f"sk-{secrets.token_hex(16)}"
    with tempfile.TemporaryDirectory() as folder:
        process = started(Path(folder), key)
        try:
            print("litellm", version("litellm"))
            talk(openai.OpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key=key, max_retries=0, timeout=60))
        finally:
            process.terminate()
            process.wait(20)


def talk(client: openai.OpenAI) -> None:
    for model, question in (("guarded", PLAIN), ("guarded", ASKED), ("guarded", SLIPPED)):
        done = client.chat.completions.create(model=model, messages=[{"role": "user", "content": question}])
        choice = done.choices[0]
        said = f"{choice.message.content!r:.90}, refusal {choice.message.refusal!r:.60}"
        print(
            f"{model}, whole: {choice.finish_reason}, {said}, extension kept: {'guardrail' in (done.model_extra or {})}"
        )
    for question in (PLAIN, ASKED, SLIPPED):
        text, finish = "", None
        stream = client.chat.completions.create(
            model="guarded", messages=[{"role": "user", "content": question}], stream=True
        )
        for chunk in stream:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
        print(f"guarded, streamed: {finish}, {len(text)} characters, forbidden word in it: {'luebird' in text}")
    for stream in (False, True):
        try:
            client.chat.completions.create(
                model="guarded-400", messages=[{"role": "user", "content": ASKED}], stream=stream
            )
            print("guarded-400: no error")
        except openai.APIStatusError as error:
            print(f"guarded-400: {type(error).__name__} {error.status_code}, code {error.code!r}: {str(error)[:140]}")


if __name__ == "__main__":
    main()
