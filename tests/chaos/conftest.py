"""The pieces of a service that tests/worker starts and kills."""

from tests.worker.conftest import archive, is_gone, models_dir, open_service, pictures

__all__ = ["archive", "is_gone", "models_dir", "open_service", "pictures"]
