"""What can go wrong in the method, as a tree. Every error names the thing and what would be right.

AlignClipError
├── ConfigInvalid          a hyper-parameter or option has a value that cannot be used
├── BaseModelError
│   ├── BaseModelUnknown   no such model in the catalogue or in the models folder
│   ├── BaseModelNotLocal  known, but its files are not on this machine yet
│   └── BaseModelUnfit     its tower has no attention over patches to align
├── DatasetInvalid         the folder, the names or the split cannot be trained on
├── DatasetUnreachable     a streamed image's place does not answer
├── ImageRejected          the bytes are no image, or one over the limits
├── LabelsInvalid          fewer than two labels, an empty one, a repeated one
├── TrainingDiverged       a loss became NaN or infinite
├── OutOfMemory            the device has too little memory for the batch
├── ArtifactCorrupt        files of a checkpoint or model that do not fit their manifest
├── ExportUnfit            the format cannot hold this architecture; names those that can
├── InterpolationInvalid   no share between 0 and 1, or nothing to mix with
├── ConversionRefused      a foreign checkpoint that needs code to be read, or whose tensors do not fit
└── TrainingStopped        SIGTERM: a checkpoint is written, the run may go on from it
"""


class AlignClipError(Exception):
    """Base of all: `code` for machines, the message for people, `param` the field at fault."""

    code = "alignclip_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class ConfigInvalid(AlignClipError):
    code = "invalid_config"


class BaseModelError(AlignClipError):
    code = "base_model_error"


class BaseModelUnknown(BaseModelError):
    code = "model_not_found"


class BaseModelNotLocal(BaseModelError):
    code = "model_not_local"


class BaseModelUnfit(BaseModelError):
    code = "model_unfit"


class DatasetInvalid(AlignClipError):
    code = "invalid_dataset"


class DatasetUnreachable(AlignClipError):
    code = "dataset_unreachable"


class ImageRejected(AlignClipError):
    code = "invalid_image"


class LabelsInvalid(AlignClipError):
    code = "invalid_labels"


class TrainingDiverged(AlignClipError):
    code = "training_diverged"


class OutOfMemory(AlignClipError):
    code = "out_of_memory"


class ArtifactCorrupt(AlignClipError):
    code = "artifact_corrupt"


class ExportUnfit(AlignClipError):
    code = "export_unfit"


class InterpolationInvalid(AlignClipError):
    code = "invalid_interpolation"


class ConversionRefused(AlignClipError):
    code = "conversion_refused"


class TrainingStopped(AlignClipError):
    code = "training_stopped"
