"""What makes Cascade R-CNN a cascade."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image

from foveal.tasks.detection import cascade
from foveal.tasks.detection.cascade import CascadeRoIHeads, refine
from tests.tasks.detection.small_detectors import losses, objects, pictures, small_detector

THRESHOLDS = (0.5, 0.6, 0.7)
WEIGHTS = ((10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15))


def heads_of(detector: Any) -> Any:
    heads = detector.network.roi_heads
    assert isinstance(heads, CascadeRoIHeads)
    return heads


def livened(detector: Any) -> Any:
    """Refinements that differ from box to box and stage to stage."""
    for stage in heads_of(detector).stages:
        torch.nn.init.normal_(stage.box_predictor.bbox_pred.weight, std=0.5)
    return detector


@pytest.fixture
def stages_seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each stage was trained on, in order."""
    seen: list[dict[str, Any]] = []
    original = cascade.box_losses

    def spy(
        stage: Any,
        logits: Tensor,
        deltas: Tensor,
        boxes: Any,
        objects: Any,
        labels: Any,
        *rest: Any,
    ) -> Any:
        seen.append({"stage": stage, "deltas": deltas, "boxes": boxes, "labels": labels})
        return original(stage, logits, deltas, boxes, objects, labels, *rest)

    monkeypatch.setattr(cascade, "box_losses", spy)
    return seen


def test_three_stages_with_one_refinement_for_all_classes() -> None:
    stages = heads_of(small_detector("cascade_rcnn")).stages
    assert len(stages) == 3
    for stage, threshold, weights in zip(stages, THRESHOLDS, WEIGHTS, strict=True):
        assert stage.box_predictor.bbox_pred.out_features == 4
        assert stage.box_predictor.cls_score.out_features == 3 + 1
        assert stage.proposal_matcher.high_threshold == threshold
        assert stage.proposal_matcher.low_threshold == threshold
        assert stage.box_coder.weights == weights
    parameters = [id(p) for p in stages.parameters()]
    assert len(parameters) == len(set(parameters)) == 3 * 8


def test_each_stage_matches_at_its_own_overlap(stages_seen: list[dict[str, Any]]) -> None:
    """Boxes of overlap 0.55, 0.65 and 0.75, kept where they are, drop out one by one."""
    detector = small_detector("cascade_rcnn")
    for stage in heads_of(detector).stages:
        torch.nn.init.zeros_(stage.box_predictor.bbox_pred.weight)
        torch.nn.init.zeros_(stage.box_predictor.bbox_pred.bias)
    truth = torch.tensor([[10.0, 10.0, 50.0, 50.0]])
    widths = torch.tensor([0.55, 0.65, 0.75]) * 40
    proposals = truth.repeat(3, 1)
    proposals[:, 2] = 10 + widths
    features = detector.network.backbone(torch.randn(1, 3, 64, 64))
    target = {"boxes": truth, "labels": torch.tensor([2])}
    heads_of(detector)(features, [proposals], [(64, 64)], [target])
    # The object itself is added to the proposals, last.
    assert [seen["labels"][0].tolist() for seen in stages_seen] == [
        [2, 2, 2, 2],
        [0, 2, 2, 2],
        [0, 0, 2, 2],
    ]


def test_labels_are_by_overlap_in_training(stages_seen: list[dict[str, Any]]) -> None:
    detector = livened(small_detector("cascade_rcnn"))
    target = objects(96, 96)
    losses(detector, pictures((96, 96)), [target])
    assert len(stages_seen) == 3
    for seen, threshold in zip(stages_seen, THRESHOLDS, strict=True):
        overlap, which = box_iou(target["boxes"], seen["boxes"][0]).max(0)
        expected = torch.where(overlap >= threshold, target["labels"][which] + 1, 0)
        assert torch.equal(seen["labels"][0], expected)
        assert expected.any()


def test_refined_boxes_are_the_next_stages_and_carry_no_gradient(
    stages_seen: list[dict[str, Any]],
) -> None:
    detector = livened(small_detector("cascade_rcnn"))
    sizes = ((64, 96), (80, 64))
    parts = losses(detector, pictures(*sizes), [objects(*size) for size in sizes])
    for now, after, weights in zip(stages_seen[:2], stages_seen[1:], WEIGHTS[:2], strict=True):
        deltas = now["deltas"].split([len(b) for b in now["boxes"]])
        for boxes, delta, new, size in zip(
            now["boxes"], deltas, after["boxes"], sizes, strict=True
        ):
            assert not new.requires_grad
            centre, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
            dx = delta.detach() / torch.tensor(weights)
            centre = centre + dx[:, :2] * side
            side = side * dx[:, 2:].exp()
            moved = clip_boxes_to_image(torch.cat([centre - side / 2, centre + side / 2], 1), size)
            inside = ((moved[:, 2:] - moved[:, :2]) >= 1e-2).all(1, keepdim=True)
            torch.testing.assert_close(new, torch.where(inside, moved, boxes))
            assert (new != boxes).any(1).float().mean() > 0.9
    third = parts["loss_classifier_3"] + parts["loss_box_reg_3"]
    stages = heads_of(detector).stages
    gradients = torch.autograd.grad(third, list(stages.parameters()), allow_unused=True)
    reached = [gradient is not None for gradient in gradients]
    assert reached == [False] * 16 + [True] * 8


def test_the_stages_losses_are_weighted() -> None:
    # No refinement, so that the weights of the first step decide nothing about the boxes.
    images, targets = pictures((64, 64)), [objects(64, 64)]
    with torch.no_grad():
        weighted = losses(small_detector("cascade_mask_rcnn"), images, targets)
        plain = losses(small_detector("cascade_mask_rcnn", loss_weights=(1, 1, 1)), images, targets)
    for number, weight in enumerate((1.0, 0.5, 0.25), 1):
        for part in ("classifier", "box_reg", "mask"):
            name = f"loss_{part}_{number}"
            assert weighted[name] == weight * plain[name]
            assert plain[name] > 0


def test_scores_are_the_mean_of_three_softmaxes_on_the_last_boxes() -> None:
    detector = small_detector(
        "cascade_rcnn", box_score_thresh=-1.0, box_nms_thresh=2.0, box_detections_per_img=1000
    )
    heads = heads_of(livened(detector.eval()))
    pooled: list[Tensor] = []
    logits: list[Tensor] = []
    for stage in heads.stages:
        torch.nn.init.normal_(stage.box_predictor.cls_score.weight, std=0.5)
        stage.box_head.register_forward_hook(lambda _, inputs, __: pooled.append(inputs[0]))
        stage.box_predictor.register_forward_hook(lambda _, __, output: logits.append(output[0]))
    proposals = torch.tensor([[8.0, 8, 40, 40], [20, 4, 60, 30], [2, 30, 50, 62]])
    with torch.no_grad():
        features = detector.network.backbone(torch.randn(1, 3, 64, 64))
        ((found,), _) = heads(features, [proposals], [(64, 64)])
    # Two calls refine, then come all three on the same boxes, which are not the first ones.
    assert len(logits) == 5
    assert torch.equal(pooled[2], pooled[3])
    assert torch.equal(pooled[3], pooled[4])
    assert not torch.equal(pooled[0], pooled[2])
    mean = torch.stack([part.softmax(1) for part in logits[2:]]).mean(0)
    expected = mean[:, 1:].flatten().sort(descending=True).values
    torch.testing.assert_close(found["scores"], expected)
    # No stage alone gives these.
    for part in logits[2:]:
        alone = part.softmax(1)[:, 1:].flatten().sort(descending=True).values
        assert not torch.allclose(alone, expected, atol=1e-3)


def test_masks_are_the_mean_of_the_stages_on_the_boxes_found() -> None:
    detector = small_detector("cascade_mask_rcnn").eval()
    drawn: list[Tensor] = []
    for stage in heads_of(detector).stages:
        stage.mask_predictor.register_forward_hook(lambda _, __, output: drawn.append(output))
    with torch.no_grad():
        network: Any = detector.network
        images, _ = network.transform(pictures((64, 64)))
        features = network.backbone(images.tensors)
        proposals, _ = network.rpn(images, features)
        ((found,), _) = network.roi_heads(features, proposals, images.image_sizes)
    assert len(drawn) == 3
    mean = torch.stack([part.sigmoid() for part in drawn]).mean(0)
    rows = torch.arange(len(mean))
    torch.testing.assert_close(found["masks"], mean[rows, found["labels"]][:, None])


def test_a_box_refined_out_of_the_image_stays() -> None:
    stage: Any = heads_of(small_detector("cascade_rcnn")).stages[0]
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    deltas = torch.tensor([[-100.0, 0, 0, 0], [5.0, 0, 0, 0]])
    (refined,) = refine(stage, deltas, [boxes], [(64, 64)])
    assert torch.equal(refined, torch.tensor([[0.0, 0, 10, 10], [30, 20, 50, 40]]))
