"""The query service: what series did, right as of one moment, and how complete that is."""
