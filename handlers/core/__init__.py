"""What the steps share: errors, names, the contents of secrets, the frame of a step."""
