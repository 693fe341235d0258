"""Each step of a build: what it reads (that is its key), its subprocess, its typed result."""
