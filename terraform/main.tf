locals {
  worker = "serviceAccount:${google_service_account.worker.email}"
  job_parameters = {
    subscription       = google_pubsub_subscription.ingest.id
    rollup_dataset     = "${var.project}.${google_bigquery_dataset.rollups.dataset_id}"
    database_secret    = "${google_secret_manager_secret.database.name}/versions/latest"
    database_pool_size = tostring(var.database_pool_size)
    streaming_mode     = var.streaming_mode
  }
}

resource "google_project_service" "api" {
  for_each = toset([
    "artifactregistry.googleapis.com",
    "bigquery.googleapis.com",
    "bigquerystorage.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "dataflow.googleapis.com",
    "iam.googleapis.com",
    "monitoring.googleapis.com",
    "pubsub.googleapis.com",
    "run.googleapis.com",
    "secretmanager.googleapis.com",
    "storage.googleapis.com",
  ])
  service            = each.value
  disable_on_destroy = false
}

# --- messages -------------------------------------------------------------------------------------------------------

resource "google_pubsub_topic" "points" {
  name                       = "${var.name}-points"
  message_retention_duration = "604800s" # a subscription can be sought back a week
  depends_on                 = [google_project_service.api]
}

resource "google_pubsub_subscription" "ingest" {
  name                       = "${var.name}-ingest"
  topic                      = google_pubsub_topic.points.id
  ack_deadline_seconds       = 60        # a pause of a worker shorter than this costs no redelivery
  message_retention_duration = "604800s" # the longest outage of the database that loses nothing

  # Off: it is dearer and slower, and Dataflow does its own deduplication where it is asked to (streaming_mode).
  # Every write of the pipeline can be repeated, so a message that comes twice changes nothing.
  enable_exactly_once_delivery = false
  enable_message_ordering      = false

  expiration_policy {
    ttl = "" # never: a paused job must not lose its subscription
  }
  # No dead_letter_policy: it takes good messages away when an outage or a job that fails again and again has used up their
  # deliveries, and Dataflow does not support it. What cannot be decoded is kept in the table dead_letters.
}

resource "google_pubsub_topic_iam_member" "publisher" {
  for_each = var.publishers
  topic    = google_pubsub_topic.points.id
  role     = "roles/pubsub.publisher"
  member   = each.value
}

# --- storage --------------------------------------------------------------------------------------------------------

resource "google_bigquery_dataset" "rollups" {
  dataset_id = replace(var.name, "-", "_")
  location   = var.bigquery_location
  depends_on = [google_project_service.api]
}

resource "google_secret_manager_secret" "database" {
  secret_id = "${var.name}-database-url"
  replication {
    auto {}
  }
  depends_on = [google_project_service.api]
}

resource "google_storage_bucket" "work" {
  name                        = "${var.project}-${var.name}"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  soft_delete_policy {
    retention_duration_seconds = 0 # staged files are made anew at every launch
  }
  lifecycle_rule {
    condition {
      age            = 90
      matches_prefix = ["temp/"]
    }
    action {
      type = "Delete"
    }
  }
}

resource "google_artifact_registry_repository" "images" {
  repository_id = var.name
  location      = var.region
  format        = "DOCKER"
  depends_on    = [google_project_service.api]
}

# --- who the job is: docs/operations/dataflow.md says why it has each role -------------------------------------------

resource "google_service_account" "worker" {
  account_id   = "${var.name}-worker"
  display_name = "Tidemark's Dataflow job"
  depends_on   = [google_project_service.api]
}

resource "google_project_iam_member" "dataflow_worker" {
  project = var.project
  role    = "roles/dataflow.worker"
  member  = local.worker
}

resource "google_pubsub_subscription_iam_member" "subscriber" {
  subscription = google_pubsub_subscription.ingest.id
  role         = "roles/pubsub.subscriber"
  member       = local.worker
}

resource "google_pubsub_subscription_iam_member" "viewer" {
  subscription = google_pubsub_subscription.ingest.id
  role         = "roles/pubsub.viewer"
  member       = local.worker
}

resource "google_bigquery_dataset_iam_member" "editor" {
  dataset_id = google_bigquery_dataset.rollups.dataset_id
  role       = "roles/bigquery.dataEditor"
  member     = local.worker
}

resource "google_secret_manager_secret_iam_member" "reader" {
  secret_id = google_secret_manager_secret.database.id
  role      = "roles/secretmanager.secretAccessor"
  member    = local.worker
}

resource "google_storage_bucket_iam_member" "staging" {
  bucket = google_storage_bucket.work.name
  role   = "roles/storage.objectAdmin"
  member = local.worker
}

resource "google_artifact_registry_repository_iam_member" "reader" {
  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = "roles/artifactregistry.reader"
  member     = local.worker
}

# --- the job --------------------------------------------------------------------------------------------------------

resource "google_dataflow_flex_template_job" "ingest" {
  provider                = google-beta
  count                   = var.template == "" ? 0 : 1
  name                    = "${var.name}-ingest"
  region                  = var.region
  container_spec_gcs_path = var.template
  on_delete               = "drain" # what was read is written before the job ends; nothing is cancelled

  parameters = merge(var.parameters, local.job_parameters)

  sdk_container_image     = var.image
  service_account_email   = google_service_account.worker.email
  machine_type            = var.machine_type
  num_workers             = 1
  max_workers             = var.max_workers
  autoscaling_algorithm   = "THROUGHPUT_BASED"
  enable_streaming_engine = true
  ip_configuration        = "WORKER_IP_PRIVATE"
  network                 = var.network
  subnetwork              = var.subnetwork
  staging_location        = "gs://${google_storage_bucket.work.name}/staging"
  temp_location           = "gs://${google_storage_bucket.work.name}/temp"

  depends_on = [
    google_artifact_registry_repository_iam_member.reader,
    google_bigquery_dataset_iam_member.editor,
    google_project_iam_member.dataflow_worker,
    google_pubsub_subscription_iam_member.subscriber,
    google_pubsub_subscription_iam_member.viewer,
    google_secret_manager_secret_iam_member.reader,
    google_storage_bucket_iam_member.staging,
  ]
}
