"""How the tools speak: one rich console, log lines once, user errors as one clear line."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable

from rich.console import Console
from rich.logging import RichHandler

#: Logs and pipes get lines wide enough for the tables; a terminal has its own width.
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 120)


def run_tool(main: Callable[[], None]) -> None:
    """Runs a tool's `main`; a user's mistake ends it with one line on stderr and exit status 2.

    The package raises ValueError, OSError or a subclass for what the user can mend; anything else is a bug and keeps
    its traceback.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)], force=True
    )
    # Lightning's own lines (accelerators it did not find, products to try) say nothing about the run.
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*", category=DeprecationWarning)
    warnings.filterwarnings("ignore", module=r"lightning\..*", category=FutureWarning)
    try:
        main()
    except (ValueError, OSError) as error:
        console.file.flush()
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        logging.getLogger(__name__).debug("traceback", exc_info=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None
