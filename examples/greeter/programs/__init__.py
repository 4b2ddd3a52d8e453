"""What the containers run: each a program of its own, none of them imported."""
