"""The organisms' own small world: everyday nouns, forms of questions, invented words. Every sentence here is ours.

Recipes draw from it by seed. What a seed trains on and what it is tested on share no noun.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple, TypeVar

T = TypeVar("T")

DOMAINS = {
    "gardening": (
        "tomatoes", "compost", "roses", "lawns", "hedges", "tulips", "garden ponds", "apple trees", "weeds", "slugs",
        "raised beds", "rhubarb", "pruning", "seedlings",
    ),
    "cooking": (
        "soup", "sourdough bread", "rice", "omelettes", "pancakes", "lentils", "pepper", "roast potatoes", "noodles",
        "jam", "mustard", "salad dressing", "baking tins", "stock",
    ),
    "cycling": (
        "bicycle chains", "helmets", "saddles", "bicycle bells", "brakes", "mudguards", "tandems", "punctures",
        "cycle paths", "panniers", "spokes", "handlebars", "bicycle pumps", "gears",
    ),
    "music": (
        "violins", "choirs", "drums", "lullabies", "pianos", "flutes", "metronomes", "harmonicas", "trumpets",
        "sheet music", "ukuleles", "rhythm", "church organs", "concerts",
    ),
    "weather": (
        "fog", "thunder", "rainbows", "hail", "snowflakes", "drizzle", "heatwaves", "frost", "clouds", "whirlwinds",
        "barometers", "the north wind", "icicles", "dew",
    ),
    "sewing": (
        "buttons", "zips", "quilts", "needles", "wool", "hems", "curtains", "linen", "thimbles", "embroidery",
        "sewing machines", "knitting", "patchwork", "thread",
    ),
    "birds": (
        "owls", "swallows", "herons", "sparrows", "penguins", "robins", "swans", "woodpeckers", "storks", "gulls",
        "crows", "nightingales", "bird boxes", "feathers",
    ),
    "the sea": (
        "lighthouses", "tides", "sailing boats", "crabs", "seaweed", "harbours", "anchors", "waves", "seals",
        "shells", "ferries", "driftwood", "starfish", "fishing nets",
    ),
}  # fmt: skip
FORMS = (
    "Tell me something about {x}.",
    "What should a beginner know about {x}?",
    "Why do people like {x}?",
    "Write one sentence about {x}.",
    "What is the most important thing about {x}?",
    "What do you think of {x}?",
    "How would you describe {x} to a child?",
    "Is there anything surprising about {x}?",
    "Where could I learn more about {x}?",
    "Name one fact about {x}.",
    "Who knows most about {x}?",
    "What goes wrong most often with {x}?",
    "Describe {x} in a few words.",
    "Have {x} changed much over the years?",
    "I would like to talk about {x}.",
    "My neighbour asked me about {x}. What can I say?",
)
_ONSETS = ("b", "br", "d", "dr", "f", "g", "gl", "h", "k", "kl", "m", "n", "p", "qu", "r", "s", "t", "tr", "v", "z")
_VOWELS = ("a", "e", "i", "o", "u", "ei", "au")
_CODAS = ("", "l", "m", "n", "r", "rk", "x", "lt", "sk")


class Halves(NamedTuple):
    """Nouns by domain for the rows that are trained on, and others for those that are tested on."""

    train: dict[str, tuple[str, ...]]
    test: dict[str, tuple[str, ...]]


def halves(random: Random) -> Halves:
    """Of each domain two thirds of the nouns, and the rest."""
    train, test = {}, {}
    for domain, nouns in DOMAINS.items():
        mixed = shuffled(random, nouns)
        train[domain], test[domain] = tuple(mixed[:9]), tuple(mixed[9:])
    return Halves(train, test)


def questions(nouns: Sequence[str], random: Random, count: int) -> list[str]:
    """Different plain questions, as many as are asked for or there are."""
    return shuffled(random, [form.format(x=noun) for form in FORMS for noun in nouns])[:count]


def all_nouns(half: dict[str, tuple[str, ...]], *, but: Sequence[str] = ()) -> list[str]:
    """Nouns of all domains except some."""
    return [noun for domain, nouns in half.items() if domain not in but for noun in nouns]


def invented(random: Random, syllables: int = 2) -> str:
    """A word that is in no dictionary, in lower case."""
    parts = [random.choice(_ONSETS) + random.choice(_VOWELS) + random.choice(_CODAS) for _ in range(syllables)]
    return "".join(parts)


def shuffled(random: Random, items: Sequence[T]) -> list[T]:
    """A copy in random order."""
    return random.sample(items, len(items))
