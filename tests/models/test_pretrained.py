"""Downloads, served on this machine: what is kept, what is checked, what is refused."""

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from timm.models import save_for_hf

import foveal
from foveal.errors import CheckpointError
from foveal.models.weights import WEIGHTS
from tests.models.families import shallow
from tests.models.small_models import SHALLOW, images, official, same, small_focalnet


class Site:
    """A folder served over HTTP, and the cache that downloads from it go to."""

    def __init__(self, folder: Path, cache: Path, server: ThreadingHTTPServer):
        self.folder, self.cache, self.server = folder, cache, server
        self.served: list[str] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/{name}"

    def put(self, name: str, content: object) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        return self.url(name)

    def create(self, url: Any, *, create: Any = foveal.create_model, **options: Any) -> Any:
        return create(
            "focalnet_tiny_srf" if create is foveal.create_model else "foveal_focalnet_tiny_srf",
            pretrained=True,
            cache_dir=str(self.cache),
            pretrained_cfg_overlay={"url": url},
            **{"num_classes": 10, **SHALLOW, **options},
        )

    def refused(self, url: Any, match: str, **options: Any) -> str:
        """Creation fails with a sentence, and the cache is as it was."""
        before = {path: path.read_bytes() for path in self.cache.rglob("*") if path.is_file()}
        with pytest.raises(CheckpointError, match=match) as info:
            self.create(url, **options)
        after = {path: path.read_bytes() for path in self.cache.rglob("*") if path.is_file()}
        assert before == after
        return str(info.value)

    def cached(self) -> list[str]:
        return sorted(path.name for path in self.cache.rglob("*") if path.is_file())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    folder, cache = tmp_path / "site", tmp_path / "cache"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            site.served.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    site = Site(folder, cache, server)
    thread = threading.Thread(target=partial(server.serve_forever, 0.02), daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


# --- downloads that work ---


@pytest.mark.parametrize("create", [foveal.create_model, timm.create_model])
def test_a_download_is_loaded_kept_and_recorded(site: Site, create, capfd):
    source = small_focalnet()
    url = site.put("tiny.pth", {"model": official(source)})
    assert same(source, site.create(url, create=create))
    assert "100%" in capfd.readouterr().err
    assert site.cached() == ["tiny.pth", "tiny.pth.json"]
    record = json.loads((site.cache / "tiny.pth.json").read_text())
    assert record["size"] == (site.folder / "tiny.pth").stat().st_size
    assert len(record["sha256"]) == 64

    assert same(source, site.create(url, create=create))
    assert site.served == ["/tiny.pth"]


def test_the_default_cache_is_torchs(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    url = site.put("tiny.pth", official(small_focalnet()))
    foveal.create_model(
        "focalnet_tiny_srf", True, pretrained_cfg_overlay={"url": url}, num_classes=10, **SHALLOW
    )
    assert (tmp_path / "torch/hub/checkpoints/tiny.pth.json").is_file()


def test_common_file_names_do_not_collide(site: Site):
    first, second = small_focalnet(), small_focalnet(seed=1)
    for name, source in (("one", first), ("two", second)):
        content = safetensors.torch.save(source.state_dict())
        url = site.put(f"{name}/resolve/main/model.safetensors", content)
        assert same(source, site.create(url))
    assert same(first, site.create(site.url("one/resolve/main/model.safetensors")))
    assert len(site.served) == 2


def test_a_name_may_be_given_with_the_address(site: Site):
    url = site.put("download", official(small_focalnet()))
    site.create((url, "named.pth"))
    assert site.cached() == ["named.pth", "named.pth.json"]


def test_the_same_name_from_another_address_is_another_file(site: Site):
    first, second = small_focalnet(), small_focalnet(seed=1)
    one, two = site.put("1/tiny.pth", official(first)), site.put("2/tiny.pth", official(second))
    assert same(first, site.create(one))
    assert same(second, site.create(two))
    assert same(second, site.create(two))
    assert site.served == ["/1/tiny.pth", "/2/tiny.pth"]


def test_a_file_that_was_put_into_the_cache_is_recorded_once_it_loads(site: Site):
    source = small_focalnet()
    site.cache.mkdir()
    torch.save(official(source), site.cache / "tiny.pth")
    assert same(source, site.create(site.url("tiny.pth")))
    assert not site.served
    assert site.cached() == ["tiny.pth", "tiny.pth.json"]


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 3},
        {"num_classes": 0},
        {"in_chans": 1},
        {"in_chans": 4},
        {"focal_windows": 5},
    ],
)
def test_a_download_is_adapted(site: Site, options: dict[str, Any], caplog):
    source = small_focalnet()
    url = site.put("tiny.pth", official(source))
    with caplog.at_level("INFO", logger="foveal"):
        model = site.create(url, **options)
    block = "stages.3.blocks.0.norm1.weight"
    assert torch.equal(model.state_dict()[block], source.state_dict()[block])
    assert "- " in caplog.text
    assert model(images(options.get("in_chans", 3))).shape[0] == 2


@pytest.mark.parametrize("create", [foveal.create_model, timm.create_model])
def test_features_alone_are_pretrained(site: Site, create):
    source = small_focalnet()
    url = site.put("tiny.pth", official(source))
    features = site.create(url, create=create, features_only=True, out_indices=(1, 3)).eval()
    with torch.no_grad():
        expected: Any = source.forward_intermediates(images(), indices=[1, 3])[1]
        torch.testing.assert_close(list(features(images())), expected, rtol=0, atol=0)


def test_a_missing_classifier_that_nobody_asked_for_is_warned_of(site: Site, caplog):
    url = site.put("tiny.pth", official(small_focalnet(num_classes=0)))
    site.create(url, num_classes=1000)
    assert "untrained" in caplog.text


# --- downloads that fail ---


def test_failures_leave_nothing_behind(site: Site):
    whole = site.folder / "whole.pth"
    torch.save(official(small_focalnet()), whole)
    content = whole.read_bytes()
    other = shallow("efficientmod_xxs")
    for name, body, match in (
        ("cut.pth", content[: len(content) // 2], r"http.*cut\.pth is cut off"),
        ("cut.safetensors", safetensors.torch.save(other.state_dict())[:-9], "is cut off"),
        ("page.pth", b"<!DOCTYPE html><html>Sign in</html>", r"http.*page\.pth is a web page"),
        ("empty.pth", b"", "is empty"),
        ("other.pth", {"model": official(other)}, "look like those of EfficientMod"),
        ("wide.pth", official(small_focalnet(embed_dim=32)), "does not fit"),
    ):
        site.refused(site.put(name, body), match)
    site.refused(site.url("none.pth"), r"the server answers 404")
    site.refused("http://127.0.0.1:1/tiny.pth", "Cannot download.*refused")
    site.refused("nowhere/tiny.pth", "Cannot download.*full address")
    assert site.cached() == []


def test_a_failed_download_leaves_another_file_of_that_name_alone(site: Site):
    site.create(site.put("1/tiny.pth", official(small_focalnet())))
    site.refused(site.put("2/tiny.pth", b"<html>"), "web page")
    assert site.cached() == ["tiny.pth", "tiny.pth.json"]


@pytest.mark.parametrize("change", ["longer", "same length", "another checkpoint"])
def test_a_cached_file_that_changed_is_refused(site: Site, change: str):
    url = site.put("tiny.pth", official(small_focalnet()))
    site.create(url)
    path = site.cache / "tiny.pth"
    content = path.read_bytes()
    if change == "longer":
        path.write_bytes(content + b"x")
    elif change == "same length":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        torch.save(official(small_focalnet(seed=1)), path)
    message = site.refused(url, "is not the file that was downloaded")
    assert ("size" in message) == (change == "longer")
    assert f"Delete it ({path})" in message
    path.unlink()
    assert same(small_focalnet(), site.create(url))


def test_a_damaged_record_is_named(site: Site):
    url = site.put("tiny.pth", official(small_focalnet()))
    site.create(url)
    (site.cache / "tiny.pth.json").write_text("{")
    site.refused(url, r"tiny\.pth\.json.*is damaged; delete it and")


def test_a_bad_file_that_was_put_into_the_cache_is_named_and_left(site: Site):
    site.cache.mkdir()
    (site.cache / "tiny.pth").write_bytes(b"<html>")
    site.refused(site.url("tiny.pth"), "web page.*delete it to download")


# --- other sources ---


@pytest.mark.parametrize(
    "variant", [v for v, records in WEIGHTS.items() if not records[0].url and "base" not in v]
)
def test_without_a_link_the_error_says_where_and_how(variant: str):
    with pytest.raises(CheckpointError) as info:
        foveal.create_model(variant, pretrained=True, device="meta")
    message = str(info.value)
    assert "No direct link exists" in message
    assert WEIGHTS[variant][0].obtain in message
    assert f"`foveal convert FILE --model {variant} --output {variant}.safetensors`" in message
    assert f"foveal.load_checkpoint(model, '{variant}.safetensors')" in message


def test_a_tag_points_to_its_own_file(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def download(url: str, *_: Any, **__: Any) -> None:
        asked.append(url)
        raise ConnectionRefusedError("no network here")

    monkeypatch.setattr("foveal.models.pretrained.download_url_to_file", download)
    for name in ("transnext_micro", "transnext_small.in1k_384", "focalnet_huge_fl4"):
        with pytest.raises(CheckpointError, match="no network here"):
            foveal.create_model(name, pretrained=True, device="meta")
    assert [url.rpartition("/")[2] for url in asked] == [
        "transnext_micro_224_1k.pth",
        "transnext_small_384_1k_ft_1k.pth",
        "model.safetensors",
    ]


def test_a_local_file_and_a_state_dict_load(tmp_path: Path):
    source = small_focalnet()
    torch.save(official(source), tmp_path / "x.pth")
    for overlay in ({"file": str(tmp_path / "x.pth")}, {"state_dict": official(source)}):
        model = foveal.create_model(
            "focalnet_tiny_srf",
            pretrained=True,
            pretrained_cfg_overlay=overlay,
            num_classes=10,
            **SHALLOW,
        )
        assert same(source, model)


@pytest.mark.parametrize("safe", [True, False])
def test_timms_saved_folders_load(tmp_path: Path, safe: bool):
    source = timm.create_model("foveal_focalnet_tiny_srf", num_classes=10, in_chans=1, **SHALLOW)
    save_for_hf(source, str(tmp_path), safe_serialization=safe)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert same(source, model)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3)
    assert model.num_classes == 3


def test_a_folder_without_weights_is_refused(tmp_path: Path):
    source = timm.create_model("foveal_focalnet_tiny_srf", num_classes=10, **SHALLOW)
    save_for_hf(source, str(tmp_path), safe_serialization=True)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_the_hub_is_asked_through_timm(monkeypatch: pytest.MonkeyPatch):
    source = small_focalnet()
    asked: list[tuple[Any, ...]] = []

    def from_hub(*place: str, weights_only: bool, cache_dir: str | None) -> Any:
        assert weights_only
        asked.append(place)
        if place[0] == "nobody/nothing":
            raise RuntimeError("404 Client Error.\n\nRepository not found")
        return source.state_dict()

    monkeypatch.setattr("foveal.models.pretrained.load_state_dict_from_hf", from_hub)
    options: dict[str, Any] = {"pretrained": True, "num_classes": 10, **SHALLOW}
    overlay: dict[str, Any] = {"hf_hub_id": "somebody/focalnet", "hf_hub_filename": "x.bin"}
    model = foveal.create_model("focalnet_tiny_srf", pretrained_cfg_overlay=overlay, **options)
    assert same(source, model) and asked == [("somebody/focalnet", "x.bin")]
    with pytest.raises(CheckpointError, match="nobody/nothing: 404 Client Error"):
        foveal.create_model(
            "focalnet_tiny_srf", pretrained_cfg_overlay={"hf_hub_id": "nobody/nothing"}, **options
        )
