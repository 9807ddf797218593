"""Serving: an engine that writes many replies at once, an OpenAI-compatible interface to it, and a page."""
