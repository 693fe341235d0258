"""What the server decides, without a database, a network or a clock. Pure."""
