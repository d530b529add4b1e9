"""A Pub/Sub server of our own: the real protocol, leases and all, with faults on request."""
