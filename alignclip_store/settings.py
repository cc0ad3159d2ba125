"""Where things are and how much is allowed: read from the environment once per process, then passed on."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

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
    bootstrap_api_key: str | None = Field(None, description="The API key; unset: made on first start, kept below home.")

    max_classes: int = Field(10_000, ge=2, description="Classes in one job.")
    max_body_bytes: int = Field(8 * 2**30, ge=1, description="Bytes of one request body.")
    max_dataset_bytes: int = Field(64 * 2**30, ge=1, description="Bytes of one dataset after unpacking.")
    max_dataset_files: int = Field(5_000_000, ge=1, description="Files in one dataset.")
    max_image_bytes: int = Field(32 * 2**20, ge=1, description="Bytes of one encoded image.")
    max_image_pixels: int = Field(50_000_000, ge=1, description="Pixels of one image.")
    max_images_per_request: int = Field(256, ge=1, description="Images in one classify request.")
    max_labels_per_request: int = Field(10_000, ge=2, description="Labels in one classify request.")
    model_cache_bytes: int = Field(4 * 2**30, ge=1, description="Memory for image towers that are kept loaded.")

    lease_seconds: float = Field(60.0, gt=0, description="How long a worker owns a job without a sign of life.")
    heartbeat_seconds: float = Field(10.0, gt=0, description="How often a worker renews its lease.")
    reap_seconds: float = Field(1.0, gt=0, description="How often the reaper looks for stale and waiting jobs.")
    wake_again_seconds: float = Field(30.0, gt=0, description="How often waiting workers are woken for one queued job.")
    stop_seconds: float = Field(10.0, gt=0, description="How long a trainer may take to stop before it is killed.")
    max_runs_per_job: int = Field(3, ge=1, description="Runs that a job may lose before it fails.")
    keep_checkpoints: int = Field(2, ge=1, description="Resume points kept per job.")
    threads: int | None = Field(None, ge=1, description="CPU threads of a process; unset: torch's default.")

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


def bootstrap_api_key(settings: Settings) -> tuple[str, bool]:
    """The API key and whether it was made just now: from the environment, else from `home/api_key`, else a new one."""
    if settings.bootstrap_api_key:
        return settings.bootstrap_api_key, False
    file = settings.api_key_file
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file.read_text().strip(), False
    with os.fdopen(descriptor, "w") as opened:
        key = f"acl-{secrets.token_urlsafe(32)}"
        opened.write(key)
    return key, True
