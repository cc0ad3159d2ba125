"""What no line of the product may do: run what came as data, or start a shell."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = [
    path
    for name in ("alignclip_core", "alignclip_store", "api", "worker", "cli")
    for path in (ROOT / name).rglob("*.py")
]
RUN_DATA = {
    "eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open",
    "yaml.load", "yaml.unsafe_load", "os.system", "os.popen", "joblib.load", "dill.load", "dill.loads",
}  # fmt: skip


def calls(path):
    """(place, name of the function, keyword arguments in words) of every call of a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), options


@pytest.fixture(scope="module")
def all_calls():
    found = [call for path in PRODUCT for call in calls(path)]
    assert len(found) > 1000
    return found


def test_nothing_that_came_as_data_is_run(all_calls):
    assert [(place, name) for place, name, _ in all_calls if name in RUN_DATA] == []
    assert [place for place, _, options in all_calls if options.get("shell", "False") != "False"] == []
    assert [place for place, _, options in all_calls if options.get("trust_remote_code", "False") != "False"] == []


def test_states_of_torch_are_read_as_tensors_alone(all_calls):
    loads = [(place, options.get("weights_only")) for place, name, options in all_calls if name == "torch.load"]
    assert loads
    assert [place for place, weights_only in loads if weights_only != "True"] == []
    arrays = [(place, options.get("allow_pickle", "False")) for place, name, options in all_calls if name == "np.load"]
    assert [place for place, allows in arrays if allows != "False"] == []
