"""Behaviour recorded from a real Consul, and what is held against it."""
