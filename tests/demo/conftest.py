import pytest

from tools.demo.pictures import all_pictures, draw_pictures


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The demo's pictures, drawn once."""
    folder = tmp_path_factory.mktemp("demo") / "pictures"
    draw_pictures(folder, all_pictures())
    return folder
