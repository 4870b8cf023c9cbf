"""Average the weights of checkpoints of one network (model soup, Wortsman et al. 2022) into a new checkpoint.

python scripts/average_checkpoints.py OUT runs/a/best=0.3 runs/b/best=0.35 runs/c/best=0.35

Runs that began at the same weights lie in one valley: the mean of their weights is smoother than any of them. Weights
are scaled to sum to 1; the description is that of the first, with a note of what was averaged.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from pocketvit.models.trained import save_checkpoint
from pocketvit.tasks.load import load_checkpoint

KEPT = ("train_images", "train_data", "val_data", "data_notes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("checkpoints", nargs="+", help="checkpoint or run folder, =share after it (1 if not given)")
    arguments = parser.parse_args()
    pairs = [(name, float(share or 1)) for name, _, share in (text.partition("=") for text in arguments.checkpoints)]
    found = [(name, share / sum(w for _, w in pairs), load_checkpoint(name)) for name, share in pairs]
    first = found[0][2]
    for name, _, trained in found:
        if trained.model_spec != first.model_spec or trained.preprocess != first.preprocess:
            parser.error(f"{name} is another network than {found[0][0]}")
    states = [(share, trained.model.state_dict()) for _, share, trained in found]
    first.model.load_state_dict({key: sum(share * state[key] for share, state in states) for key in states[0][1]})
    parts = [f"{share:.2f} of {trained.info.get('start', name)}" for name, share, trained in found]
    kept = {key: first.info[key] for key in KEPT if key in first.info}  # no figure of one is a figure of the mean
    save_checkpoint(arguments.out, replace(first, info={**kept, "averaged": "; ".join(parts)}))
    print(f"{len(found)} checkpoints averaged in {arguments.out}")


if __name__ == "__main__":
    main()
