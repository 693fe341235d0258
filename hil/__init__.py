"""Hardware in the loop: bench devices ("rigs") that are reached over SSH.

`inventory` says which there are, `link` reaches one, `rig` is what a client has of it while it is
reached, `bundle` the code that is pushed there. The rig's half is `agent.rig`.
"""
