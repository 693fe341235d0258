"""What the server answers: HTTP, and nothing that decides."""
