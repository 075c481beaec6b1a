"""``python -m steersman`` is the command ``steersman``."""

from steersman.cli import main

if __name__ == "__main__":
    main()
