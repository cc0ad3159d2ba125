"""What a trainer is told of the worker's environment."""

from worker.launcher import trainer_environment


def test_the_trainer_sees_no_secret_of_the_service(make_settings):
    secrets = {
        "ALIGNCLIP_BOOTSTRAP_API_KEY": "s", "ALIGNCLIP_KEY_PEPPER": "s", "ALIGNCLIP_DATABASE_URL": "s",
        "ALIGNCLIP_BROKER_URL": "s", "AWS_SECRET_ACCESS_KEY": "s", "POSTGRES_PASSWORD": "s", "HF_TOKEN": "s",
    }  # fmt: skip
    passed = trainer_environment({"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1"} | secrets, make_settings())
    assert not passed.keys() & secrets.keys()
    assert (passed["PATH"], passed["CUDA_VISIBLE_DEVICES"]) == ("/bin", "1")
    assert passed["HF_HUB_OFFLINE"] == "1"
