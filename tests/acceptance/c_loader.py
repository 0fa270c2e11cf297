"""Does a program that knows nothing of Python get the answers that Python gets?

    python tests/acceptance/c_loader.py [--saved_model=saved_models/mine/trial_0/1]

Compiles `c_loader.c` against the libraries and headers in the TensorFlow wheel, has it
load the SavedModel by TensorFlow's C API, and sends it requests through all signatures:
sound ones, whose answers must be those of the SavedModel loaded in Python to 1e-5, and
wrong ones, which must come back as an error with a sentence. C sends what Python would
refuse to, since nothing but the graph itself checks a request there. At the end the
first request must get its first answer again.
"""

import argparse
import io
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2
from untrained_model import export_untrained

CLOSE = 1e-5
INVALID_ARGUMENT = 3


@dataclass(frozen=True)
class Request:
    """A request and what is expected of it.

    Attributes:
        name: Unique.
        signature: Name of the signature.
        inputs: Arrays by name; strings as arrays of objects.
        error: What the error must say; none is expected where this is empty.
    """

    name: str
    signature: str
    inputs: dict[str, np.ndarray]
    error: str = ""


def main(saved_model: Path | None) -> int:
    """Compares all answers, and prints how far they are apart.

    Returns:
        The number of requests that were answered as they should be.

    Raises:
        AssertionError: If one was not.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        saved_model = saved_model or export_untrained(folder / "model" / "1")
        program = compile_program(folder)
        loaded = tf.saved_model.load(str(saved_model))
        asked = requests(loaded)
        script = write_requests(asked, signature_tensors(saved_model), folder)
        answers = run_program(program, saved_model, script)
    assert [answer["request"] for answer in answers] == [one.name for one in asked]
    assert answers[0]["outputs"] == answers[-1]["outputs"]
    largest: dict[str, float] = {}
    for request, answer in zip(asked, answers, strict=True):
        if request.error:
            check_error(request, answer)
        else:
            for name, difference in differences(loaded, request, answer).items():
                largest[name] = max(largest.get(name, 0.0), difference)
    for name, difference in sorted(largest.items()):
        print(f"{name}: {difference:.1e} apart at most")
    assert max(largest.values()) <= CLOSE
    wrong = sum(bool(request.error) for request in asked)
    print(f"{len(asked) - wrong} requests answered as in Python, {wrong} refused.")
    return len(answers)


def compile_program(folder: Path) -> Path:
    """Compiles the C program with what the TensorFlow wheel brings."""
    program, library = folder / "c_loader", tf.sysconfig.get_lib()
    command = [
        *("gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-O1"),
        *(str(Path(__file__).with_suffix(".c")), "-o", str(program)),
        *(f"-I{tf.sysconfig.get_include()}", f"-L{library}", f"-Wl,-rpath,{library}"),
        # The wheel has no libtensorflow_cc.so, which -ltensorflow_cc would look for.
        *("-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"),
    ]
    subprocess.run(command, check=True)
    return program


def run_program(program: Path, saved_model: Path, script: Path) -> list[dict]:
    """Returns the answers; prints how the program ended if it did not end well."""
    ended = subprocess.run(
        [program, saved_model, script], capture_output=True, text=True, check=False
    )
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    if ended.returncode != 0:
        last = answers[-1]["request"] if answers else "none"
        print(f"{ended.stderr[-2000:]}\nlast request answered: {last}")
    assert ended.returncode == 0, ended.returncode
    return answers


def signature_tensors(saved_model: Path) -> dict[str, tuple[dict, dict]]:
    """Reads names of tensors: signature to inputs and outputs, name to tensor."""
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((saved_model / "saved_model.pb").read_bytes())
    (graph,) = message.meta_graphs
    return {
        name: tuple(
            {key: info.name for key, info in infos.items()}
            for infos in (signature.inputs, signature.outputs)
        )
        for name, signature in graph.signature_def.items()
    }


def requests(loaded: tf.Module) -> list[Request]:
    """Makes all requests, the first one again as the last."""
    random = np.random.default_rng(0)
    specs = loaded.signatures["embed"].structured_input_signature[1]
    side = specs["images"].shape[1] or 32

    def images(*shape: int) -> dict[str, np.ndarray]:
        return {"images": random.uniform(0, 255, shape).astype(np.float32)}

    first = images(5, side, side, 3)
    not_finite = images(4, side, side, 3)
    not_finite["images"][1:, 0, 0, 0] = [np.nan, np.inf, -np.inf]
    sound = [
        Request("images", "serving_default", first),
        Request("one", "serving_images", images(1, side, side, 3)),
        Request("resized", "serving_images", images(3, 21, 34, 3)),
        Request("many", "serving_default", images(300, side, side, 3)),
        Request("none", "serving_default", images(0, side, side, 3)),
        Request("not_finite", "serving_default", not_finite),
        Request("embed", "embed", images(3, side, side, 3)),
        Request("embed_none", "embed", images(0, side, side, 3)),
        Request("files", "serving_bytes", strings(*image_files(random))),
        Request("no_files", "serving_bytes", strings()),
        Request(
            "threshold", "serving_images_threshold", first | thresholds(0, 0, 1, 2, 2)
        ),
    ]
    if "serving_images_xla" in loaded.signatures:
        sound.append(Request("xla", "serving_images_xla", first))
    last = Request("again", "serving_default", first)
    return [*sound, *wrong_requests(first, image_files(random)[0]), last]


def wrong_requests(images: dict[str, np.ndarray], file: bytes) -> list[Request]:
    """Makes requests that are to be refused, for five images and a file."""
    count, *sides = images["images"].shape[:3]

    def shaped(*shape: int) -> dict[str, np.ndarray]:
        return {"images": np.zeros(shape, np.float32)}

    def threshold(name: str, error: str, *values: float) -> Request:
        return Request(
            name, "serving_images_threshold", images | thresholds(*values), error
        )

    def bytes_(name: str, array: np.ndarray, error: str) -> Request:
        return Request(name, "serving_bytes", {"image_bytes": array}, error)

    # Of files in a wrong shape TensorFlow says something, if not much.
    must_be, range_ = "`images` must be", "`threshold` must lie between"
    whole = {"images": images["images"].astype(np.int32)}
    return [
        Request("rank_3", "serving_default", shaped(*sides, 3), must_be),
        Request("rank_0", "serving_default", shaped(), must_be),
        Request("rank_5", "serving_default", shaped(1, 1, *sides, 3), must_be),
        Request("4_channels", "serving_default", shaped(2, *sides, 4), must_be),
        Request("no_side", "serving_default", shaped(2, 0, 0, 3), must_be),
        Request("embed_rank_3", "embed", shaped(*sides, 3), must_be),
        Request("integers", "serving_default", whole, "int32"),
        threshold("too_large", range_, *([0.5] * (count - 1)), 1e9),
        threshold("negative", range_, *([-0.5] * count)),
        threshold("not_a_number", range_, *([np.nan] * count)),
        threshold("too_few", "`threshold` must have one number per image", 0.5),
        bytes_("files_rank_0", np.array(file, object), " "),
        bytes_("files_rank_2", np.array([[file] * 3] * 2, object), " "),
        bytes_("files_of_one", np.array([[file]], object), " "),
        bytes_("many_files_rank_2", np.array([[file] * 2] * 300, object), " "),
    ]


def thresholds(*values: float) -> dict[str, np.ndarray]:
    """Returns the input `threshold`."""
    return {"threshold": np.array(values, np.float32)}


def strings(*files: bytes) -> dict[str, np.ndarray]:
    """Returns the input `image_bytes`."""
    return {"image_bytes": np.array(files, object)}


def image_files(random: np.random.Generator) -> list[bytes]:
    """Returns files of every format, sound ones first, and ones that are no image."""
    pixels = random.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    files = []
    for kind in ("PNG", "JPEG", "GIF", "BMP"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        files.append(stream.getvalue())
    cut_off = [file[: len(file) // 2] for file in files]
    return [*files, *cut_off, b"", b"no image \x00 at all", bytes(range(256))]


def write_requests(asked: list[Request], tensors: dict, folder: Path) -> Path:
    """Writes tensors, and the file that `c_loader.c` describes; returns its path."""
    lines = []
    for request in asked:
        inputs, outputs = tensors[request.signature]
        for key, array in request.inputs.items():
            file = folder / f"{request.name}_{key}"
            file.write_bytes(in_memory(array))
            kind = "string" if array.dtype == object else array.dtype.name
            sides = " ".join(map(str, (array.ndim, *array.shape)))
            lines.append(f"input {spaced(inputs[key])} {kind} {sides} {file}")
        lines += [f"output {key} {spaced(name)}" for key, name in outputs.items()]
        lines.append(f"run {request.name}")
    script = folder / "requests.txt"
    script.write_text("\n".join(lines) + "\n")
    return script


def spaced(tensor: str) -> str:
    """Returns operation and position of a tensor like `StatefulPartitionedCall:3`."""
    return tensor.replace(":", " ")


def in_memory(array: np.ndarray) -> bytes:
    """Returns numbers as they lie in memory, and strings led by their lengths."""
    if array.dtype != object:
        return array.tobytes()
    return b"".join(
        np.uint64(len(file)).tobytes() + file for file in array.ravel().tolist()
    )


def check_error(request: Request, answer: dict) -> None:
    """Checks that a request was refused for what is wrong with it."""
    message = " ".join(answer["message"].split())
    print(f"{request.name}: {message[:160]}")
    assert answer["code"] == INVALID_ARGUMENT, answer
    assert request.error in message
    assert not answer["outputs"]


def differences(loaded: tf.Module, request: Request, answer: dict) -> dict[str, float]:
    """Compares with Python's answer; returns how far its float outputs are apart."""
    assert answer["code"] == 0, answer
    signature = loaded.signatures[request.signature]
    expected = signature(
        **{
            key: tf.constant(array.tolist(), tf.string, array.shape)
            if array.dtype == object
            else tf.constant(array)
            for key, array in request.inputs.items()
        }
    )
    assert set(answer["outputs"]) == set(expected)
    found = {}
    for name, value in expected.items():
        given = answer["outputs"][name]
        assert given["shape"] == value.shape.as_list(), (request.name, name)
        values, theirs = given["values"], value.numpy().ravel()
        if value.dtype != tf.float32:
            texts = [one.decode() if type(one) is bytes else one for one in theirs]
            assert values == texts, (request.name, name)
            continue
        assert np.isfinite(values).all(), (request.name, name)
        found[name] = float(np.abs(np.float32(values) - theirs).max(initial=0.0))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saved_model", type=Path)
    main(**vars(parser.parse_args()))
