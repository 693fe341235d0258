"""Releases, from the keys to a device: `fleet` makes both ends in a folder."""
