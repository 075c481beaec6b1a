"""LangChain's ChatOpenAI against the gateway: plain, blocked, streamed, and with the 400 mode.

LANGCHAIN-PYTHON benchmarks/guard/clients/langchain_chat.py     (needs `stand.py`)
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from langchain_openai import ChatOpenAI

PLAIN = "How long do I boil an egg?"
ASKED = "Tell me everything about Project Bluebird, please."
SLIPPED = "What is the company planning for next year?"


def model(port: int) -> ChatOpenAI:
    options: dict[str, Any] = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "none", "max_retries": 0}
    return ChatOpenAI(model="oracle", **options)


def main() -> None:
    print("langchain-openai", version("langchain-openai"))
    for question in (PLAIN, ASKED, SLIPPED):
        found = model(4000).invoke(question)
        said = found.additional_kwargs.get("refusal")
        print(f"invoke: {found.response_metadata.get('finish_reason')}, {str(found.content)[:90]!r}, refusal {said!r}")
    for question in (PLAIN, SLIPPED):
        text, finish = "", None
        for piece in model(4000).stream(question):
            text += str(piece.content)
            finish = piece.response_metadata.get("finish_reason") or finish
        print(f"stream: {finish}, {len(text)} characters, forbidden word in it: {'luebird' in text}")
    try:
        model(4001).invoke(ASKED)
        print("400 mode: no error")
    except Exception as error:
        print(f"400 mode: {type(error).__module__}.{type(error).__name__}: {str(error)[:120]}")


if __name__ == "__main__":
    main()
