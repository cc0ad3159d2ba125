"""deploy/keda.yaml: what KEDA asks is answered by the database that this code makes."""

from pathlib import Path

import psycopg
import yaml

from alignclip_store.database import migrate
from alignclip_store.settings import Settings

FILE = Path(__file__).parents[2] / "deploy" / "keda.yaml"
ONE_JOB = """
INSERT INTO similarities (id, owner, created_at, cache_key, sha256, base_model, num_classes, artifact_uri)
VALUES ('sim-keda', 'ada', now(), 'keda', 'sha', 'starter', 3, 'artifact/s') ON CONFLICT DO NOTHING;
INSERT INTO jobs (id, owner, created_at, status, phase, base_model, config, request, training_file, metadata,
                  similarity_id, num_steps, step, fence, num_lost_runs)
VALUES ('ftjob-' || %s, 'ada', now(), %s, 'queued', 'starter', '{}', '{}', '/data/pets', '{}', 'sim-keda', 7, 0, 0, 0);
"""


def test_the_scalers_query_counts_the_jobs_that_want_a_worker(new_postgres_database):
    authentication, scaler = yaml.safe_load_all(FILE.read_text())
    (trigger,) = scaler["spec"]["triggers"]
    assert trigger["type"] == "postgresql"
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    assert authentication["spec"]["secretTargetRef"][0]["parameter"] == "connection"
    url = new_postgres_database()
    migrate(Settings(database_url=url))
    with psycopg.connect(url) as connection:
        wanted = 0
        for status in ("queued", "validating_files", "running", "paused", "succeeded", "failed", "cancelled"):
            first, second = ONE_JOB.strip().split(";\n")[:2]
            connection.execute(first)
            connection.execute(second.rstrip(";"), (status, status))
            wanted += status in ("queued", "validating_files", "running")
            answer = connection.execute(trigger["metadata"]["query"]).fetchall()
            assert answer == [(wanted,)], "one row, one number"
    assert float(trigger["metadata"]["targetQueryValue"]) == 1
