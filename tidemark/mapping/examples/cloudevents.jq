# CloudEvents 1.0: an event in structured mode, as JSON
#
# The event's `source` is the source. Each number of `data` is a metric, behind the event's `type`, nested ones as `a.b`,
# true and false as 1 and 0. The time is the event's, or else when the message came. An event without numbers is filtered.

def number: if type == "boolean" then (if . then 1 else 0 end) else . end;

.publish_time as $came
| .body
| if .specversion == null then error("specversion is missing: this is no CloudEvent") else . end
| (.source // error("source is missing")) as $source
| (.type // error("type is missing")) as $type
| (.time // $came) as $time
| {source: $source, points: [
    .data | paths(type == "number" or type == "boolean") as $path
    | {
        metric: ([$type] + ($path | map(tostring)) | join(".")),
        event_time: $time,
        value: (getpath($path) | number)
      }
  ]}
| select(.points != [])
