# A large archive of JSON lines, of which a few numbers a line are wanted: positions of aircraft
#
# Each aircraft is a source, by its address. Of some thirty fields three become metrics: altitude, speed, climb. Lines without
# an altitude, and those on the ground, are filtered. Fields are named one by one, since going through all takes longer.

.body
| select(.alt_baro != null and .alt_baro != "ground")
| (.hex // error("hex is missing")) as $source
| (.now // error("now is missing") | . * 1000 | round) as $time
| {source: $source, metric: "altitude", event_time: $time, value: .alt_baro},
  (.gs | values | {source: $source, metric: "speed", event_time: $time, value: .}),
  (.baro_rate | values | {source: $source, metric: "climb", event_time: $time, value: .})
