"""What models might see, made up: every kind of reading, without a network."""

import numpy as np
from PIL import Image

from foveal.tasks.classification import ClassScore
from foveal.tools.explain.attention import QueryAttention
from foveal.tools.explain.explanation import (
    BlockExplanation,
    Explanation,
    ImageExplanation,
    ModelExplanation,
)
from foveal.tools.explain.views import CurveView, MapView, PointView, QueryView, View

NASTY = "<script>alert('x')</script>&\".jpg"


def picture(height: int = 160, width: int = 200, turn: float = 0.0) -> Image.Image:
    """A sky with a disc over a ground."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    pixels = np.stack([120 + 80 * y, 150 + 40 * np.sin(9 * x + turn), 230 - 180 * y], axis=-1)
    disc = (y - 0.35) ** 2 + (x - 0.4 - 0.2 * turn) ** 2 < 0.03
    pixels[disc] = (240, 190, 60)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def bump(size: tuple[int, int], y: float, x: float, width: float = 0.2) -> np.ndarray:
    """A hill over a map, its top of 1 at fractions y and x."""
    rows, columns = ((np.arange(n) + 0.5) / n for n in size)
    return np.exp(-((rows[:, None] - y) ** 2 + (columns[None] - x) ** 2) / (2 * width**2))


def softmax(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Shares of a whole over some axes."""
    powers = np.exp(values - values.max(axes, keepdims=True))
    return powers / powers.sum(axes, keepdims=True)


def gates(size: tuple[int, int], labels: int = 3) -> MapView:
    """Maps of several levels on one scale."""
    values = np.stack(
        [bump(size, 0.3 + 0.1 * i, 0.4, 0.1 + 0.1 * i) * (1 + i) for i in range(labels)]
    )
    names = tuple(f"level {i + 1}" for i in range(labels))
    return MapView("gates", "How much of each level a place takes, from 0.", names, values)


def signed(size: tuple[int, int]) -> MapView:
    """Values of either sign, each map on its own scale; one value is none."""
    values = np.stack([bump(size, 0.3, 0.3) - 0.4, 40 * (bump(size, 0.7, 0.7) - 0.2)])
    values[1, 0, 0] = np.nan
    about = "What the modulator adds to each channel group, of either sign."
    return MapView("modulator", about, ("group 1", "group 2"), values, signed=True, together=False)


def with_mean(attention: QueryAttention) -> QueryAttention:
    """The mean of the heads before them, where all heads have the same points."""
    parts = {}
    for name in ("grid", "window", "mass"):
        part = getattr(attention, name)
        parts[name] = None if part is None else np.concatenate([part.mean(0, keepdims=True), part])
    points = attention.points
    parts["points"] = None if points is None else np.concatenate([points[:1], points])
    rest = {name: getattr(attention, name) for name in ("query", "size", "cell", "corner")}
    return QueryAttention(**rest, **parts)


def pooled_and_window(
    y: float, x: float, size: tuple[int, int] = (14, 18), heads: int = 3, pooled: int = 5
) -> QueryAttention:
    """A window of 3 × 3 cells, partly off the map at its border, and pooled cells."""
    query = (int(y * size[0]), int(x * size[1]))
    seed = np.random.default_rng(query[0] * 100 + query[1])
    cells = np.stack([bump((pooled, pooled), 1 - y, 1 - x, 0.15 + 0.1 * h) for h in range(heads)])
    near = seed.normal(0.5, 1, (heads, 3, 3))
    flat = softmax(np.concatenate([4 * cells.reshape(heads, -1), near.reshape(heads, -1)], 1), (1,))
    return with_mean(
        QueryAttention(
            query,
            size,
            grid=flat[:, : pooled**2].reshape(heads, pooled, pooled),
            cell=(size[0] / pooled, size[1] / pooled),
            window=flat[:, pooled**2 :].reshape(heads, 3, 3),
            corner=(query[0] - 1, query[1] - 1),
        )
    )


def sampled(y: float, x: float, heads: int = 2, side: int = 6) -> QueryAttention:
    """Points drawn towards the disc, some off the image."""
    places = (np.stack(np.meshgrid(*[np.arange(side)] * 2, indexing="ij"), -1) + 0.5) / side
    points = places.reshape(1, -1, 2).repeat(heads, 0)
    points = points + 0.35 * np.array([0.4 - y, -0.6]) * np.sin(5 * points)
    distance = ((points - [0.4, 0.4]) ** 2).sum(-1) + 0.3 * ((points - [y, x]) ** 2).sum(-1)
    mass = softmax(-distance * 18, (1,))
    size = (7, 9)
    return with_mean(QueryAttention((int(y * 7), int(x * 9)), size, points=points, mass=mass))


def queries(
    kind, title: str, labels: tuple[str, ...], rows: int = 5, columns: int = 6
) -> QueryView:
    """Queries on an even grid."""
    grid = tuple(
        tuple(kind((i + 0.5) / rows, (j + 0.5) / columns) for j in range(columns))
        for i in range(rows)
    )
    return QueryView(title, "Shares of one query's attention; all sum to 1.", labels, grid)


def displacements(side: int = 7) -> PointView:
    """Points that moved, those of the second group off the image."""
    places = (np.stack(np.meshgrid(*[np.arange(side)] * 2, indexing="ij"), -1) + 0.5) / side
    start = np.stack([places.reshape(-1, 2)] * 2)
    moved = start + np.stack([0.35 * ([0.35, 0.4] - start[0]), np.full_like(start[1], 0.12)])
    mass = softmax(-8 * ((moved - 0.45) ** 2).sum(-1), (1,))
    about = "Where the grid's points went, and their share of all attention."
    return PointView("offsets", about, ("group 1", "group 2"), start, moved, mass)


def spectrum() -> CurveView:
    """Falling curves."""
    x = np.linspace(0, 0.5, 24)
    y = np.stack([np.exp(-6 * x), np.exp(-3 * x) * 0.8, 0.3 + 0.2 * np.cos(14 * x)])
    y[2, 5] = np.nan
    names = ("input", "local branch", "global branch")
    about = "Power by radial frequency, relative to that at 0."
    return CurveView("spectrum", about, names, x, y, "cycles per cell", "relative power")


def of_the_whole() -> tuple[View, ...]:
    """A receptive field, alone, and a curve of small values."""
    field = bump((9, 9), 0.5, 0.5)[None]
    x = np.linspace(0, 1, 5)
    return (
        MapView("receptive field", "Contribution.", ("all",), field, over_image=False),
        CurveView("insertion", "Of pixels.", ("gradcam",), x, 0.004 * x[None], "share", "score"),
    )


def stages(*views: tuple[View, ...]) -> tuple[BlockExplanation, ...]:
    """Three blocks of each stage, the last with all its views."""
    sizes = [(20, 25), (10, 13)]
    blocks = []
    for stage, shown in enumerate(views):
        first = MapView("norm", "Length of the output.", ("",), gates(sizes[stage % 2], 1).values)
        blocks += [
            BlockExplanation(
                f"stages.{stage}.downsample", stage, -1, "strided attention", (first,)
            ),
            BlockExplanation(f"stages.{stage}.blocks.0.mixer", stage, 0, "mixer", shown[:1]),
            BlockExplanation(f"stages.{stage}.blocks.1.mixer", stage, 1, "mixer", shown),
        ]
    return tuple(blocks)


def model(
    name: str, image: Image.Image, blocks: tuple[BlockExplanation, ...], **options
) -> ModelExplanation:
    """A model with five likeliest classes and an activation map."""
    names = ("tabby cat", "tiger cat", "Egyptian cat", "lynx", NASTY)
    scores = tuple(
        ClassScore(i, word, p)
        for i, (word, p) in enumerate(zip(names, [0.71, 0.2, 0.06, 0.01, 0.0004], strict=True))
    )
    maps = MapView(
        "Grad-CAM", "How much a place adds to the class.", ("",), bump((7, 9), 0.35, 0.45)[None]
    )
    source = "the published weights"
    given = {
        "source": source,
        "is_trained": True,
        "scores": scores,
        "activation": maps,
        **options,
    }
    return ModelExplanation(
        name,
        picture=image,
        input_size=(224, 280),
        blocks=blocks,
        **given,
    )


def explanation(num_images: int = 2) -> Explanation:
    """Images × three models: gates and curves; attention, points; one without blocks, untrained."""
    heads = ("mean", "head 1", "head 2", "head 3")
    images = []
    for i in range(num_images):
        seen = picture(turn=float(i))
        focal = stages((gates((20, 25)), signed((20, 25))), (spectrum(), gates((10, 13))))
        attending = stages(
            (queries(pooled_and_window, "attention", heads), gates((14, 18), 1)),
            (queries(sampled, "deformed attention", heads[:3]), displacements()),
        )
        models = (
            model("focalnet_tiny_srf", seen, focal, views=of_the_whole()),
            model("transnext_micro", seen, attending, is_trained=False),
            model(
                "plain_network",
                seen,
                (),
                activation=None,
                scores=(),
                note="This network has no mixers that can be read.",
            ),
        )
        name = NASTY if i else "cat.jpg"
        images.append(ImageExplanation(name, models, ("The picture was cropped to 4:5.",)))
    return Explanation(tuple(images))


def padded_window() -> QueryAttention:
    """A window of 4 × 4 cells at the upper left corner of a map of 6 × 7, half of its rows and a
    column off the map: 70 % of the attention, and the strongest cell of all."""
    window = np.full((1, 4, 4), 0.02)
    window[0, :2] = 0.36 / 7
    window[0, 0, 1] = 0.3
    window[0, 2, 2] = 0.2
    return QueryAttention((0, 1), (6, 7), window=window, corner=(-2, -1))


def recurring() -> Explanation:
    """Twice an image of the same name, with three models of the same name; the second of them has
    ten classes and mixers outside of stages."""
    seen = picture()
    padded = QueryView("attention", "Shares.", ("all",), ((padded_window(),),))
    stage = BlockExplanation("stages.0.blocks.0.mixer", 0, 0, "window attention", (padded,))
    outside = tuple(
        BlockExplanation(f"body.{name}", -1, i, "gating", (gates((4, 5), 1 + i),))
        for i, name in enumerate(("first", "second"))
    )
    scores = tuple(ClassScore(i, f"class {i}", (10 - i) / 55) for i in range(10))
    models = (
        model("efficientmod_xxs", seen, (stage,), source="the model in the box"),
        model("efficientmod_xxs", seen, (*outside, stage), source="run/$best.st", scores=scores),
        model("efficientmod_xxs", seen, (stage,), source="run/$best.st"),
        model("dat_tiny", seen, (stage,)),
    )
    return Explanation(tuple(ImageExplanation("cat.jpg", models) for _ in range(2)))
