# Telegraf: its serializer `json`, one metric or a batch of them
#
# The tag `host` is the source. A metric is measurement.field, with the other tags as labels, cpu.usage_idle{cpu="cpu0"}.
# true and false are 1 and 0; texts are filtered. The time's unit is told by its digits: Telegraf writes seconds unless
# `json_timestamp_units` says otherwise.

def number: if type == "boolean" then (if . then 1 else 0 end) else . end;
def labels: to_entries | map(select(.value != "")) | sort_by(.key) | map("\(.key)=\(.value | tojson)")
  | if . == [] then "" else "{\(join(","))}" end;
def milliseconds: if . < 1e11 then . * 1000 elif . < 1e14 then . elif . < 1e17 then . / 1000 else . / 1000000 end | floor;

.body
| if .metrics then .metrics[] else . end
| (.name // error("name is missing")) as $name
| (.timestamp // error("timestamp is missing") | milliseconds) as $time
| (.tags.host // error("the tag host is missing")) as $source
| (.tags | del(.host) | labels) as $labels
| .fields | to_entries[]
| select(.value | type == "number" or type == "boolean")
| {source: $source, metric: "\($name).\(.key)\($labels)", event_time: $time, value: (.value | number)}
