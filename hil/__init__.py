"""Hardware in the loop: bench devices reached over SSH. Nothing is here yet; see docs/unmeasured.md."""
