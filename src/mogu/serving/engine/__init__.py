"""Many replies at once: jobs in, pieces of text out. Knows nothing of HTTP."""
