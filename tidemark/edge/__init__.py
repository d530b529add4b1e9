"""The edge: points from whoever does not speak Pub/Sub, acknowledged only when they are in the bus.

    http ─┐
          ├─▶ intake ─▶ bus.publisher ─▶ Pub/Sub
    (…)  ─┘     │ ▲          │
       tokens ──┘ └─ budget  └─ not taken ─▶ spool, when there is one

`server` is the map: listeners over one intake, one publisher.
"""
