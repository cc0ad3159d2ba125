"""The house stands as docs/architecture.md says: imports go one way, and the light rooms stay light."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_imports_go_one_way():
    linter = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert linter.returncode == 0, linter.stdout + linter.stderr


@pytest.mark.parametrize(
    "module",
    [
        "alignclip_core.config",
        "alignclip_core.base_models",
        "alignclip_core.run_dir",
        "alignclip_core.images",
        "alignclip_core.dataset.layout",
        "alignclip_core.dataset.splits",
        "alignclip_core.dataset.check",
        "alignclip_store.database",
        "alignclip_store.runs",
        "worker.main",
        "worker.reaper",
        "cli.main",
    ],
)
def test_module_loads_no_torch(module):
    assert loaded(module, "torch", "open_clip", "transformers") == []


def test_terminal_starts_without_what_few_of_its_commands_need():
    assert loaded("cli.main", "sqlalchemy", "alembic", "s3fs", "scipy") == []


def loaded(module: str, *names: str) -> list[str]:
    """Which of these a fresh process has that imported the module."""
    code = f"import json, sys, {module}; print(json.dumps([name for name in {names} if name in sys.modules]))"
    fresh = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert fresh.returncode == 0, fresh.stderr
    return json.loads(fresh.stdout)


def test_top_level_is_what_was_asked_for():
    expected = {"api", "worker", "alignclip_core", "alignclip_store", "cli", "migrations", "docker", "tests"}
    assert expected <= {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert (ROOT / "docker-compose.yml").is_file()
