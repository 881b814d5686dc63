"""python -m examples.serve [--checkpoint DIR] [--host HOST] [--port PORT] [--max-bytes N …]"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import fields

from foveal.errors import FovealError
from foveal.tools.box import load_boxed
from foveal.tools.trained import load_trained

from .app import create_app
from .limits import Limits
from .server import run


def main(argv: Sequence[str] | None = None) -> int:
    """Serve; exit code 0, or 2 for what cannot be used."""
    parser = ArgumentParser(prog="python -m examples.serve", description=__doc__)
    parser.add_argument("--checkpoint", help="of `foveal train` (default: the model in the box)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free")
    for field in fields(Limits):
        flag, kind = f"--{field.name.replace('_', '-')}", type(field.default)
        parser.add_argument(flag, type=kind, default=field.default, help="default: %(default)s")
    given = vars(parser.parse_args(argv))
    checkpoint, host, port = (given.pop(name) for name in ("checkpoint", "host", "port"))
    try:
        limits = Limits(**given)
        trained = load_boxed() if checkpoint is None else load_trained(checkpoint)
        run(create_app(trained, limits), limits, host=host, port=port)
    except FovealError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
