"""What a check is made of: its steps, and what it remembers. `loop/check.py` takes new code through them."""
