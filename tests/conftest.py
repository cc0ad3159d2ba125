"""Real servers and databases for every test that wants them; they come from wheels and need no installation.

ALIGNCLIP_TEST_POSTGRES_URL names a running PostgreSQL to use instead; its user must be allowed to create databases.
"""

import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem
from sqlalchemy import Engine, make_url

from alignclip_store.database import create_engine, migrate
from alignclip_store.settings import Settings
from alignclip_store.tables import Base
from tests.servers import postgres_server, short_folder, valkey_server

POSTGRES_URL_VARIABLE = "ALIGNCLIP_TEST_POSTGRES_URL"


@pytest.fixture(scope="session", autouse=True)
def _own_environment() -> Iterator[None]:
    """Settings of the person who runs the tests must not reach them, nor a shell's that runs them in the background:
    it has SIGINT and SIGQUIT ignored, and so would every process that a test starts and ends by them.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("ALIGNCLIP_") and name != POSTGRES_URL_VARIABLE]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="module")
def s3() -> Iterator[S3FileSystem]:
    """A real S3 server in a thread, empty; the environment points to it, and so do processes that are started."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (keys | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}).items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        yield S3FileSystem(use_listings_cache=False)
        S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Makes settings with a home of the test's own; fields may be given."""

    def make(**fields: object) -> Settings:
        return Settings(**{"home": tmp_path / "home", **fields})

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """The embedded default on a home of the test's own."""
    return make_settings()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated database without rows, once of each kind."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("migrated_postgres_url")
        _delete_rows(url)
        return url
    path = tmp_path / "alignclip.db"
    shutil.copyfile(request.getfixturevalue("migrated_sqlite"), path)
    return f"sqlite:///{path}"


@pytest.fixture
def engine(database_url: str, make_settings: Callable[..., Settings]) -> Iterator[Engine]:
    """The engine of `database_url`."""
    engine = create_engine(make_settings(database_url=database_url))
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    migrate(Settings(database_url=f"sqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def migrated_postgres_url(new_postgres_database: Callable[[], str]) -> str:
    url = new_postgres_database()
    migrate(Settings(database_url=url))
    return url


@pytest.fixture(scope="session")
def new_postgres_database(postgres_url: str) -> Callable[[], str]:
    """Makes an empty database; its URL."""

    def make() -> str:
        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return make_url(postgres_url).set(database=name).render_as_string(hide_password=False)

    return make


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A running PostgreSQL: that of the environment, else one from a wheel."""
    if url := os.environ.get(POSTGRES_URL_VARIABLE):
        yield url
        return
    with short_folder() as folder, postgres_server(folder).running() as url:
        yield url


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """The broker URL of a running Valkey."""
    with short_folder() as folder, valkey_server(folder).running() as url:
        yield url


def _delete_rows(postgres_url: str) -> None:
    """Much quicker than a new database for every test."""
    with psycopg.connect(postgres_url) as connection:
        connection.execute("SET lock_timeout = '20s'")  # a process that a test left behind must not hang the rest
        connection.execute("ALTER TABLE audit_log DISABLE TRIGGER USER")  # it refuses to be emptied
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(f"DELETE FROM {table.name}")
        connection.execute("ALTER TABLE audit_log ENABLE TRIGGER USER")
