"""The fleet's side: which device is to run what, what it says of it, and what comes next."""
