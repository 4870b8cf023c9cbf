"""Lists for recipes/imagenet200.yaml: 200 ImageNet photos with their classes, and other photographs to calibrate on.

python scripts/imagenet200_lists.py ../shared/data/imagenet200 runs/imagenet200
    [--calibration ../shared/data/bsds500/train]
"""

import argparse
import csv
from pathlib import Path

from timm.data import ImageNetInfo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--calibration",
        type=Path,
        help="photographs to calibrate on; their labels are not used (default: bsds500/train beside the photos)",
    )
    arguments = parser.parse_args()
    info = ImageNetInfo()
    classes = {wnid: index for index, wnid in enumerate(info.label_names())}
    arguments.out.mkdir(parents=True, exist_ok=True)
    files = sorted(arguments.photos.resolve().glob("*.JPEG"))
    lines = [f"{file}, {classes[file.name.split('_')[0]]}" for file in files]
    (arguments.out / "photos.txt").write_text("\n".join(lines) + "\n")
    calibration = (arguments.calibration or arguments.photos.parent / "bsds500" / "train").resolve()
    (arguments.out / "calibration.txt").write_text(
        "".join(f"{file}, 0\n" for file in sorted(calibration.glob("*.jpg")))
    )
    with (arguments.out / "classes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "id"])
        # Two classes are both called "crane"; the wnid keeps names apart.
        writer.writerows((f"{info.index_to_description(index)} ({wnid})", index) for wnid, index in classes.items())
    print(f"{len(lines)} photos, lists in {arguments.out}")


if __name__ == "__main__":
    main()
