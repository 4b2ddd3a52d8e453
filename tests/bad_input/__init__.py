"""Whatever comes in: only documented errors come out, and nothing is lost.

Hypothesis makes the input: of the steps, of AWS, of Consul, of secrets and of settings files. The
steps run on fakes in memory (those of tests/faults), which are reached through the real botocore
and the real requests: what is made up is made up on the wire.

The examples are the same at each run. `BAD_INPUT_TIMES=20 pytest tests/bad_input` tries so many
times as many, other ones each time.
"""
