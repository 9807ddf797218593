"""Training: from requests and a base model to an adapter folder."""
