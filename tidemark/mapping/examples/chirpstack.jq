# ChirpStack 4: uplinks from its MQTT or HTTP integration
#
# Each device is a source, by its devEui. Each number of the decoded payload (`object`) is a metric, nested ones as `a.b`,
# true and false as 1 and 0; beside them rssi and snr of the gateway that heard it best. The time is the event's. Events of
# other kinds (join, status, ack, txack, log) have no `object`, and neither has an uplink without a codec: filtered.

def number: if type == "boolean" then (if . then 1 else 0 end) else . end;
def numbers_in: paths(type == "number" or type == "boolean") as $path
  | {metric: ($path | map(tostring) | join(".")), value: (getpath($path) | number)};

.body
| select(.object != null)
| (.deviceInfo.devEui // error("deviceInfo.devEui is missing")) as $source
| (.time // error("time is missing")) as $time
| {source: $source, points: [
    ((.object | numbers_in), (.rxInfo // [] | max_by(.rssi) // {} | {rssi, snr} | numbers_in))
    | . + {event_time: $time}
  ]}
| select(.points != [])
