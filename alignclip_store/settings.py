"""Where things are and how much is allowed: read from the environment once per process, then passed on."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Deployment settings; each is an environment variable with the prefix ALIGNCLIP_ (.env.example lists them)."""

    model_config = SettingsConfigDict(env_prefix="ALIGNCLIP_", extra="ignore")

    home: Path = Field(Path("~/.alignclip"), description="Folder of database, artifacts, run directories, models, key.")
    database_url: str | None = Field(None, description="SQLAlchemy URL; unset: SQLite below home.")
    broker_url: str | None = Field(None, description="Redis URL for Celery; unset: `serve` starts a private Valkey.")
    artifacts_url: str | None = Field(None, description="Folder or s3:// URL for datasets, checkpoints, models.")
    models_dir: Path | None = Field(None, description="Folder of base models; unset: home/models.")
    dataset_roots: list[Path] = Field([], description="Folders below which dataset references may point (JSON list).")
    dataset_urls: list[str] = Field(
        [], description="Beginnings of URLs that dataset references may have, such as s3://bucket/sets/ (JSON list)."
    )
    torchvision_root: Path | None = Field(None, description="Folder of torchvision's datasets; unset: none are read.")
    dataset_cache_bytes: int | None = Field(
        None, ge=1, description="Size above which a dataset is streamed through a cache of so many bytes; unset: never."
    )
    max_report_images: int = Field(
        5000, ge=1, description="Images of a dataset that a report decodes; of more, an even sample."
    )
    max_report_seconds: float = Field(
        30.0, gt=0, description="How long a report decodes images, and again how long the base model looks at them."
    )
    max_report_bytes: int = Field(4 * 2**30, ge=1, description="Bytes that are fetched or unpacked for a report.")
    bootstrap_api_key: str | None = Field(None, description="The API key; unset: made on first start, kept below home.")
    key_pepper: str | None = Field(None, description="Secret under which API keys are hashed; unset: kept below home.")
    allowed_base_models: list[str] | None = Field(None, description="Ids that jobs may use (JSON); unset: all here.")

    max_classes: int = Field(10_000, ge=2, description="Classes in one job.")
    max_body_bytes: int = Field(8 * 2**30, ge=1, description="Bytes of one request body.")
    max_dataset_bytes: int = Field(64 * 2**30, ge=1, description="Bytes of one dataset after unpacking.")
    max_dataset_files: int = Field(5_000_000, ge=1, description="Files in one dataset.")
    max_image_bytes: int = Field(32 * 2**20, ge=1, description="Bytes of one encoded image.")
    max_image_pixels: int = Field(50_000_000, ge=1, description="Pixels of one image.")
    max_images_per_request: int = Field(256, ge=1, description="Images in one classify request.")
    max_labels_per_request: int = Field(10_000, ge=2, description="Labels in one classify request.")
    max_queued_jobs: int | None = Field(1000, ge=1, description="Jobs of one owner that may wait at once.")
    max_running_jobs: int | None = Field(None, ge=1, description="Jobs of one owner that run at once; unset: any.")
    max_stored_bytes: int | None = Field(
        None, ge=1, description="Bytes of one owner's files, checkpoints, models and answers; unset: any."
    )
    max_gpu_seconds_per_month: float | None = Field(
        None, gt=0, description="Seconds times devices of one owner's runs in a calendar month (UTC); unset: any."
    )
    max_reads_per_minute: int = Field(60_000, ge=1, description="GET requests with one key.")
    max_classify_per_minute: int = Field(60_000, ge=1, description="Classify requests with one key.")
    max_writes_per_minute: int = Field(6_000, ge=1, description="Other requests with one key.")
    max_uploads_per_minute: int = Field(600, ge=1, description="Uploads with one key.")
    max_failed_keys_per_minute: int = Field(100, ge=1, description="Wrong API keys from one address.")
    max_waiting_classify: int = Field(1024, ge=1, description="Classify requests that may wait for their turn.")
    max_concurrent_classify: int = Field(
        64, ge=1, description="Classify requests at work at once; each holds at most one batch of decoded images."
    )
    max_batch_images: int = Field(32, ge=1, description="Images that one forward pass of the API takes.")
    max_batch_wait_seconds: float = Field(
        0.005, ge=0, description="How long an image may wait for others that are being decoded."
    )
    max_silence_seconds: float = Field(30.0, gt=0, description="How long a client may pause while it sends a body.")
    rate_limit_url: str | None = Field(None, description="Redis URL where several APIs count together; unset: memory.")
    serving_runtime: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="What runs image towers in the API; auto: the fastest for this machine."
    )
    serving_precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="In which they compute; auto: bf16 where the machine has it and the answers stay the same."
    )
    serving_device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where they run; auto: on the GPU where there is one."
    )
    pinned_models: list[str] = Field(
        [], description="Base or tuned models loaded at the start and kept so (JSON list of ids)."
    )
    model_cache_bytes: int = Field(4 * 2**30, ge=1, description="Memory for image towers that are kept loaded.")

    lease_seconds: float = Field(60.0, gt=0, description="How long a worker owns a job without a sign of life.")
    heartbeat_seconds: float = Field(10.0, gt=0, description="How often a worker renews its lease.")
    reap_seconds: float = Field(1.0, gt=0, description="How often the reaper looks for stale and waiting jobs.")
    wake_again_seconds: float = Field(30.0, gt=0, description="How often waiting workers are woken for one queued job.")
    stop_seconds: float = Field(10.0, gt=0, description="How long a trainer may take to stop before it is killed.")
    max_runs_per_job: int = Field(3, ge=1, description="Runs that a job may lose before it fails.")
    max_run_seconds: float | None = Field(
        None, gt=0, description="How long one run of a job may take, from its claim; unset: any time."
    )
    keep_checkpoints: int = Field(2, ge=1, description="Newest resume points kept per job; the best is kept beside.")
    gpus: str | None = Field(
        None,
        pattern=r"^[^,\s]+(,[^,\s]+)*$",
        description="CUDA devices that train each job of this worker together, such as 0,1; unset: the first.",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of a process; unset: torch's default.")
    confine_trainers: bool = Field(
        True, description="Shut trainers in by the kernel (Landlock) where it can: docs/security.md."
    )

    metrics_access: Literal["key", "open"] = Field(
        "key", description="Who reads /metrics: an admin's key, or everybody who reaches the port."
    )
    allow_private_webhooks: bool = Field(
        False, description="Let webhooks be http and lead to private addresses; for tests and closed networks."
    )
    keep_files_days: float | None = Field(
        None, gt=0, description="Age at which unused files are deleted; unset: never."
    )
    keep_checkpoints_days: float | None = Field(
        None, gt=0, description="Time after a job's end at which its resume points are deleted; unset: never."
    )
    keep_models_days: float | None = Field(None, gt=0, description="Age at which models are deleted; unset: never.")
    keep_results_days: float | None = Field(
        None, gt=0, description="Age at which the answers of classifications are deleted; unset: never."
    )

    @property
    def home_dir(self) -> Path:
        return self.home.expanduser().absolute()

    @property
    def database_location(self) -> str:
        return self.database_url or f"sqlite:///{self.home_dir / 'alignclip.db'}"

    @property
    def artifacts_location(self) -> str:
        return self.artifacts_url or str(self.home_dir / "artifacts")

    @property
    def broker_location(self) -> str:
        """The socket of `serve`'s private Valkey stands in for an unset URL."""
        return self.broker_url or f"redis+socket://{self.home_dir / 'valkey.sock'}"

    @property
    def models_location(self) -> Path:
        return self.models_dir or self.home_dir / "models"

    @property
    def runs_location(self) -> Path:
        """Run directories: local to a worker's machine."""
        return self.home_dir / "runs"

    @property
    def api_key_file(self) -> Path:
        return self.home_dir / "api_key"

    @property
    def pepper_file(self) -> Path:
        return self.home_dir / "pepper"


def bootstrap_api_key(settings: Settings) -> tuple[str, bool]:
    """The API key and whether it was made just now: from the environment, else from `home/api_key`, else a new one."""
    if settings.bootstrap_api_key:
        return settings.bootstrap_api_key, False
    return _kept_secret(settings.api_key_file, lambda: f"acl-{secrets.token_urlsafe(32)}")


def key_pepper(settings: Settings) -> bytes:
    """The secret under which API keys are hashed: from the environment, else from `home/pepper`, else a new one."""
    if settings.key_pepper:
        return settings.key_pepper.encode()
    return _kept_secret(settings.pepper_file, lambda: secrets.token_urlsafe(32))[0].encode()


def _kept_secret(file: Path, make: Callable[[], str]) -> tuple[str, bool]:
    """The secret in the file and whether it was made just now; of processes that start together one makes it."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}-{secrets.token_hex(6)}")  # nobody reads it half written
        try:
            with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
                opened.write(secret := make())
            with contextlib.suppress(FileExistsError):
                os.link(aside, file)
                return secret, True
        finally:
            aside.unlink(missing_ok=True)
    return file.read_text().strip(), False
