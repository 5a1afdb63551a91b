"""ModelOpt's own INT8 of an unmodified network: run by ``calibration_tools.py`` in a virtual environment of its own.

    python quantise_modelopt.py FOLDER IMAGES METHOD

It reads ``plain.onnx`` and so many of ``images.npy`` in the folder, and writes ``modelopt-METHOD.onnx`` there;
``defaults`` leaves the method to ModelOpt. It imports nothing of this project.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
from modelopt.onnx.quantization import quantize


def main() -> None:
    folder, count, method = sys.argv[1:]
    images = np.load(f"{folder}/images.npy", mmap_mode="r")[: int(count)]
    chosen = {} if method == "defaults" else {"calibration_method": method}
    name = onnx.load(f"{folder}/plain.onnx").graph.input[0].name
    quantize(
        f"{folder}/plain.onnx",
        quantize_mode="int8",
        calibration_data={name: np.ascontiguousarray(images)},
        calibration_eps=["cpu"],
        output_path=f"{folder}/modelopt-{method}.onnx",
        **chosen,
    )


if __name__ == "__main__":
    main()
