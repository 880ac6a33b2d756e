"""The command line: one module a command, a function with its options as arguments.

Results go to stdout, progress and warnings to stderr. The exit status is 0, or 1 for a negative answer (``doctor``
found a problem, pairs of a batch failed), or 2 for input that cannot be used, with one sentence on stderr.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper

from stereopsis.cli.console import fail, warn, warnings_of_this_command
from stereopsis.cli.guard import guarded

DESCRIPTION = "Depth from a stereo camera: matching, metric depth and point clouds."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after the program's name, those of the process if not given.

    Returns:
        The exit status: 0, 1 or 2 as above; 130 after an interruption.
    """
    for stream in (sys.stdout, sys.stderr):
        # consoles of other encodings (cp932, gbk, cp437) lack the frames of the help
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        from stereopsis import __version__

        print(__version__)
        return 0
    warnings_of_this_command.clear()
    with warnings.catch_warnings():
        # Pillow's, of images that we read in tiles
        warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")
        warnings.showwarning = lambda message, *_, **__: warn(str(message))
        try:
            return _dispatch(words or ["--help"]) or 0
        except SystemExit as done:  # help, or an option that the parser refused
            return done.code if isinstance(done.code, int) else 0
        except KeyboardInterrupt:
            return fail("interrupted.", 130)
        except BrokenPipeError:
            # The reader of our output left, as `head` does; Python would complain again while it flushes stdout.
            sys.stdout = None
            return 0
        except (ValueError, OSError, ImportError) as error:
            return fail(_sentence(error))
        except (MemoryError, RuntimeError) as error:
            from stereopsis.ops.memory import is_out_of_memory

            if not is_out_of_memory(error):
                raise
            return fail("There is not enough memory for images of this size; shrink them or lower --max-disparity.")


def _dispatch(words: list[str]) -> int | None:
    from tyro import conf
    from tyro.extras import SubcommandApp

    from stereopsis.cli import (
        bench,
        calibrate,
        compress,
        convert,
        decompress,
        demo,
        depth,
        doctor,
        export,
        import_,
        info,
        match,
        models,
        photos,
        pipeline,
        rectify,
        restore,
        scenes,
        serve,
        train,
        upsample,
        view,
    )
    from stereopsis.cli.evaluate import compression, depth_rate, matching, upsampling

    app, evaluation = SubcommandApp(), SubcommandApp()
    app.command(guarded(demo.demo))
    app.command(guarded(match.match))
    app.command(guarded(depth.depth))
    app.command(guarded(pipeline.pipeline))
    app.command(guarded(upsample.upsample))
    app.command(guarded(restore.restore))
    app.command(guarded(restore.smooth))
    app.command(guarded(compress.compress))
    app.command(guarded(decompress.decompress))
    app.command(guarded(info.info))
    app.command(guarded(calibrate.board))
    app.command(guarded(calibrate.calibrate))
    app.command(guarded(rectify.rectify))
    app.command(guarded(convert.convert))
    app.command(guarded(doctor.doctor))
    app.command(guarded(view.view))
    app.command(guarded(serve.serve))
    evaluation.command(guarded(matching.matching))
    evaluation.command(guarded(upsampling.upsampling))
    evaluation.command(guarded(compression.compression))
    evaluation.command(guarded(depth_rate.depth_rate))
    app.command(evaluation, name="evaluate", help="Measure a model against ground truth.")
    app.command(guarded(models.models))
    app.command(guarded(export.export))
    app.command(guarded(bench.bench))
    app.command(name="import")(guarded(import_.import_))
    app.command(guarded(train.train))
    app.command(guarded(scenes.scenes))
    app.command(guarded(photos.photos))
    # Flags without a "no-" twin, LEFT and RIGHT instead of types, and no literal None in the help.
    config = (conf.FlagCreatePairsOff, conf.PositionalMetavarFromFieldName, conf.DisallowNone)
    return app.cli(prog="stereopsis", description=DESCRIPTION, args=words, config=config)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'The system'}: {error.strerror}."
    return " ".join(str(error).split()) or type(error).__name__
