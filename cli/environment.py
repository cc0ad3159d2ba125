"""What the environment says: the deployment's settings, and which service the client commands talk to."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from alignclip_store.settings import Settings
from cli.errors import CliError

SettingsClass = TypeVar("SettingsClass", bound=BaseSettings)


class ClientSettings(BaseSettings):
    """Address and key of the service that submit, watch, classify and their like talk to."""

    model_config = SettingsConfigDict(env_prefix="ALIGNCLIP_", extra="ignore")

    url: str = "http://127.0.0.1:8000"
    api_key: str | None = None


def load_settings() -> Settings:
    """The deployment's settings. Raises `CliError` that names each variable at fault."""
    return _load(Settings)


def load_client_settings() -> ClientSettings:
    """Where the service is; the key is that of this machine's own service unless one is given."""
    client_settings = _load(ClientSettings)
    if client_settings.api_key:
        return client_settings
    settings = load_settings()
    key = settings.bootstrap_api_key
    if not key and settings.api_key_file.is_file():
        key = settings.api_key_file.read_text().strip()
    if not key:
        raise CliError(
            f"No API key: set ALIGNCLIP_API_KEY. (`alignclip serve` makes one on its first start and keeps it in "
            f"{settings.api_key_file}.)"
        )
    return client_settings.model_copy(update={"api_key": key})


def _load(settings_class: type[SettingsClass]) -> SettingsClass:
    try:
        return settings_class()
    except ValidationError as error:
        faults = [f"ALIGNCLIP_{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()]
        raise CliError("; ".join(faults)) from error
    except SettingsError as error:
        raise CliError(f'{error}; lists are given as JSON, such as ["/srv/datasets"].') from error
