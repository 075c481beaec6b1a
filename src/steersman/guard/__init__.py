"""The guard: a constitution enforced on what goes into a model and what comes out of it."""
