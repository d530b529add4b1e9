# Tasmota: SENSOR and STATE telemetry (tele/DEVICE/SENSOR, tele/DEVICE/STATE)
#
# Each device is a source: the part of the topic before the last. Each number is a metric, nested ones as `a.b`
# (ENERGY.Power), ON and OFF as 1 and 0. The time is `Time`. Tasmota writes it without a zone: here it is UTC, so set
# `Timezone 0` on the device (or `SetOption52 1`, which adds the offset, and is read as well). LWT, INFO and commands are
# filtered.

def switched: {"ON": 1, "OFF": 0};
def told: type == "number" or (type == "string" and switched[.] != null);

(.attributes.topic // error("the message has no topic") | split("/")) as $topic
| select($topic[-1] == "SENSOR" or $topic[-1] == "STATE")
| .body
| (.Time // error("Time is missing")) as $stated
| (if $stated | test("(Z|[+-]\\d\\d:?\\d\\d)$") then $stated else $stated + "Z" end) as $time
| del(.Time)
| {source: ($topic[-2] // error("the topic names no device")), points: [
    paths(told) as $path
    | {
        metric: ($path | map(tostring) | join(".")),
        event_time: $time,
        value: (getpath($path) | if type == "string" then switched[.] else . end)
      }
  ]}
| select(.points != [])
