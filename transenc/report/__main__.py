"""report.html: a run, or several side by side, as one page that needs no network.

    python -m transenc.report RUN [RUN ...] [--out FILE]

RUN is a run folder, or that of a multirun, which stands for its runs. The page of one run goes to its own report.html,
that of several to the file that `--out` names, or to comparison.html in the current folder.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from transenc.errors import InputError, reason
from transenc.report.page import write_report


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m transenc.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    folders: list[Path] = []
    for folder in options.run:
        inside = sorted((path.parent for path in folder.glob("*/run.json")), key=lambda job: job.name.zfill(9))
        folders += [folder] if (folder / "run.json").exists() or not inside else inside
    folders = list({folder.resolve(): folder for folder in folders}.values())
    out = options.out or (folders[0] / "report.html" if len(folders) == 1 else Path("comparison.html"))
    try:
        write_report(folders, out)
    except (InputError, OSError) as error:
        print(error if isinstance(error, InputError) else f"{out}: {error.strerror}", file=sys.stderr)
        return 1
    except Exception as error:  # whatever a reader stumbles over in a damaged file
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        where = folders[0] if len(folders) == 1 else f"one of {len(folders)} runs"
        print(f"{where}: a file is damaged ({reason(error)}); run its command again", file=sys.stderr)
        return 1
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
