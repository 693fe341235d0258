"""What the agent survives: kills, failing disks, power cuts."""
