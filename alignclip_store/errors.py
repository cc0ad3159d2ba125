"""What the store refuses, as a tree.

StoreError
├── RowNotFound          no such row of this owner
│   ├── JobNotFound, FileNotFound, ModelNotFound, SimilarityNotFound
│   ├── WebhookNotFound, AliasNotFound, UploadNotFound, EvaluationNotFound
│   ├── KeyNotFound
│   └── EventNotFound, CheckpointNotFound    also for an unknown `after` of a list
├── JobNotReady          asked for a result before there is one
├── IllegalTransition    the job's status does not allow it
├── DatasetRejected      a reference that may not be read, or an archive that may not be unpacked
├── ArtifactMissing      a row names files that are not there
├── UploadRefused        an upload that is over, or parts that are not the whole
├── FileInUse            a job that has not finished needs the file
├── CheckpointInUse      a job that has not finished goes on from the checkpoint
├── ModelInUse           an alias points to the model
├── UrlRefused           the service may not call that URL
├── TooManyWebhooks      one owner has enough of them
├── SchemaNewer          a later version has migrated the database: this one must not write to it
├── QuotaExceeded        the owner has as much as the operator allows
└── LeaseLost            another run has the job: stop, write nothing
"""


class StoreError(Exception):
    """Base of all: `code` for machines, the message for people, `param` the field at fault."""

    code = "store_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class RowNotFound(StoreError):
    code = "not_found"


class JobNotFound(RowNotFound):
    code = "job_not_found"


class FileNotFound(RowNotFound):
    code = "file_not_found"


class ModelNotFound(RowNotFound):
    code = "model_not_found"


class SimilarityNotFound(RowNotFound):
    code = "similarity_not_found"


class WebhookNotFound(RowNotFound):
    code = "webhook_not_found"


class AliasNotFound(RowNotFound):
    code = "alias_not_found"


class EvaluationNotFound(RowNotFound):
    code = "evaluation_not_found"


class DatasetReportNotFound(RowNotFound):
    code = "dataset_not_found"


class UploadNotFound(RowNotFound):
    code = "upload_not_found"


class KeyNotFound(RowNotFound):
    code = "api_key_not_found"


class EventNotFound(RowNotFound):
    code = "event_not_found"


class CheckpointNotFound(RowNotFound):
    code = "checkpoint_not_found"


class JobNotReady(StoreError):
    code = "job_not_ready"


class IllegalTransition(StoreError):
    code = "illegal_transition"


class DatasetRejected(StoreError):
    code = "dataset_rejected"


class ArtifactMissing(StoreError):
    code = "artifact_missing"


class UploadRefused(StoreError):
    code = "upload_refused"


class FileInUse(StoreError):
    code = "file_in_use"


class ModelInUse(StoreError):
    code = "model_in_use"


class CheckpointInUse(StoreError):
    code = "checkpoint_in_use"


class UrlRefused(StoreError):
    code = "url_refused"


class TooManyWebhooks(StoreError):
    code = "too_many_webhooks"


class SchemaNewer(StoreError):
    code = "schema_newer"


class QuotaExceeded(StoreError):
    code = "quota_exceeded"


class LeaseLost(StoreError):
    code = "lease_lost"
