"""Our search against every vendor's own defaults, on the same models in one harness."""
