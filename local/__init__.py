"""AWS and Consul on a laptop: runs the deployed app with no account."""
