"""The steps of the workflows: one Lambda handler a module.

`handlers.core` holds what the steps share and needs no network: errors, names, the shape of a
token's secret. `handlers.clients` talks to AWS and Consul. Nothing here imports CDK.
"""
