# Zigbee2MQTT: what devices publish below its base topic
#
# Each device is a source: the topic without its first part, so a friendly name may have slashes. Each number is a metric,
# nested ones as `a.b`; true, ON, OPEN and LOCK are 1, false, OFF, CLOSE and UNLOCK are 0. The time is `last_seen`, as
# milliseconds or RFC 3339, where the device has it, and otherwise when the message came. What the bridge says of itself,
# availability, and requests (…/set, …/get) are filtered.

def switched: {"ON": 1, "OFF": 0, "OPEN": 1, "CLOSE": 0, "LOCK": 1, "UNLOCK": 0};
def number: if type == "boolean" then (if . then 1 else 0 end) elif type == "string" then switched[.] else . end;
def told: type == "number" or type == "boolean" or (type == "string" and switched[.] != null);

(.attributes.topic // error("the message has no topic") | split("/")) as $topic
| select(($topic | length) > 1 and $topic[1] != "bridge" and ([$topic[-1]] | inside(["availability", "set", "get"]) | not))
| .publish_time as $came
| .body
| select(type == "object")
| (.last_seen // $came) as $time
| del(.last_seen)
| {source: ($topic[1:] | join("/")), points: [
    paths(told) as $path
    | {metric: ($path | map(tostring) | join(".")), event_time: $time, value: (getpath($path) | number)}
  ]}
| select(.points != [])
