"""What several toolchains need on the way from a program to a vendor's file."""
