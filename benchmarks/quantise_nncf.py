"""NNCF's own INT8 of an unmodified network: run by ``engines.py`` in a virtual environment of its own.

    python quantise_nncf.py MODEL.onnx IMAGES.npy OUTPUT.xml

It imports nothing of this project: what is compared with is NNCF as its documentation says to use it, post-training
quantisation with the mixed preset, which is its advice for networks with gates other than ReLU.
"""

from __future__ import annotations

import sys

import nncf
import numpy as np
import openvino as ov


def main() -> None:
    source, images, output = sys.argv[1:]
    model = ov.Core().read_model(source)
    array = np.load(images)
    dataset = nncf.Dataset([array[index : index + 1] for index in range(len(array))])
    quantised = nncf.quantize(model, dataset, preset=nncf.QuantizationPreset.MIXED, subset_size=len(array))
    ov.save_model(quantised, output, compress_to_fp16=False)
    print(f"NNCF {nncf.__version__}")


if __name__ == "__main__":
    main()
