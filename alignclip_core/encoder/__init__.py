"""open_clip models as this project runs them; nothing outside this package knows open_clip's insides.

image_tower.py   ImageEncoder: the image tower with the D-V branch beside it
resnet.py        ResNetEncoder: the same of CLIP's ResNets, whose one attention layer is their pool
blocks.py        one transformer block with its query, key and value in sight, and its share of the D-V branch
plain_resnet.py  PlainResNetEncoder: a ResNet of ImageNet, which has no text tower beside it
trained.py       TrainedTower: which of its weights are trained, and the plain weights that come of it
fit.py           whether a config fits a tower, and how many numbers it trains
text_tower.py    TextEncoder: strings to text features, frozen
build.py         a base model's folder -> towers
starter.py       how the packaged starter differs from an open_clip model
pull.py          a hub -> a base model's folder
"""

from alignclip_core.encoder.build import ClipModel, build_image_encoder, build_model, build_text_encoder
from alignclip_core.encoder.fit import TrainingSize, check_fits
from alignclip_core.encoder.image_tower import AlignedFeatures, ExplainedFeatures, ImageEncoder
from alignclip_core.encoder.pull import pull_model
from alignclip_core.encoder.text_tower import TextEncoder
from alignclip_core.encoder.trained import TrainedTower
from alignclip_core.images import Preprocessing

__all__ = [
    "AlignedFeatures",
    "ClipModel",
    "ExplainedFeatures",
    "ImageEncoder",
    "Preprocessing",
    "TextEncoder",
    "TrainedTower",
    "TrainingSize",
    "build_image_encoder",
    "build_model",
    "build_text_encoder",
    "check_fits",
    "pull_model",
]
