"""What the server remembers: the rules' inputs and outcomes, as rows."""
