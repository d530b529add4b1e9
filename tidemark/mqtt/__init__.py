"""MQTT 3.1.1 and 5, the half of it that a server that takes messages needs: bytes to packets and answers to bytes, without a socket."""
