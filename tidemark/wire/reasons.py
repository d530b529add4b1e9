"""Why a message or a point became a dead letter: the fixed list of reasons."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A dead letter's reason; of points also the name of its counter, behind `dead_lettered_`."""

    EMPTY_MESSAGE = "empty_message"
    MESSAGE_TOO_LARGE = "message_too_large"
    UNKNOWN_ENCODING = "unknown_content_encoding"
    BAD_COMPRESSION = "bad_compression"
    NOT_JSON = "not_json"
    MAPPING_FAILED = "mapping_failed"
    WRONG_SHAPE = "wrong_shape"
    MISSING_FIELD = "missing_field"
    BAD_NAME = "bad_name"
    BAD_EVENT_TIME = "bad_event_time"
    EVENT_TIME_IN_FUTURE = "event_time_in_future"
    OLDER_THAN_RETENTION = "older_than_retention"
    BAD_PUBLISH_TIME = "bad_publish_time"
    BAD_VALUE = "bad_value"
    BAD_ATTRIBUTES = "bad_attributes"
    ATTRIBUTES_TOO_LARGE = "attributes_too_large"
    ATTRIBUTES_TOO_DEEP = "attributes_too_deep"
    TOO_MANY_REFUSED = "too_many_refused"
    REFUSED_BY_DATABASE = "refused_by_database"
    REFUSED_BY_BIGQUERY = "refused_by_bigquery"


class RejectedError(Exception):
    """A message or a point breaks the contract; never leaves `tidemark.wire`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
