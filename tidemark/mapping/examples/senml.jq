# SenML (RFC 8428): a pack of records, whose base fields hold for those behind them
#
# The source is the base name, or the name up to its last `:` or `/`, the metric what is left of the name; a name without
# either is the metric of the source that the topic's last part names. Values are v, vb (1 and 0) and s; texts (vs, vd) are
# filtered. Times below 2^28 are relative to when the message came, as the RFC has it.

module {"body": "whole"};

def resolved: reduce .[] as $record (
    {base: {}, found: []};
    .base += ($record | with_entries(select(.key | IN("bn", "bt", "bv", "bs"))))
    | .base as $base
    | .found += [$record | select((.v // .vb // .s) != null or .v == 0 or .vb == false or .s == 0) | {
        name: (($base.bn // "") + (.n // "")),
        base: ($base.bn // ""),
        time: (($base.bt // 0) + (.t // 0)),
        value: (if .v != null then .v + ($base.bv // 0)
                elif .vb != null then (if .vb then 1 else 0 end)
                else .s + ($base.bs // 0) end)
      }]
  ) | .found[];
def milliseconds($came): (if . < 268435456 then . + $came else . end) * 1000 | round;

(.publish_time | sub("\\.\\d+"; "") | fromdateiso8601) as $came
| (.attributes.topic // "" | split("/") | last // "") as $topic
| .body
| if type == "array" then . else error("a SenML pack is an array") end
| resolved
| (.name | capture("^(?<source>.*)[:/](?<metric>[^:/]+)$") // {source: $topic, metric: .}) as $named
| if $named.metric == "" then error("a record has no name") else . end
| if $named.source == "" then error("\(.name) names no device, and there is no topic") else . end
| {source: $named.source, metric: $named.metric, event_time: (.time | milliseconds($came)), value}
