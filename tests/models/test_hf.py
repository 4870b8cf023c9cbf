"""Checkpoints of transformers: what is read, what is refused and how it is said. Parity: test_dpt_parity.py."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import nn

from pocketvit.errors import DataError, MissingDependencyError, UsageError
from pocketvit.models import build, load_weights
from pocketvit.models.hf import find_folder, from_hf
from pocketvit.models.hf_names import answer_of, settings_of
from pocketvit.spec.recipe import ModelConfig
from pocketvit.tasks.start import _start
from tests.models.test_dpt_parity import OURS, VIT, anything, dpt

OPTIONS: dict[str, Any] = {**OURS, "backbone_options": VIT}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dpt(image_size=64).save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def start(folder: Path | str, name: str = "dpt_base", **options: Any) -> nn.Module:
    model = build(name, (64, 64), {**OPTIONS, **options})
    load_weights(model, str(folder))
    return model


def change(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))


def test_every_tensor_of_the_model_is_from_the_file(folder: Path) -> None:
    first, second = (start(folder).state_dict() for _ in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    theirs = load_file(folder / "model.safetensors")
    key = "dpt.encoder.layer.1.attention.attention.{}.weight"
    joined = torch.cat([theirs[key.format(part)] for part in ("query", "key", "value")])
    assert torch.equal(first["encoder.blocks.1.attn.qkv.weight"], joined)


def test_a_tensor_that_is_missing_or_has_no_place_is_named(folder: Path) -> None:
    file, state = folder / "model.safetensors", load_file(folder / "model.safetensors")
    save_file({**state, "neck.extra.weight": torch.zeros(1)}, file)
    with pytest.raises(UsageError, match=r"has neck\.extra\.weight, which this model has no place for") as caught:
        start(folder)
    assert "model.name: dpt_base" in caught.value.todo
    for gone, told in (
        ("neck.convs.2.weight", "lacks decoder.enter.2.weight"),
        ("dpt.encoder.layer.3.attention.attention.key.weight", r"has dpt\.encoder\.layer\.3\.attention\.attention\.q"),
        ("neck.reassemble_stage.readout_projects.0.0.weight", r"lacks reassemble\.0\.read_tokens\.weight"),
    ):
        save_file({key: value for key, value in state.items() if key != gone}, file)
        with pytest.raises(UsageError, match=told):
            start(folder)


@pytest.mark.parametrize(
    ("options", "says", "todo"),
    [
        ({"hooks": [0, 1, 2, 4]}, r"says hooks \[0, 2, 3, 4\], the model has \[0, 1, 2, 4\]", "hooks: "),
        ({"read": "ignore"}, "says read project, the model has ignore", "model.options.read: project"),
        (
            {"backbone_options": {**VIT, "num_heads": 4}},
            "says num_heads 2, the model has 4",
            "backbone_options.num_heads",
        ),
        ({"hook_norm": True}, "says hook_norm False, the model has True", "hook_norm"),
        ({"width": 8}, r"of shape", "other model.options"),
        ({"reassemble": [8, 8, 16, 8]}, "of shape", "other model.options"),
        ({"batch_norm": True}, r"has neck\.fusion_stage\.layers\.\d\.residual_layer\d\.convolution\d\.bias", "config"),
        ({"head": "segmentation"}, r"has head\.head\.0\.bias", "config.json"),
    ],
)
def test_a_model_of_other_settings_is_refused(folder: Path, options: dict[str, Any], says: str, todo: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        start(folder, **options)
    assert todo in caught.value.todo


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"model_type": "glpn"}, "model_type 'glpn' is no DPT"),
        ({"model_type": None}, "model_type None is no DPT"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"reassemble_factors": [8, 4, 2, 1]}, "reassemble_factors"),
        ({"backbone_config": {"model_type": "beit"}}, "backbone 'beit' has layers"),
        ({"backbone_config": {"model_type": "dinov2", "use_swiglu_ffn": True}}, "backbone 'dinov2' has layers"),
    ],
)
def test_other_kinds_of_model_are_refused(folder: Path, entries: dict[str, Any], says: str) -> None:
    change(folder, **entries)
    with pytest.raises(DataError, match=says):
        start(folder)


def test_damaged_folders_are_explained(folder: Path) -> None:
    (folder / "config.json").write_text("[1]")
    with pytest.raises(DataError, match=r"config\.json: cannot be read \(it is no mapping\)"):
        start(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json: cannot be read"):
        start(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"holds no model\.safetensors") as caught:
        start(folder)
    assert "save_pretrained" in caught.value.todo


def test_what_an_old_config_leaves_out_has_transformers_defaults() -> None:
    found = settings_of({"model_type": "dpt"})
    assert found == {"stages": (), "hooks": (2, 5, 8, 11), "num_heads": 12, "read": "project", "hook_norm": False}
    found = settings_of({"model_type": "depth_anything", "backbone_config": {"num_attention_heads": 6}})
    assert (found["hooks"], found["num_heads"], found["hook_norm"]) == (None, 6, True)
    named = {"model_type": "dinov2", "out_features": ["stage9", "stage10", "stage11", "stage12"]}
    assert settings_of({"model_type": "depth_anything", "backbone_config": named})["hooks"] == (8, 9, 10, 11)
    hybrid = settings_of({"model_type": "dpt", "is_hybrid": True, "reassemble_factors": [1, 1, 1, 0.5]})
    assert (hybrid["stages"], hybrid["hooks"]) == ((0, 1), (8, 11))


def test_only_a_dpt_starts_from_such_a_folder(folder: Path) -> None:
    with pytest.raises(UsageError, match="only a DPT starts from a checkpoint of transformers"):
        load_weights(build("vit_micro_patch16_224", (64, 64)), str(folder))


def test_what_the_published_network_makes_of_the_score_is_said() -> None:
    metric = anything(depth_estimation_type="metric", max_depth=80).config.to_dict()
    assert answer_of(metric) == "its depth is sigmoid(score) x 80 m"
    assert answer_of(dpt().config.to_dict()) == "its inverse depth is ReLU(score)"


def test_a_folder_is_read_without_transformers(folder: Path) -> None:
    program = (
        "import sys; sys.modules['transformers'] = sys.modules['huggingface_hub'] = None\n"
        "from pocketvit.models import build, load_weights\n"
        f"model = build('dpt_base', (64, 64), {OPTIONS!r})\n"
        f"print(load_weights(model, {str(folder)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


class Nowhere:
    """A network that is not there."""

    def head(self, url: str, **_: object) -> None:
        raise ConnectionError("no route to host")


def test_a_name_that_cannot_be_fetched_is_one_error_of_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "get_session", Nowhere)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(
        DataError, match=r"model\.weights hf:someone/dpt: not on this disk, and it did not come"
    ) as caught:
        start("hf:someone/dpt")
    assert caught.value.exit_code == 3
    assert (
        caught.value.todo == "Fetch config.json and model.safetensors on another machine and set model.weights: FOLDER."
    )
    assert constants.HF_HUB_OFFLINE is False


def test_a_name_is_fetched_where_the_hub_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Answers:
        def head(self, url: str, **_: object) -> None:
            asked.append(url)

    def snapshot(name: str, **more: Any) -> str:
        asked.append((name, more))
        return str(folder)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", Answers)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    start("hf:someone/dpt@v1")
    files = ["config.json", "model.safetensors"]
    assert asked == [constants.ENDPOINT, ("someone/dpt", {"revision": "v1", "allow_patterns": files})]


@pytest.mark.parametrize("name", ["hf:", "hf:dpt", "hf:a/b/c", "hf:../dpt", "hf:a/../../b", "hf:a b/c"])
def test_names_that_cannot_be_are_refused_before_anything_is_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(UsageError, match="is no name on the hub"):
        find_folder(name)


def test_without_huggingface_hub_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError) as caught:
        find_folder("hf:someone/dpt")
    assert caught.value.todo == 'Run: pip install "pocketvit[hub]"'
    assert caught.value.exit_code == 6


def test_a_recipe_starts_from_such_a_folder_and_says_what_it_was(folder: Path, tmp_path: Path) -> None:
    model = build("dpt_base", (64, 64), OPTIONS)
    note = _start(model, ModelConfig("dpt_base", OPTIONS, str(folder)))
    assert note == "weights of theirs (its inverse depth is ReLU(score))"
    assert torch.equal(model.head.conv3.bias, load_file(folder / "model.safetensors")["head.head.4.bias"])
    with pytest.raises(DataError, match="no such file or folder") as caught:
        _start(model, ModelConfig("dpt_base", OPTIONS, str(tmp_path / "nothing")))
    assert "for a DPT hf:ORG/NAME or a folder that transformers wrote" in caught.value.todo
    with pytest.raises(UsageError, match="no checkpoint there"):
        _start(build("vit_micro_patch16_224", (64, 64)), ModelConfig(weights=str(folder)))


def test_which_weights_are_theirs(folder: Path, tmp_path: Path) -> None:
    assert from_hf("hf:a/b")
    assert from_hf(str(folder))
    assert not from_hf(str(tmp_path))
    assert not from_hf(str(folder / "model.safetensors"))
    assert not from_hf("timm:vit_tiny_patch16_224")
