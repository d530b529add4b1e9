"""The Pub/Sub stand-in: a server of the real protocol with a durable state and faults on request.

    client ──gRPC──▶ server ──▶ broker ──▶ journal          publish: to disk, then to every subscription of the topic
                       │           └────▶ subscription      queue → lease → acknowledged, or back to the queue
                       ├─▶ streaming (StreamingPull)            └─ ordering: the lanes of the ordering keys
                       └─▶ faults ◀── control (client)      what goes wrong on purpose

`python -m tidemark.local.pubsub --port 8085 --state DIR`, then `PUBSUB_EMULATOR_HOST=127.0.0.1:8085` for any client.
One thread does everything, so a request is atomic. Refused rather than half done: push and export subscriptions,
filters, retry policies, exactly-once delivery, schemas, snapshots and seek.
"""
