# collectd: what its plugin write_http posts as JSON
#
# Each host is a source. A metric is plugin[-instance].type[-instance], and the data source's name where it is not `value`
# (interface-eth0.if_octets.rx). The time is collectd's, in seconds with a fraction. Values that are null (NaN) are filtered;
# counters and derives come as collectd counts them, or as rates with `StoreRates true`.

.body
| (.host // error("host is missing")) as $source
| (.time // error("time is missing")) as $time
| ([.plugin, .plugin_instance] | map(select(. != null and . != "")) | join("-")) as $plugin
| ([.type, .type_instance] | map(select(. != null and . != "")) | join("-")) as $type
| [.values, .dsnames // []] | transpose[]
| select(.[0] != null)
| {
    source: $source,
    metric: ([$plugin, $type] + (if .[1] == null or .[1] == "value" then [] else [.[1]] end) | join(".")),
    event_time: ($time * 1000 | round),
    value: .[0]
  }
