"""What speed an issue asks for, measured as ratios in one run. Kept out of the timed tests."""
