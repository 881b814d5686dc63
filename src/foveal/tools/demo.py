"""A page to try models on: upload a picture, see its classes and what the models look at."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from html import escape
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

from foveal.errors import FovealError, MissingExtraError
from foveal.tools.explain.picture import read_picture
from foveal.tools.explain.run import ExplainSettings, explain_images
from foveal.tools.loopback import ADDRESS, usable_port
from foveal.tools.report.explanation import explanation_page
from foveal.tools.trained import TrainedModel

# Larger files are refused before they are read, larger pictures before they are decoded.
LARGEST_FILE = "20mb"
_WAITING = 8

DEFAULTS = ExplainSettings()

# Fonts of the system: those of Gradio's themes come from the net.
_FONTS = ("system-ui", "sans-serif")
_MONOSPACE = ("ui-monospace", "monospace")


def serve_demo(
    models: Sequence[TrainedModel],
    settings: ExplainSettings = DEFAULTS,
    *,
    port: int = 0,
    started: Callable[[str], None] = print,
) -> None:
    """Serve the page on this machine alone until interrupted; nothing is sent anywhere else.

    Args:
        models: that are shown side by side.
        settings: what to compute.
        port: of 127.0.0.1; 0 takes a free one.
        started: is told the page's address.

    Raises:
        FovealError: the port cannot be used, or Gradio is not installed.
    """
    with running_demo(models, settings, port=port) as address:
        started(address)
        with suppress(KeyboardInterrupt):
            Event().wait()


@contextmanager
def running_demo(
    models: Sequence[TrainedModel], settings: ExplainSettings = DEFAULTS, *, port: int = 0
) -> Iterator[str]:
    """The page's address, which answers inside; see `serve_demo`."""
    gradio = _gradio()
    number = usable_port(port)
    # What is uploaded goes when the server does.
    with tempfile.TemporaryDirectory(prefix="foveal-demo-") as folder, _environment(folder):
        demo = _page(gradio, models, settings)
        try:
            _, address, _ = demo.launch(
                server_name=ADDRESS,
                server_port=number,
                share=False,
                quiet=True,
                inbrowser=False,
                prevent_thread_lock=True,
                max_file_size=LARGEST_FILE,
                footer_links=[],
                run_history=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                enable_monitoring=False,
                app_kwargs={"middleware": [_own_name_only()]},
                theme=gradio.themes.Base(font=_FONTS, font_mono=_MONOSPACE),
            )
            yield address
        finally:
            demo.close(verbose=False)


@contextmanager
def _environment(folder: str) -> Iterator[None]:
    """Gradio keeps uploads in the folder, and asks no proxy when it looks whether it answers."""
    before = dict(os.environ)
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (before.get(name), ADDRESS)))
    os.environ["GRADIO_TEMP_DIR"] = folder
    try:
        yield
    finally:
        for name in ("no_proxy", "NO_PROXY", "GRADIO_TEMP_DIR"):
            os.environ.pop(name)
            if name in before:
                os.environ[name] = before[name]


def explained_picture(
    models: Sequence[TrainedModel], settings: ExplainSettings, path: str | Path, name: str
) -> tuple[list[dict[str, float]], str]:
    """The likeliest classes with their probabilities, model by model, and the page about them.

    Args:
        models: that look at the picture.
        settings: what to compute.
        path: of the picture's file.
        name: that the page calls it.

    Raises:
        FovealError: the file is no picture that a model takes.
    """
    picture = replace(read_picture(path), name=name)
    explanation = explain_images(models, [picture], settings).explanation
    (image,) = explanation.images
    classes = [{score.name: score.probability for score in model.scores} for model in image.models]
    return classes, explanation_page(explanation)


def _page(gradio: ModuleType, models: Sequence[TrainedModel], settings: ExplainSettings) -> Any:
    """Gradio's blocks: a picture, a list of classes for each model, and the explanation."""

    def show(upload: Any) -> list[Any]:
        if upload is None:
            return [*(None for _ in models), ""]
        name = Path(upload.orig_name or upload.path).name
        try:
            classes, page = explained_picture(models, settings, upload.path, name)
        except FovealError as error:
            # Gradio keeps the file under a name of its own.
            sentence = escape(str(error).replace(upload.path, name))
            return [*(None for _ in models), f'<p role="alert">{sentence}</p>']
        return [*classes, _frame(page)]

    with gradio.Blocks(title="Foveal", analytics_enabled=False, delete_cache=(600, 3600)) as demo:
        gradio.Markdown("# Foveal\nUpload a picture: what is in it, and where the network looks.")
        with gradio.Row():
            picture = gradio.Image(label="Picture", sources=["upload", "clipboard"], height=320)
            # The file as it came: what is wrong with it, we say.
            picture.preprocess = lambda payload: payload
            with gradio.Column():
                lists = [
                    gradio.Label(label=model.card.model, num_top_classes=settings.top)
                    for model in models
                ]
        page = gradio.HTML(label="Explanation", elem_id="explanation")
        # A network's hooks and caches are not for two at a time.
        picture.change(show, picture, [*lists, page], concurrency_limit=1, api_visibility="private")
    return demo.queue(max_size=_WAITING)


def _frame(page: str) -> str:
    """The page in a frame of its own, out of which its scripts cannot reach."""
    return (
        '<iframe title="Explanation" sandbox="allow-scripts" '
        'style="width: 100%; height: 90vh; border: 0" '
        f'srcdoc="{escape(page)}"></iframe>'
    )


def _own_name_only() -> Any:
    """Requests under any other name were pointed here by someone else."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    return Middleware(TrustedHostMiddleware, allowed_hosts=[ADDRESS, "localhost"])


def _gradio() -> ModuleType:
    # Before it is imported, as it asks for news then.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "0"
    try:
        import gradio
    except ImportError as error:
        raise MissingExtraError("gradio", "web") from error
    return gradio
