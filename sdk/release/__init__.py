"""From a build to a signed release: keys, the repository, publishing, packages."""
