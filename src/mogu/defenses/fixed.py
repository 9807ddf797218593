"""What defenses say that refuse with one and the same sentence."""

REFUSAL = "I'm sorry, but I can't help with that."
