"""From a module to an ONNX file, and the engines that run one (extra `export`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.inference.backends.openvino_backend import import_openvino, quiet, signal_stack_kept

PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino")
OPSETS = range(18, 24)  # that torch's exporter writes
ONE_FILE = 1 << 30  # bytes of weights up to which they lie in the file itself, which may not have more than 2 GB

Named = Mapping[str, np.ndarray]
Engine = Callable[[Path], Callable[[Named], list[np.ndarray]]]


def refuse_missing_packages() -> None:
    """Raises RegardError, naming the extra, where a package that exports or checks is not installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise RegardError(f"export: needs {', '.join(missing)}; pip install 'regard[export]'")


def write_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    opset: int,
    varying: Mapping[str, Mapping[int, str]],
) -> None:
    """Writes what `module` computes of `inputs`, in their order, to `path`; large weights beside it (NAME.onnx.data).

    inputs: examples by name; a side that may vary is 2 or more in its example. varying: input -> side -> a name of it,
    the same where two are always alike. Raises RegardError where torch cannot draw the graph.
    """
    names = tuple(dict(varying.get(key, {})) for key in inputs)
    sides = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in names)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    try:
        with quiet(), torch.no_grad():
            # Strict: without that, `len(tensor)` is the number of the example.
            drawn = torch.export.export(module.eval(), tuple(inputs.values()), dynamic_shapes=sides, strict=True)
            program = torch.onnx.export(
                drawn,
                dynamo=True,
                opset_version=opset,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=names,  # their names in the file
                verbose=False,
            )
            assert program is not None
            program.save(path, external_data=weights > ONE_FILE)
    except OSError:
        raise
    except Exception as error:  # tracing and translating raise a dozen kinds between them
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RegardError(f"{path.name}: torch cannot draw its graph ({reason}); nothing is left of it") from None


def _onnx_runtime(path: Path) -> Callable[[Named], list[np.ndarray]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: [np.asarray(answer) for answer in session.run(None, dict(inputs))]


def _openvino(path: Path) -> Callable[[Named], list[np.ndarray]]:
    with signal_stack_kept():
        core = import_openvino().Core()
        compiled = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Named) -> list[np.ndarray]:
        answers: Any = compiled(dict(inputs))
        return [np.array(answers[number]) for number in range(len(compiled.outputs))]

    return run


ENGINES: Mapping[str, Engine] = {"ONNX Runtime": _onnx_runtime, "OpenVINO": _openvino}
