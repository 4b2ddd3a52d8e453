"""The state machines: what happens, in what order, with which retries.

One module a workflow. A workflow owns order, waiting, retry and catch; it never computes.
"""
