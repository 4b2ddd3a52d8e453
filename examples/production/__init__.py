"""Consul servers for production, and the ACL controller that looks after them."""
