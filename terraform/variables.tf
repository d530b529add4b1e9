variable "project" {
  description = "Google Cloud project of everything here."
  type        = string
}

variable "region" {
  description = "Where the job and its bucket are; keep the database and the dataset near it."
  type        = string
  default     = "europe-west1"
}

variable "name" {
  description = "Prefix of every resource's name."
  type        = string
  default     = "tidemark"
}

variable "template" {
  description = "The template's specification, gs://…/tidemark-TAG.json, as cloudbuild.yaml writes it. Empty: everything but the job is made, which the first build needs."
  type        = string
  default     = ""
}

variable "image" {
  description = "The image of that specification; its workers run it, the edge, and the query service."
  type        = string
  default     = ""
}

variable "bigquery_location" {
  description = "Where the dataset is; it can never be moved. A multi-region (EU, US) or the job's region."
  type        = string
  default     = "EU"
}

variable "network" {
  description = "VPC network of the workers, and of the query service: one that reaches the database."
  type        = string
  default     = "default"
}

variable "subnetwork" {
  description = "regions/REGION/subnetworks/NAME with Private Google Access, since workers get no public address; /26 or wider for the query service."
  type        = string
}

variable "machine_type" {
  description = "Of a worker. Dataflow starts a worker process a CPU."
  type        = string
  default     = "n2-standard-2"
}

variable "max_workers" {
  description = "Bound of autoscaling. Connections to the database = max_workers x CPUs x database_pool_size: keep it below what the database has free."
  type        = number
  default     = 4
}

variable "database_pool_size" {
  description = "Most connections of one worker process."
  type        = number
  default     = 6
}

variable "streaming_mode" {
  description = "at_least_once or exactly_once: the same numbers; the first is cheaper."
  type        = string
  default     = "at_least_once"
  validation {
    condition     = contains(["at_least_once", "exactly_once"], var.streaming_mode)
    error_message = "streaming_mode is at_least_once or exactly_once."
  }
}

variable "parameters" {
  description = "More parameters of the template, such as { horizon_s = \"300\" }; templates/metadata.json lists them."
  type        = map(string)
  default     = {}
}

variable "publishers" {
  description = "Who may publish points: members such as serviceAccount:edge@project.iam.gserviceaccount.com."
  type        = set(string)
  default     = []
}

variable "notification_channels" {
  description = "Who hears of alerts: names of notification channels, projects/…/notificationChannels/…; [] calls nobody."
  type        = list(string)
}

variable "runbook_url" {
  description = "Where docs/operations/runbook.md is read, so that each alert leads to its heading: the page's address in the team's copy of this repository."
  type        = string
  default     = "docs/operations/runbook.md"
}

variable "alert_after_s" {
  description = "Seconds that messages, marks and the watermark may be behind before somebody is called. A mark's age begins when horizon_s and debounce_s are over."
  type        = number
  default     = 300
}

variable "alert_dead_letter_percent" {
  description = "Share of points that may be dead letters before somebody is called."
  type        = number
  default     = 1
}

variable "edge_domain" {
  description = "Name under which points are taken over HTTPS, such as points.example.com. Empty: there is no edge."
  type        = string
  default     = ""
  validation {
    condition     = var.edge_domain == "" || can(regex("^([a-z0-9-]+\\.)+[a-z]{2,}$", var.edge_domain))
    error_message = "edge_domain is a name such as points.example.com."
  }
}

variable "edge_min_instances" {
  description = "Instances of the edge that always run. With 0 the first request waits until one has started."
  type        = number
  default     = 1
}

variable "edge_max_instances" {
  description = "Bound of the edge's autoscaling; an instance uses one CPU."
  type        = number
  default     = 10
}

variable "query_domain" {
  description = "Name under which queries are answered over HTTPS, such as query.example.com. Empty: there is no query service."
  type        = string
  default     = ""
  validation {
    condition     = var.query_domain == "" || can(regex("^([a-z0-9-]+\\.)+[a-z]{2,}$", var.query_domain))
    error_message = "query_domain is a name such as query.example.com."
  }
}

variable "query_min_instances" {
  description = "Instances of the query service that always run. With 0 the first request waits until one has started, and has a way to the database: a minute, perhaps."
  type        = number
  default     = 1
}

variable "query_max_instances" {
  description = "Bound of the query service's autoscaling. An instance uses one CPU and at most 8 connections to the database, while an update runs twice as many: keep them below what the database has free beside the job's."
  type        = number
  default     = 3
}

variable "alert_query_percent" {
  description = "Share of queries that may be answered with 429 or 5xx before somebody is called."
  type        = number
  default     = 5
}
