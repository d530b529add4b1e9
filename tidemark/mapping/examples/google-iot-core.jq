# Google Cloud IoT Core, and the bridges that took its place: telemetry with the device in the attributes
#
# The source is the attribute deviceId, the project deviceRegistryId where there is one. Each number of the body is a metric,
# behind subFolder where there is one, nested ones as `a.b`, true and false as 1 and 0. The time is `timestamp` of the body,
# as milliseconds or RFC 3339, or else when the message came.

def number: if type == "boolean" then (if . then 1 else 0 end) else . end;

(.attributes.deviceId // error("the attribute deviceId is missing")) as $source
| .attributes.deviceRegistryId as $registry
| (.attributes.subFolder // "" | if . == "" then [] else [.] end) as $folder
| .publish_time as $came
| .body
| (.timestamp // $came) as $time
| {source: $source, points: [
    del(.timestamp) | paths(type == "number" or type == "boolean") as $path
    | {
        metric: ($folder + ($path | map(tostring)) | join(".")),
        event_time: $time,
        value: (getpath($path) | number)
      }
  ]}
| select(.points != [])
| if $registry then . + {project: $registry} else . end
