# One policy for each heading of docs/operations/runbook.md. The counters are Tidemark's own (docs/reference/metrics.md);
# Dataflow gives a counter as its value so far, and not before it is more than 0: of the first count `increase` knows nothing,
# so a series that was not there ten minutes ago counts whole.

locals {
  runbook = "What to do: ${var.runbook_url}"
  jobs    = var.template == "" ? 0 : 1 # what is watched of a job is not there without one
  counter = "dataflow_googleapis_com:job_user_counter{monitored_resource=\"dataflow_job\",job_name=\"${var.name}-ingest\",metric_name="
  answers = "run_googleapis_com:request_count{monitored_resource=\"cloud_run_revision\",service_name=\"${var.name}-query\""
}

resource "google_monitoring_alert_policy" "messages_wait" {
  display_name          = "Messages wait"
  combiner              = "OR"
  notification_channels = var.notification_channels
  conditions {
    display_name = "the oldest message that is not acknowledged is older than ${var.alert_after_s} s"
    condition_threshold {
      filter          = "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = \"${google_pubsub_subscription.ingest.name}\" AND metric.type = \"pubsub.googleapis.com/subscription/oldest_unacked_message_age\""
      comparison      = "COMPARISON_GT"
      threshold_value = var.alert_after_s
      duration        = "300s"
      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }
  documentation {
    content = "${local.runbook}#messages-wait"
  }
}

resource "google_monitoring_alert_policy" "settling_is_behind" {
  count                 = local.jobs
  display_name          = "Settling is behind"
  combiner              = "OR"
  notification_channels = var.notification_channels
  conditions {
    display_name = "the oldest due mark is older than ${var.alert_after_s} s"
    condition_prometheus_query_language {
      query               = "sum(rate(${local.counter}\"due_age_s\"}[10m])) / sum(rate(${local.counter}\"settle_looks\"}[10m])) > ${var.alert_after_s}"
      duration            = "300s"
      evaluation_interval = "60s"
    }
  }
  documentation {
    content = "${local.runbook}#settling-is-behind"
  }
}

resource "google_monitoring_alert_policy" "nobody_settles" {
  count                 = local.jobs
  display_name          = "Nobody settles"
  combiner              = "OR"
  notification_channels = var.notification_channels
  conditions {
    display_name = "no look for due marks was answered for ten minutes"
    condition_prometheus_query_language {
      query               = "(sum(rate(${local.counter}\"settle_looks\"}[10m])) or vector(0)) == 0"
      duration            = "300s"
      evaluation_interval = "60s"
    }
  }
  documentation {
    content = "${local.runbook}#nobody-settles"
  }
}

resource "google_monitoring_alert_policy" "something_waits_for_a_person" {
  count                 = local.jobs
  display_name          = "Something waits for a person"
  combiner              = "OR"
  notification_channels = var.notification_channels
  conditions {
    display_name = "a table, grant, schema or name is not as it must be"
    condition_prometheus_query_language {
      query               = "sum(increase(${local.counter}\"retries_misconfigured\"}[10m])) > 0 or sum(${local.counter}\"retries_misconfigured\"} unless ${local.counter}\"retries_misconfigured\"} offset 10m) > 0"
      duration            = "300s"
      evaluation_interval = "60s"
    }
  }
  documentation {
    content = "${local.runbook}#something-waits-for-a-person"
  }
}

resource "google_monitoring_alert_policy" "bigquery_takes_no_rows" {
  count                 = local.jobs
  display_name          = "BigQuery takes no rows"
  combiner              = "OR"
  notification_channels = var.notification_channels
  conditions {
    display_name = "appends were given up"
    condition_prometheus_query_language {
      query               = "sum(increase(${local.counter}\"append_failures\"}[10m])) > 0 or sum(${local.counter}\"append_failures\"} unless ${local.counter}\"append_failures\"} offset 10m) > 0"
      duration            = "900s"
      evaluation_interval = "60s"
    }
  }
  conditions {
    display_name = "rows were refused for what they contain"
    condition_prometheus_query_language {
      query               = "sum(increase(${local.counter}\"rollups_refused\"}[10m])) > 0 or sum(${local.counter}\"rollups_refused\"} unless ${local.counter}\"rollups_refused\"} offset 10m) > 0"
      duration            = "0s"
      evaluation_interval = "60s"
    }
  }
  documentation {
    content = "${local.runbook}#bigquery-takes-no-rows"
  }
}

resource "google_monitoring_alert_policy" "many_dead_letters" {
  count                 = local.jobs
  display_name          = "Many dead letters"
  combiner              = "OR"
  notification_channels = var.notification_channels
  conditions {
    display_name = "more than ${var.alert_dead_letter_percent} % of what came was not accepted"
    condition_prometheus_query_language {
      query               = "100 * sum(increase(${local.counter}\"dead_lettered\"}[30m])) / sum(increase(${local.counter}\"received\"}[30m])) > ${var.alert_dead_letter_percent}"
      duration            = "300s"
      evaluation_interval = "60s"
    }
  }
  documentation {
    content = "${local.runbook}#many-dead-letters"
  }
}

resource "google_monitoring_alert_policy" "previews_are_late" {
  count                 = local.jobs
  display_name          = "Previews are late"
  combiner              = "OR"
  notification_channels = var.notification_channels
  conditions {
    display_name = "the job's watermark is more than ${var.alert_after_s} s behind"
    condition_threshold {
      filter          = "resource.type = \"dataflow_job\" AND resource.labels.job_name = \"${var.name}-ingest\" AND metric.type = \"dataflow.googleapis.com/job/data_watermark_age\""
      comparison      = "COMPARISON_GT"
      threshold_value = var.alert_after_s
      duration        = "600s"
      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }
  documentation {
    content = "${local.runbook}#previews-are-late"
  }
}

resource "google_monitoring_alert_policy" "queries_fail" {
  count                 = local.queries
  display_name          = "Queries fail"
  combiner              = "OR"
  notification_channels = var.notification_channels
  conditions {
    display_name = "more than ${var.alert_query_percent} % of queries, and ten or more, were answered with 429 or 5xx"
    condition_prometheus_query_language {
      query               = "100 * sum(increase(${local.answers},response_code=~\"429|5..\"}[10m])) / sum(increase(${local.answers}}[10m])) > ${var.alert_query_percent} and sum(increase(${local.answers},response_code=~\"429|5..\"}[10m])) >= 10"
      duration            = "300s"
      evaluation_interval = "60s"
    }
  }
  documentation {
    content = "${local.runbook}#queries-fail"
  }
}
