"""What listeners share, whatever is spoken there: the connections that are open, and TLS."""
