"""The release side: keys, ceremonies, publications."""
