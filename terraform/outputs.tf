output "topic" {
  description = "Publish points here."
  value       = google_pubsub_topic.points.id
}

output "subscription" {
  description = "The job reads it."
  value       = google_pubsub_subscription.ingest.id
}

output "dataset" {
  description = "Rollups, as gcp_project.dataset."
  value       = local.job_parameters.rollup_dataset
}

output "secret" {
  description = "Add the database URL to it, as a version."
  value       = google_secret_manager_secret.database.id
}

output "bucket" {
  description = "Template specifications, staged files."
  value       = google_storage_bucket.work.name
}

output "image" {
  description = "Where cloudbuild.yaml pushes the image, without its tag."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.name}/ingest"
}

output "tokens" {
  description = "Add the lines of `tidemark token add` to it, as a version, before edge_domain or query_domain is set."
  value       = google_secret_manager_secret.tokens.id
}

output "edge_address" {
  description = "Where edge_domain has to lead; null without an edge."
  value       = one(google_compute_global_address.edge[*].address)
}

output "reader_secret" {
  description = "Add the database URL of a user that may only read to it, as a version, before query_domain is set."
  value       = google_secret_manager_secret.reader.id
}

output "query_address" {
  description = "Where query_domain has to lead; null without a query service."
  value       = one(google_compute_global_address.query[*].address)
}
