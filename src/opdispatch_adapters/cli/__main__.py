"""``python -m opdispatch_adapters.cli`` is the program ``opdispatch``."""

from .entry import main

if __name__ == "__main__":
    main()
