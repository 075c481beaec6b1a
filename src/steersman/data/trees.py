"""OpenAssistant's message trees (Köpf et al. 2023, arXiv:2304.07327) as comparisons: questions, ranked replies."""

from __future__ import annotations

from collections.abc import Iterator

from steersman.data.turns import Row, as_object, as_objects, as_slot, as_turn
from steersman.data.verdicts import ranks_of
from steersman.errors import DataError


def is_tree(row: Row) -> bool:
    """Whether a row is a whole tree: its prompt is a message with replies below it."""
    return isinstance(row.get("prompt"), dict) and "replies" in row["prompt"]


def tree(row: Row) -> list[Row]:
    """One comparison for each question that has at least two replies with a rank, best (rank 0) first.

    Deleted replies and those without a rank are left out. Another language than English becomes a tag.

    Raises:
        DataError: no question of the tree has two ranked replies.
    """
    found = list(_below(as_object(row["prompt"], "prompt"), []))
    if not found:
        raise DataError("a tree in which no question has two ranked replies")
    rest = {name: value for name, value in row.items() if name not in ("prompt", "message_tree_id", "tree_state")}
    return [{**rest, **comparison} for comparison in found]


def _below(message: Row, before: list[Row]) -> Iterator[Row]:
    """The comparisons of a message and of all that follow it."""
    conversation = [*before, as_turn(message)]
    replies = as_objects(message.get("replies") or [], "replies")
    kept = [reply for reply in replies if isinstance(reply.get("rank"), int) and not reply.get("deleted")]
    if conversation[-1]["role"] == "user" and len(kept) > 1:
        ordered = sorted(kept, key=lambda reply: int(reply["rank"]))
        language = str(message.get("lang") or "en")
        tags = {"tags": [f"lang:{language}"]} if language != "en" else {}
        yield {
            "prompt": as_slot(conversation),
            "options": [as_turn(reply)["content"] for reply in ordered],
            "ranking": ranks_of([-reply["rank"] for reply in ordered]),
            **tags,
        }
    for reply in replies:
        yield from _below(reply, conversation)
