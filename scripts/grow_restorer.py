"""A restorer with more blocks in its bottleneck that answers as the one it was grown from: a start to train on.

python scripts/grow_restorer.py CHECKPOINT OUT --bottleneck rcwrr

New convolution blocks go behind the old ones; their last layer is zero, so that they begin as the identity (Net2DeeperNet,
Chen et al. 2016). Train OUT with ``--model.options.bottleneck`` the same.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from pocketvit.models.trained import save_checkpoint
from pocketvit.tasks.load import build_task_model, load_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bottleneck", required=True, help="as model.options.bottleneck: the old blocks, then r's")
    arguments = parser.parse_args()
    old = load_checkpoint(arguments.checkpoint)
    spec = replace(old.model_spec, options=old.model_spec.options | {"bottleneck": arguments.bottleneck})
    model = build_task_model(spec, old.task, old.levels, old.preprocess).eval()
    known = old.model.state_dict()
    fresh = {key: torch.zeros_like(v) if ".conv2." in key else v for key, v in model.state_dict().items()}
    if not set(known) < set(fresh) or any(fresh[key].shape != value.shape for key, value in known.items()):
        parser.error(f"{arguments.bottleneck} is not the bottleneck of {arguments.checkpoint} with more behind it")
    model.load_state_dict(fresh | known)
    photo = torch.rand(1, 3, 64, 64)
    assert torch.allclose(model(photo), old.model(photo), atol=1e-6), (
        "only convolution blocks (r) begin as the identity"
    )
    save_checkpoint(arguments.out, replace(old, model=model, model_spec=spec))
    print(f"{arguments.out}: {len(fresh) - len(known)} new tensors, the same answers")


if __name__ == "__main__":
    main()
