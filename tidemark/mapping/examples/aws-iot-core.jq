# AWS IoT Core: reported state of a thing's shadow, or plain telemetry, forwarded by a rule
#
# The source is the thing: `clientid` of the attributes, or its name in the topic ($aws/things/NAME/…, or the last part of
# another topic). Each number of `state.reported`, or else of the body, is a metric, nested ones as `a.b`, true and false as
# 1 and 0. The time is `timestamp`, in seconds as shadows have it, or in milliseconds as rules add it, or else when the
# message came.

def number: if type == "boolean" then (if . then 1 else 0 end) else . end;
def milliseconds: if type != "number" then error("timestamp is no number: \(tojson)") elif . < 1e11 then . * 1000 else . end;

(.attributes.topic // "" | split("/")) as $topic
| (.attributes.clientid // (if $topic[:2] == ["$aws", "things"] then $topic[2] else $topic[-1] end)
   // error("neither clientid nor topic says which thing it is")) as $source
| .publish_time as $came
| .body
| (if .timestamp != null then .timestamp | milliseconds | floor else $came end) as $time
| {source: $source, points: [
    (.state.reported // del(.timestamp)) | paths(type == "number" or type == "boolean") as $path
    | {metric: ($path | map(tostring) | join(".")), event_time: $time, value: (getpath($path) | number)}
  ]}
| select(.points != [])
