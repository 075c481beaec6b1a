"""Language models: weights, templates, heads, sampling, and a scripted stand-in."""

import logging
import warnings

# peft imports bitsandbytes wherever it is installed, which then tells of a kernel that it could not download.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

# transformers 5.24 names this argument `cache`, which earlier versions do not know; both names work until 5.40.
warnings.filterwarnings("ignore", message="`past_key_values` is deprecated", category=FutureWarning)
