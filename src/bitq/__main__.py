"""`bitq`, and `python -m bitq`: an interrupt is told in a sentence before anything else is loaded."""

from bitq.interrupts import interrupts


def main() -> None:
    """Run the command that `sys.argv` gives, and exit."""
    interrupts.start()
    from bitq.cli import main as command

    command()


if __name__ == "__main__":
    main()
