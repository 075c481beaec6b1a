"""Our engine behind an OpenAI-compatible API: continuous batching across the requests of many clients."""
