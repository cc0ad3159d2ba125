"""What people would start instead, on a model of the same weights: each takes the form that classify takes.

python -m benchmarks.rival_servers transformers EXPORTED_FOLDER PORT
python -m benchmarks.rival_servers litserve MODELS_DIR PORT
"""

from __future__ import annotations

import io
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import litserve
import torch
import uvicorn
from fastapi import FastAPI, Form, UploadFile
from PIL import Image
from torch import Tensor
from transformers import pipeline

from alignclip_core.encoder import build_text_encoder
from alignclip_core.images import decode_image
from alignclip_core.pixels import prepare_image
from alignclip_core.prompts import embed_classes
from alignclip_store.settings import Settings
from benchmarks.serving_model import LABELS, base_model, load_classifier


def transformers_app(folder: Path) -> FastAPI:
    """The zero-shot pipeline behind FastAPI; one request at a time, since more at once only fight for the cores."""
    classify = pipeline("zero-shot-image-classification", model=str(folder), device="cpu")
    one_at_a_time = threading.Lock()
    app = FastAPI()

    @app.post("/classify")
    def answer(image: UploadFile, labels: Annotated[list[str], Form()]) -> list[dict[str, Any]]:
        picture = Image.open(io.BytesIO(image.file.read())).convert("RGB")
        with one_at_a_time:
            found: list[dict[str, Any]] = classify(picture, candidate_labels=labels)
        return found

    return app


class LitClassifier(litserve.LitAPI):
    """Our own runtime and preprocessing in LitServe's server, with its batching; the labels are known beforehand."""

    def __init__(self, models_dir: Path) -> None:
        ours = Settings.model_fields
        super().__init__(
            max_batch_size=ours["max_batch_images"].default,
            batch_timeout=ours["max_batch_wait_seconds"].default,
            api_path="/classify",
        )
        self.models_dir = models_dir

    def setup(self, device: str) -> None:
        model = base_model(self.models_dir)
        self.classifier = load_classifier(model, precision="auto")
        self.class_embeddings = embed_classes(build_text_encoder(model), LABELS, model.templates)

    def decode_request(self, request) -> Tensor:  # noqa: ANN001 - FastAPI would take a type for a parameter's
        return prepare_image(decode_image(request["image"].file.read()), self.classifier.preprocessing)

    def batch(self, inputs: list[Tensor]) -> Tensor:
        return torch.stack(inputs)

    def predict(self, x: Tensor) -> Tensor:
        return self.classifier.probabilities(self.classifier.features(x), self.class_embeddings)

    def unbatch(self, output: Tensor) -> list[Tensor]:
        return list(output)

    def encode_response(self, output: Tensor) -> dict[str, float]:
        return dict(zip(LABELS, output.tolist(), strict=True))


def main(kind: str, folder: str, port: str) -> None:
    """Serve until it is killed."""
    if kind == "transformers":
        uvicorn.run(transformers_app(Path(folder)), port=int(port), log_level="warning")
    else:
        server = litserve.LitServer(LitClassifier(Path(folder)), accelerator="cpu", timeout=False)
        server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
