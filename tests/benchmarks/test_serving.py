"""What `make bench-serving` is made of, on a small server and on made-up figures."""

import http.server
import json

import pytest

from benchmarks import serving_table
from benchmarks.load import Load, Measured, measure_load, measure_load_in_own_process
from benchmarks.rows import Row, save_rows
from benchmarks.serving import CLIENTS, Bare, make_rows
from tests.servers import HttpServer

ROWS = (
    "serving_share_of_bare_throughput_32_clients",
    "serving_share_of_bare_throughput_32_clients_fp32",
    "serving_p99_over_p50_8_clients",
    "serving_p99_over_p50_32_clients",
    "serving_one_client_extra_milliseconds",
    "serving_over_unbatched_32_clients",
    "serving_over_naive_32_clients",
    "serving_over_transformers_pipeline_32_clients",
    "serving_over_litserve_32_clients",
)


class Answering(http.server.BaseHTTPRequestHandler):
    """200 to a form with a picture and two labels, else 400."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        fits = self.headers["x-key"] == "k" and body.count(b'name="labels"') == 2 and b"\r\n\r\npicture\r\n" in body
        self.send_response(200 if fits else 400)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def url():
    server = HttpServer(Answering)
    yield f"{server.url}/classify"
    server.stop()


@pytest.fixture
def load(url, tmp_path):
    (tmp_path / "picture.jpg").write_bytes(b"picture")
    return Load(
        url=url,
        headers={"x-key": "k"},
        pictures=[str(tmp_path / "picture.jpg")],
        labels=["cat", "dog"],
        num_clients=3,
        warm_up_seconds=0.1,
        seconds=0.1,
    )


@pytest.mark.parametrize("measure", [measure_load, measure_load_in_own_process])
def test_clients_ask_until_the_time_is_over_and_tell_how_long_it_took(load, measure):
    measured = measure(load)
    assert measured.num_requests >= 3 * 3
    assert measured.requests_per_second > 0
    assert 0 < measured.p50_milliseconds <= measured.p99_milliseconds


def test_answer_that_is_no_answer_ends_the_measurement(load):
    with pytest.raises(RuntimeError, match="answered 400"):
        measure_load(Load(**vars(load) | {"labels": ["cat"]}))


@pytest.fixture
def rows():
    """Of servers of which each is twice as fast as the next."""
    speeds = dict(zip(serving_table.SERVERS, (64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 128.0), strict=True))
    cells = {
        (server, number): Measured(
            requests_per_second=speed, p50_milliseconds=100.0, p99_milliseconds=110.0, num_requests=500
        )
        for server, speed in speeds.items()
        for number in CLIENTS
    }
    alone = Bare(forward=80.0, decoded=70.0, one_image_milliseconds=97.0)
    modes = {"service": "openvino bf16", "service_fp32": "openvino fp32", "starter": "openvino fp32"}
    return make_rows(cells, dict.fromkeys(modes, alone), modes)


def test_rows_compare_each_server_with_ours_and_ours_with_the_bare_model(rows):
    values = {row.name: row.value for row in rows}
    assert len(values) == len(rows)
    expected = (64 / 80, 32 / 80, 1.1, 1.1, 3.0, 64 / 16, 64 / 8, 64 / 4, 64 / 2)
    assert [values[name] for name in ROWS] == pytest.approx(expected)
    assert values["serving_litserve_8_clients_requests_per_second"] == 2


def test_tables_of_the_document_are_made_anew_from_the_rows(rows, tmp_path, monkeypatch):
    document = tmp_path / "serving.md"
    document.write_text(f"before\n{serving_table.BEGIN}\nold\n{serving_table.END}\nafter\n")
    monkeypatch.setattr(serving_table, "DOCUMENT", document)
    for module in ("benchmarks.rows", "benchmarks.serving_table"):
        monkeypatch.setattr(f"{module}.RESULTS", tmp_path)
    save_rows("serving", rows)
    assert [Row(**each) for each in json.loads((tmp_path / "serving.json").read_text())] == rows
    for _ in range(2):
        serving_table.main()
    text = document.read_text()
    assert text.startswith(f"before\n{serving_table.BEGIN}\n| requests/s")
    assert text.endswith(f"\n{serving_table.END}\nafter\n")
    assert "| this service, fastest mode | 64.0 (100 / 110) | 64.0 (100 / 110) | 64.0 (100 / 110) |" in text
    assert text.count("| `serving_share_of_bare_throughput_32_clients` | 0.80 |") == 1
    assert "old" not in text


def test_the_document_has_the_place_for_the_tables():
    text = serving_table.DOCUMENT.read_text()
    assert 0 < text.index(serving_table.BEGIN) < text.index(serving_table.END)
