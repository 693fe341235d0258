"""The half of a rig that is on the rig: what `hil` pushes there, and talks to.

`bootstrap` is sent first and unpacks the rest; `serve` answers JSON lines; `lease` sees to it that
one client at a time has the rig, and `machine` that one measures at a time; `store` keeps what was
pushed by its hash; `job` runs it, in a process of its own that can be killed. Standard library,
numpy, and the one runtime of a job.
"""
