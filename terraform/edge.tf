# The edge on Cloud Run behind a load balancer, where var.edge_domain names what it is called: docs/operations/edge.md.

locals {
  edges = var.edge_domain == "" ? 0 : 1
}

# --- who it is: it publishes to one topic and reads one secret ---------------------------------------------------------

resource "google_service_account" "edge" {
  count        = local.edges
  account_id   = "${var.name}-edge"
  display_name = "Tidemark's edge"
  depends_on   = [google_project_service.api]
}

resource "google_pubsub_topic_iam_member" "edge" {
  count  = local.edges
  topic  = google_pubsub_topic.points.id
  role   = "roles/pubsub.publisher"
  member = "serviceAccount:${google_service_account.edge[0].email}"
}

# Made without an edge, too: its first version is there before the edge is, and an edge that goes takes no tokens along. The
# query service reads it as well.
resource "google_secret_manager_secret" "tokens" {
  secret_id = "${var.name}-tokens"
  replication {
    auto {}
  }
  depends_on = [google_project_service.api]
}

resource "google_secret_manager_secret_iam_member" "edge" {
  count     = local.edges
  secret_id = google_secret_manager_secret.tokens.id
  role      = "roles/secretmanager.secretAccessor"
  member    = "serviceAccount:${google_service_account.edge[0].email}"
}

# --- the service -------------------------------------------------------------------------------------------------------

resource "google_cloud_run_v2_service" "edge" {
  count               = local.edges
  name                = "${var.name}-edge"
  location            = var.region
  ingress             = "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER" # nobody passes by the load balancer
  deletion_protection = false                                    # it keeps nothing

  template {
    service_account                  = google_service_account.edge[0].email
    timeout                          = "60s" # a slow body, and what Pub/Sub is tried for (--client_timeout_s, --publish_timeout_s)
    max_instance_request_concurrency = 250   # they wait for Pub/Sub, and cost no CPU meanwhile

    scaling {
      min_instance_count = var.edge_min_instances
      max_instance_count = var.edge_max_instances
    }

    containers {
      image   = var.image
      command = ["tidemark"] # not the image's own entry, which is Beam's
      args = [
        "edge",
        "--topic=${google_pubsub_topic.points.id}",
        "--tokens=${google_secret_manager_secret.tokens.name}/versions/latest",
        "--http_address=0.0.0.0",
        "--http_port=8080",
        "--publish_timeout_s=5", # what waits for Pub/Sub is answered before the end
        "--drain_s=8",           # Cloud Run kills 10 s after SIGTERM
      ]

      ports {
        container_port = 8080
      }

      resources {
        limits = {
          cpu    = "1" # a process uses one
          memory = "512Mi"
        }
        cpu_idle          = false # messages are confirmed, and tokens read again, beside requests
        startup_cpu_boost = true
      }

      startup_probe {
        period_seconds    = 2
        failure_threshold = 30
        http_get {
          path = "/healthz"
        }
      }

      liveness_probe {
        period_seconds    = 10
        timeout_seconds   = 5
        failure_threshold = 3
        http_get {
          path = "/healthz"
        }
      }
    }
  }

  lifecycle {
    precondition {
      condition     = var.image != ""
      error_message = "edge_domain needs image: the edge runs it."
    }
  }

  depends_on = [
    google_project_service.api,
    google_pubsub_topic_iam_member.edge,
    google_secret_manager_secret_iam_member.edge,
  ]
}

# Everybody: senders have tokens of the edge, which it asks for itself, and no account of Google.
resource "google_cloud_run_v2_service_iam_member" "edge" {
  count    = local.edges
  name     = google_cloud_run_v2_service.edge[0].name
  location = var.region
  role     = "roles/run.invoker"
  member   = "allUsers"
}

# --- its address -------------------------------------------------------------------------------------------------------

resource "google_compute_region_network_endpoint_group" "edge" {
  count                 = local.edges
  name                  = "${var.name}-edge"
  region                = var.region
  network_endpoint_type = "SERVERLESS"

  cloud_run {
    service = google_cloud_run_v2_service.edge[0].name
  }
}

resource "google_compute_backend_service" "edge" {
  count                 = local.edges
  name                  = "${var.name}-edge"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  protocol              = "HTTPS"

  backend {
    group = google_compute_region_network_endpoint_group.edge[0].id
  }
}

resource "google_compute_url_map" "edge" {
  count           = local.edges
  name            = "${var.name}-edge"
  default_service = google_compute_backend_service.edge[0].id
}

resource "google_compute_managed_ssl_certificate" "edge" {
  count = local.edges
  name  = "${var.name}-edge-${substr(sha256(var.edge_domain), 0, 8)}" # another domain's is made before this one goes

  managed {
    domains = [var.edge_domain]
  }

  lifecycle {
    create_before_destroy = true
  }
  depends_on = [google_project_service.api]
}

resource "google_compute_ssl_policy" "edge" {
  count           = local.edges
  name            = "${var.name}-edge"
  profile         = "MODERN"
  min_tls_version = "TLS_1_2"
  depends_on      = [google_project_service.api]
}

resource "google_compute_target_https_proxy" "edge" {
  count            = local.edges
  name             = "${var.name}-edge"
  url_map          = google_compute_url_map.edge[0].id
  ssl_certificates = [google_compute_managed_ssl_certificate.edge[0].id]
  ssl_policy       = google_compute_ssl_policy.edge[0].id
}

resource "google_compute_global_address" "edge" {
  count      = local.edges
  name       = "${var.name}-edge"
  depends_on = [google_project_service.api]
}

# Port 443 alone: a token that is sent without TLS reaches nobody.
resource "google_compute_global_forwarding_rule" "edge" {
  count                 = local.edges
  name                  = "${var.name}-edge"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  ip_address            = google_compute_global_address.edge[0].id
  port_range            = "443"
  target                = google_compute_target_https_proxy.edge[0].id
}
