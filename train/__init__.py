"""How encoders are learned from records."""
