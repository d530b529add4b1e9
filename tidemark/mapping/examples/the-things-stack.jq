# The Things Stack 3: uplinks from its MQTT integration or a webhook
#
# Each device is a source, by its device_id. Each number of the decoded payload is a metric, nested ones as `a.b`, true and
# false as 1 and 0; beside them rssi and snr of the gateway that heard it best. The time is when the network received the
# uplink, to the microsecond. Other messages (join-accept, downlinks) and uplinks without a decoded payload: filtered.

def number: if type == "boolean" then (if . then 1 else 0 end) else . end;
def numbers_in: paths(type == "number" or type == "boolean") as $path
  | {metric: ($path | map(tostring) | join(".")), value: (getpath($path) | number)};

.body
| select(.uplink_message.decoded_payload != null)
| (.end_device_ids.device_id // error("end_device_ids.device_id is missing")) as $source
| (.uplink_message.received_at // .received_at // error("received_at is missing")) as $time
| .uplink_message
| {source: $source, points: [
    ((.decoded_payload | numbers_in), (.rx_metadata // [] | max_by(.rssi) // {} | {rssi, snr} | numbers_in))
    | . + {event_time: $time}
  ]}
| select(.points != [])
