r"""Answers for image files, with a class or `unknown`, by an exported model.

python -m pmal_tf.predict --saved_model=saved_models/cifar10/trial_0/1 photo.jpg photos/

The folder of the SavedModel is all that it needs. IMAGE may be a file; a folder, whose
JPEG, PNG, GIF and BMP files are found at any depth, but for hidden ones; a pattern in
quotes, such as 'photos/**/*.jpg'; or - for standard input, which is an image or a list
of file names, one per line.

The table has, for each image, the class or `unknown`; the score, which is larger the
more likely the image is unknown; the most probable known class, with its probability;
and the training image that speaks most for the nearest class, where the model's
distances rest on such images. --format=json writes one object per image and line.
Bytes of a file name that are not UTF-8 are written as \xff.

At the end, standard error has the share of unknown images. Watch it: a model
that is shown other things than it was made for rejects more than its threshold was set
to reject.

Exit status: 0 if every image was answered; 1 if the command was used wrongly, or no
image was found; 2 if some images could not be read.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tqdm import tqdm

from pmal_tf.runtime.console import plain_messages
from pmal_tf.runtime.errors import PmalError, first_line, is_disk_full
from pmal_tf.serving.answer_text import Table, describe_share, json_lines
from pmal_tf.serving.exported import find_version, read_exported
from pmal_tf.serving.image_files import ImageFile, find_images, read_in_batches

if TYPE_CHECKING:
    from pmal_tf.serving.client import Answer, ServedModel

# What shells expect of a process that SIGINT or SIGPIPE ended.
_INTERRUPTED, _PIPE_CLOSED = 130, 141
_SOME_UNREADABLE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Answers for the images that the command line names; returns the exit status.

    Args:
        argv: The arguments; those of the process if None.

    Raises:
        SystemExit: With a message where the command was used wrongly.
    """
    plain_messages()
    try:
        return _predict(_parse(sys.argv[1:] if argv is None else argv))
    except PmalError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return _PIPE_CLOSED
    except OSError as error:
        if not is_disk_full(error):
            raise
        _drop_output()
        sys.exit(
            "Error: The disk must have room for the answers. Received: "
            f"{first_line(error)}. Make room, and start the command anew."
        )


class _Parser(argparse.ArgumentParser):
    """Tells of mistakes as the rest of the package does."""

    def error(self, message: str) -> NoReturn:
        """Raises what is wrong with the command line as a PmalError."""
        raise PmalError(f"{message}. `{self.prog} --help` shows the usage.")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Not with absl's flags as `pmal_tf.run`: options may follow images here, and images
    are what the command line is about.
    """
    parser = _Parser(
        prog="python -m pmal_tf.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--saved_model",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="an exported version, or a folder of versions: then the newest intact one",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="scores above it are unknown, in place of the model's own threshold",
    )
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="default: table"
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        default=32,
        metavar="N",
        help="images held in memory and answered at a time; default: 32",
    )
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="a file, folder, pattern, or -"
    )
    # Python 3.11 takes no `--` among options and images in any order.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given = parser.parse_intermixed_args(arguments[:end])
    given.images += arguments[end + 1 :]
    if (size := given.batch_size) < 1:
        parser.error(
            f"`--batch_size` must be at least 1. Received: --batch_size={size}"
        )
    if not given.images:
        parser.error("Images to answer for must be named. Received: none")
    return given


def _predict(given: argparse.Namespace) -> int:
    """Writes the answers to stdout and the share to stderr; returns the exit status."""
    folder, remark = find_version(given.saved_model)
    exported = read_exported(folder)
    files = list(find_images(given.images, getattr(sys.stdin, "buffer", None)))
    if all(file.problem for file in files):
        more = f", and {len(files) - 1} more" if len(files) > 1 else ""
        raise PmalError(
            "There must be an image to answer for. Received: "
            f"{files[0].path!r}: {files[0].problem}{more}. Name files, folders, "
            "patterns in quotes, or - for standard input."
        )
    if remark:
        sys.stderr.write(f"{remark}\n")
    # TensorFlow takes seconds to import; most mistakes are reported before.
    from pmal_tf.serving.client import ServedModel

    model = ServedModel(exported, given.threshold)
    paths = (file.path for file in files)
    as_table = given.format == "table"
    render = Table(paths, exported.class_names).lines if as_table else json_lines
    readable = unknown = 0
    # Where the terminal's encoding lacks a letter of a name, the letter is escaped.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    for rows in _answered(model, files, given.batch_size):
        sys.stdout.write(render(rows))
        sys.stdout.flush()
        answers = [answer for _, answer in rows if answer.error is None]
        readable += len(answers)
        unknown += sum(answer.is_unknown for answer in answers)
    unreadable = len(files) - readable
    share = describe_share(
        unknown,
        readable,
        unreadable,
        promise=exported.promise,
        given_threshold=given.threshold,
    )
    sys.stderr.write(f"{share}\n")
    return _SOME_UNREADABLE if unreadable else 0


def _answered(
    model: ServedModel, files: Sequence[ImageFile], batch_size: int
) -> Iterator[list[tuple[str, Answer]]]:
    """Yields paths and answers, batch by batch, with a bar of progress on a terminal.

    Rows that appear on the same terminal are progress enough.
    """
    from pmal_tf.serving.client import Answer

    silent = len(files) <= batch_size or not sys.stderr.isatty() or sys.stdout.isatty()
    with tqdm(total=len(files), unit=" images", disable=silent) as bar:
        for batch in read_in_batches(files, batch_size):
            contents = (file.contents for file in batch)
            answers = iter(model.answer([c for c in contents if c is not None]))
            yield [
                (
                    file.path,
                    Answer(threshold=model.threshold, error=file.problem)
                    if file.contents is None
                    else next(answers),
                )
                for file in batch
            ]
            bar.update(len(batch))


def _drop_output() -> None:
    """Lets what stdout still holds go nowhere: at exit it could not be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
