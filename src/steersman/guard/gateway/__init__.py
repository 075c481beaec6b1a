"""The gateway: the guard in front of any OpenAI-compatible server."""
