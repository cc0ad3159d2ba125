"""What the base model's texts say of a dataset: names that are too alike, and images that look like another class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignclip_core.dataset.findings import Finding

ALIKE = 0.2  # share of the usual distance between two names of the dataset
ALWAYS_ALIKE = 0.02  # 1 - cosine: hardly more than another ending of the same word
KNOWN = 0.5  # accuracy from which a class is believed to be known
SURE = 0.7  # probability of another class
UNLIKELY = 0.05  # probability of the own class
NUM_NEIGHBOURS = 10  # images whose labels vote on another one's
NEIGHBOUR_TEMPERATURE = 0.05  # of the softmax over their cosines: near ones count more
NUM_NAMED = 5


def find_alike_names(class_names: Sequence[str], cosine: Float[Tensor, "classes classes"]) -> list[Finding]:
    """Names whose texts are much nearer to each other than two names of this dataset usually are.

    Near means: a distance 1 - cosine of at most a fifth of the median over all pairs, or of 0.02.
    """
    rows, columns = torch.triu_indices(len(class_names), len(class_names), offset=1)
    distances = 1 - cosine[rows, columns]
    limit = max(ALIKE * distances.median().item(), ALWAYS_ALIKE) if len(class_names) > 2 else ALWAYS_ALIKE
    near = [pair for pair in distances.argsort().tolist() if distances[pair] <= limit]
    pairs = [(class_names[int(rows[pair])], class_names[int(columns[pair])]) for pair in near]
    if not pairs:
        return []
    shown = "; ".join(f"{one!r} and {other!r}" for one, other in pairs[:NUM_NAMED])
    more = f" and {len(pairs) - NUM_NAMED} more" if len(pairs) > NUM_NAMED else ""
    return [
        Finding(
            code="names_alike",
            severity="warning",
            message=f"The text model can hardly tell these names apart: {shown}{more}.",
            hint="Give names that say the difference (class_names), or merge classes that mean the same.",
        )
    ]


def judge_labels(
    zero_shot: Float[Tensor, "images classes"], features: Float[Tensor, "images dim"], labels: Int[Tensor, " images"]
) -> Float[Tensor, "images classes"]:
    """What the texts and the dataset's own images say of each image: the mean of both probabilities.

    The texts speak by the zero-shot probabilities, the images by the labels of the ten that are nearest in the
    features. Either errs in its own way, so that both together find more wrong labels at fewer false alarms.
    """
    similarity = features @ features.T
    similarity.fill_diagonal_(-torch.inf)
    nearest = similarity.topk(min(NUM_NEIGHBOURS, len(features) - 1))
    weights = torch.softmax(nearest.values / NEIGHBOUR_TEMPERATURE, dim=1)
    return (zero_shot + torch.zeros_like(zero_shot).scatter_add_(1, labels[nearest.indices], weights)) / 2


def find_doubted_labels(
    paths: Sequence[str],
    labels: Int[Tensor, " images"],
    probabilities: Float[Tensor, "images classes"],
    class_names: Sequence[str],
) -> list[Finding]:
    """Images that are surely of another class, by the probabilities of `judge_labels`.

    Surely: the other class has 0.7 or more, the own one at most 0.05; and both are known: for at least half of their
    images the likeliest class is their own. Of classes that are not known there is nothing to say.
    """
    predicted = probabilities.argmax(dim=1)
    known = torch.tensor([_accuracy(predicted, labels, number) >= KNOWN for number in range(len(class_names))])
    own = probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
    is_doubted = (probabilities.amax(dim=1) >= SURE) & (own <= UNLIKELY) & known[predicted] & known[labels]
    doubted = torch.nonzero(is_doubted).flatten().tolist()
    if not doubted:
        return []
    shown = "; ".join(_doubt(paths, labels, predicted, class_names, doubted[:NUM_NAMED]))
    more = f" and {len(doubted) - NUM_NAMED} more" if len(doubted) > NUM_NAMED else ""
    return [
        Finding(
            code="label_doubted",
            severity="warning",
            message=f"{len(doubted)} of {len(paths)} images look like another class: {shown}{more}.",
            hint="Look at them: move what lies in the wrong folder, keep what is merely unusual.",
            paths=[paths[row] for row in doubted],
        )
    ]


def _accuracy(predicted: Tensor, labels: Tensor, number: int) -> float:
    own = labels == number
    return (predicted[own] == number).double().mean().item() if own.any() else 0.0


def _doubt(
    paths: Sequence[str], labels: Tensor, predicted: Tensor, class_names: Sequence[str], rows: Iterable[int]
) -> Iterable[str]:
    for row in rows:
        own, other = class_names[int(labels[row])], class_names[int(predicted[row])]
        yield f"{paths[row]} is labelled {own!r} and looks like {other!r}"
