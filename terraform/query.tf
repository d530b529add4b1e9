# The query service on Cloud Run behind a load balancer, where var.query_domain names what it is called: docs/operations/query.md.

locals {
  queries = var.query_domain == "" ? 0 : 1
}

# --- who it is: it reads two secrets. What it may in the database is its user's there: tidemark_reader, who may SELECT ----

resource "google_service_account" "query" {
  count        = local.queries
  account_id   = "${var.name}-query"
  display_name = "Tidemark's query service"
  depends_on   = [google_project_service.api]
}

# Made without a query service, too: its first version is there before the service is.
resource "google_secret_manager_secret" "reader" {
  secret_id = "${var.name}-reader-url"
  replication {
    auto {}
  }
  depends_on = [google_project_service.api]
}

resource "google_secret_manager_secret_iam_member" "query_database" {
  count     = local.queries
  secret_id = google_secret_manager_secret.reader.id
  role      = "roles/secretmanager.secretAccessor"
  member    = "serviceAccount:${google_service_account.query[0].email}"
}

resource "google_secret_manager_secret_iam_member" "query_tokens" {
  count     = local.queries
  secret_id = google_secret_manager_secret.tokens.id
  role      = "roles/secretmanager.secretAccessor"
  member    = "serviceAccount:${google_service_account.query[0].email}"
}

# --- the service -------------------------------------------------------------------------------------------------------

resource "google_cloud_run_v2_service" "query" {
  count               = local.queries
  name                = "${var.name}-query"
  location            = var.region
  ingress             = "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER" # nobody passes by the load balancer
  deletion_protection = false                                    # it keeps nothing

  template {
    service_account                  = google_service_account.query[0].email
    timeout                          = "60s" # a slow reader of a large answer; what computes it has --query_timeout_s
    max_instance_request_concurrency = 32    # 8 are executed, the others wait: less than --max_waiting, so that none of them is told 429

    scaling {
      min_instance_count = var.query_min_instances
      max_instance_count = var.query_max_instances
    }

    # The way that the job's workers have to the database.
    vpc_access {
      egress = "PRIVATE_RANGES_ONLY"
      network_interfaces {
        network    = var.network
        subnetwork = basename(var.subnetwork)
      }
    }

    containers {
      image   = var.image
      command = ["tidemark"] # not the image's own entry, which is Beam's
      args = [
        "serve",
        "--database_secret=${google_secret_manager_secret.reader.name}/versions/latest",
        "--tokens=${google_secret_manager_secret.tokens.name}/versions/latest",
        "--http_address=0.0.0.0",
        "--http_port=8080",
        "--database_pool_size=8",
        "--query_timeout_s=7", # what is asked is answered before the end
        "--drain_s=8",         # Cloud Run kills 10 s after SIGTERM
      ]

      ports {
        container_port = 8080
      }

      resources {
        limits = {
          cpu    = "1"      # a process uses one
          memory = "1024Mi" # 500 MB were seen, with the largest answers
        }
        cpu_idle          = false # the database is looked at, and tokens read again, beside requests
        startup_cpu_boost = true
      }

      # The database's: the way to it may take a minute to be there after a start, and a revision that cannot reach it takes over
      # nothing.
      startup_probe {
        period_seconds    = 2
        timeout_seconds   = 2
        failure_threshold = 90
        http_get {
          path = "/readyz"
        }
      }

      # The process' alone: while the database is away, none that starts again would answer either.
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
      error_message = "query_domain needs image: the query service runs it."
    }
  }

  depends_on = [
    google_project_service.api,
    google_secret_manager_secret_iam_member.query_database,
    google_secret_manager_secret_iam_member.query_tokens,
  ]
}

# Everybody: who asks has a token of the query service, which it asks for itself, and no account of Google.
resource "google_cloud_run_v2_service_iam_member" "query" {
  count    = local.queries
  name     = google_cloud_run_v2_service.query[0].name
  location = var.region
  role     = "roles/run.invoker"
  member   = "allUsers"
}

# --- its address -------------------------------------------------------------------------------------------------------

resource "google_compute_region_network_endpoint_group" "query" {
  count                 = local.queries
  name                  = "${var.name}-query"
  region                = var.region
  network_endpoint_type = "SERVERLESS"

  cloud_run {
    service = google_cloud_run_v2_service.query[0].name
  }
}

resource "google_compute_backend_service" "query" {
  count                 = local.queries
  name                  = "${var.name}-query"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  protocol              = "HTTPS"

  backend {
    group = google_compute_region_network_endpoint_group.query[0].id
  }
}

resource "google_compute_url_map" "query" {
  count           = local.queries
  name            = "${var.name}-query"
  default_service = google_compute_backend_service.query[0].id
}

resource "google_compute_managed_ssl_certificate" "query" {
  count = local.queries
  name  = "${var.name}-query-${substr(sha256(var.query_domain), 0, 8)}" # another domain's is made before this one goes

  managed {
    domains = [var.query_domain]
  }

  lifecycle {
    create_before_destroy = true
  }
  depends_on = [google_project_service.api]
}

resource "google_compute_ssl_policy" "query" {
  count           = local.queries
  name            = "${var.name}-query"
  profile         = "MODERN"
  min_tls_version = "TLS_1_2"
  depends_on      = [google_project_service.api]
}

resource "google_compute_target_https_proxy" "query" {
  count            = local.queries
  name             = "${var.name}-query"
  url_map          = google_compute_url_map.query[0].id
  ssl_certificates = [google_compute_managed_ssl_certificate.query[0].id]
  ssl_policy       = google_compute_ssl_policy.query[0].id
}

resource "google_compute_global_address" "query" {
  count      = local.queries
  name       = "${var.name}-query"
  depends_on = [google_project_service.api]
}

# Port 443 alone: a token that is sent without TLS reaches nobody.
resource "google_compute_global_forwarding_rule" "query" {
  count                 = local.queries
  name                  = "${var.name}-query"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  ip_address            = google_compute_global_address.query[0].id
  port_range            = "443"
  target                = google_compute_target_https_proxy.query[0].id
}
