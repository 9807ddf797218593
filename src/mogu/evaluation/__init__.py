"""Measuring a model from outside: conversations in, replies out."""
