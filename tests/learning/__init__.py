"""What reports teach: tests/learning mirrors sdk/learning."""
