"""Hardware in the loop: bench devices reached over SSH. Not built yet (docs/unmeasured.md)."""
