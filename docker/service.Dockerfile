# syntax=docker/dockerfile:1
# Two images from one lock, built from the repository's root (docker-compose.yml does it):
#   docker build -f docker/service.Dockerfile --target api .      the HTTP edge; the reaper and the migrations, too
#   docker build -f docker/service.Dockerfile --target worker .
# Run them with an init as process 1 (`docker run --init`, compose `init: true`): it reaps orphans and passes SIGTERM to
# the main process alone. Never `tini -g`: a SIGTERM to the whole group ends a worker before its checkpoint.

FROM python:3.11-slim-bookworm AS packages
# Where torch and torchvision come from. Unset: the default index, whose builds carry CUDA. PyTorch's own index of CPU
# builds makes an API image that is several GB smaller.
ARG TORCH_INDEX_URL=""
ENV VIRTUAL_ENV=/opt/venv
RUN python -m venv /opt/venv && pip install --no-cache-dir uv==0.13.9
WORKDIR /build
COPY pyproject.toml requirements-torch.txt requirements.lock ./
# The lock stands as a constraint: its versions and hashes bind, and the test tools that it also holds stay out.
RUN uv pip install --no-cache ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -r requirements-torch.txt \
    && uv pip install --no-cache -r pyproject.toml --group build -c requirements.lock -c requirements-torch.txt

FROM python:3.11-slim-bookworm AS service
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ALIGNCLIP_HOME=/var/lib/alignclip \
    ALIGNCLIP_ARTIFACTS_URL=/var/lib/alignclip/artifacts \
    ALIGNCLIP_MODELS_DIR=/var/lib/alignclip/models
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY . .
# Named volumes take the owner that their mount point has in the image.
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable . \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/alignclip alignclip \
    && install -d -o alignclip -g alignclip \
        /var/lib/alignclip /var/lib/alignclip/artifacts /var/lib/alignclip/models /var/lib/alignclip/runs
USER 10001:10001

FROM service AS api
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["uvicorn", "--factory", "api.main:create_app_from_environment", "--host", "0.0.0.0", "--port", "8000", "--timeout-graceful-shutdown", "10"]

FROM service AS worker
CMD ["celery", "-A", "worker.main", "worker", "-c", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"]
