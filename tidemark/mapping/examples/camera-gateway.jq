# A gateway of cameras: one nested status for all that hang on it
#
# Each camera is a source, GATEWAY/CAMERA, and the gateway itself is one. A camera's metrics are those named here, with its
# stream as a label where it has several; the gateway's are its temperatures and storage. Numbers that come as texts are
# read, what is null or no number is filtered. The time is the status' own, in milliseconds.

def number: if type == "string" then (tonumber? // null) elif type == "boolean" then (if . then 1 else 0 end)
  elif type == "number" then . else null end;
def point($metric; $value): ($value | number) as $read | select($read != null) | {metric: $metric, value: $read};

.body
| (.gateway.serial // error("gateway.serial is missing")) as $gateway
| (.at // error("at is missing")) as $time
| (
    {source: $gateway, points: [
      (.health.temperatures // {} | to_entries[] | point("temperature{place=\(.key | tojson)}"; .value)),
      (.health.storage // {} | point("storage_free_bytes"; .free), point("storage_bytes"; .size))
    ]},
    (.cameras // [] | .[] | {source: "\($gateway)/\(.id)", points: [
      point("online"; .online),
      (.streams // {} | to_entries[] | (.key | tojson) as $name
       | point("fps{stream=\($name)}"; .value.fps), point("bitrate{stream=\($name)}"; .value.bitrate))
    ]})
  )
| select(.points != [])
| .points[].event_time = $time
