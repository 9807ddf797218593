"""OpenAI's interface: requests in, jobs to the engine, answers and streams out."""
