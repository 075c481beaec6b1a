"""Language models: weights, templates, heads, sampling, and a scripted stand-in."""

import logging

# peft imports bitsandbytes wherever it is installed, which then tells of a kernel that it could not download.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
