"""The constitution: the one written statement of how a model should behave, which every method reads."""
